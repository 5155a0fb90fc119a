// The patches of a convolution as columns of a matrix, packed straight from the input: B of gemm_blocked without the matrix in memory.
#pragma once

#include <array>

#include "runtime/cpu/gemm_blocked.h"

namespace forebay::cpu {

// Row r is tap (channel, kd, kh, kw) in that order; column c is output position (od, oh, ow).
struct ConvPanels final : GemmPanels {
  const float* in = nullptr;  // [channels, in...]
  std::array<std::int64_t, 3> in_dims, out_dims, kernel, stride, dilation, pad;
  void pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count, std::int64_t width, float* to) const override;
};

}  // namespace forebay::cpu
