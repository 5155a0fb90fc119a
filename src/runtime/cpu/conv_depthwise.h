// One plane of a depthwise convolution (one input channel, one filter), any strides, dilations and pads in up to three axes.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/cpu/gemv_isa.h"

namespace forebay::cpu {

struct DepthwisePlane {
  std::array<std::int64_t, 3> in, out, kernel, stride, dilation, pad;  // depth, height, width
};
// Taps of a filter that the kernel takes.
inline constexpr std::int64_t kMostDepthwiseTaps = 512;
std::int64_t depthwise_scratch_floats(const DepthwisePlane& plane);
void depthwise_plane(InstructionSet set, const DepthwisePlane& plane, const float* in, const float* weights, float bias, float* out, float* scratch);

}  // namespace forebay::cpu
