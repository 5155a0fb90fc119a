// The sliding window of convolutions and pools: attributes, padding rules and sizes, up to three spatial axes (shorter ones get leading ones).
#pragma once

#include <array>
#include <vector>

#include "runtime/op.h"

namespace forebay::ops {

inline constexpr int kMostSpatial = 3;

enum class AutoPad : std::uint8_t { none, same_upper, same_lower, valid };

// As the attributes say it, one entry a spatial axis.
struct WindowSpec {
  std::vector<std::int64_t> kernel, strides, dilations, pads_begin, pads_end;
  AutoPad auto_pad = AutoPad::none;
  bool ceil_mode = false;
};
// `kernel` from the weight for convolutions; from kernel_shape when empty. Checks lengths, signs and sizes.
Result<WindowSpec> window_spec(const NodeView& node, std::size_t spatial, std::span<const std::int64_t> kernel);

// Size of one output axis, -1 when the input's is unknown.
std::int64_t window_output(const WindowSpec& spec, std::size_t axis, std::int64_t input);

// With known sizes, in three axes.
struct Window {
  int spatial = 0;
  std::array<std::int64_t, 3> in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1}, pad{0, 0, 0}, pad_end{0, 0, 0};
  std::int64_t in_size() const { return in[0] * in[1] * in[2]; }
  std::int64_t out_size() const { return out[0] * out[1] * out[2]; }
  std::int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};
Result<Window> resolve_window(const NodeView& node, const WindowSpec& spec, std::span<const std::int64_t> input);

}  // namespace forebay::ops
