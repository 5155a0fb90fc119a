// A convolution through oneDNN, on one thread, of NCHW tensors or ranges of their rows: layouts that it prefers are reached by reorders in the workspace. Fixed shape, made in
// prepare. Null where this build or machine has none: callers keep our own kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "forebay/status.h"

namespace forebay::cpu {

struct DnnlConvShape {
  std::int64_t batch = 0, channels = 0, filters = 0, groups = 1;
  std::vector<std::int64_t> in, out, kernel, stride, dilation, pad_begin, pad_end;  // spatial axes
  bool bias = false;
  // x and y may be ranges of the first spatial axis of larger tensors: distances between images and between channels, in elements.
  std::int64_t x_image = 0, x_channel = 0, y_image = 0, y_channel = 0;
};

class DnnlConv {
 public:
  virtual ~DnnlConv() = default;
  static std::unique_ptr<DnnlConv> create(const DnnlConvShape& shape);
  virtual std::uint64_t scratch_bytes() const = 0;
  virtual Status run(const float* x, const float* w, const float* bias, float* y, std::byte* scratch) = 0;
};

}  // namespace forebay::cpu
