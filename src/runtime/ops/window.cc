#include "runtime/ops/window.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

constexpr std::int64_t kMostStep = std::int64_t{1} << 31;  // keeps every product of window arithmetic far from overflow

Result<std::vector<std::int64_t>> per_axis(const NodeView& node, std::string_view name, std::size_t count, std::int64_t otherwise,
                                           std::int64_t smallest) {
  const auto given = node.integers(name);
  std::vector<std::int64_t> values(given.begin(), given.end());
  if (values.empty()) values.assign(count, otherwise);
  if (values.size() != count) {
    return node.invalid(std::string(name) + " has " + std::to_string(values.size()) + " entries, " + std::to_string(count) + " are needed");
  }
  for (const std::int64_t value : values) {
    if (value < smallest || value > kMostStep) return node.invalid(std::string(name) + " holds " + std::to_string(value));
  }
  return values;
}

std::int64_t extent(const WindowSpec& spec, std::size_t axis) { return (spec.kernel[axis] - 1) * spec.dilations[axis] + 1; }

}  // namespace

Result<WindowSpec> window_spec(const NodeView& node, std::size_t spatial, std::span<const std::int64_t> kernel) {
  WindowSpec spec;
  const auto attribute = node.integers("kernel_shape");
  spec.kernel.assign(kernel.begin(), kernel.end());
  if (spec.kernel.empty()) spec.kernel.assign(attribute.begin(), attribute.end());
  if (spec.kernel.size() != spatial) {
    return node.invalid("the window has " + std::to_string(spec.kernel.size()) + " axes, the input " + std::to_string(spatial));
  }
  for (std::size_t i = 0; i < spatial; ++i) {
    if (spec.kernel[i] < (kernel.empty() ? 1 : -1) || spec.kernel[i] > kMostStep) return node.invalid("kernel_shape holds " + std::to_string(spec.kernel[i]));
    if (!kernel.empty() && i < attribute.size() && spec.kernel[i] >= 0 && attribute[i] != spec.kernel[i]) {
      return node.invalid("kernel_shape " + dims_text(attribute) + " is not that of the weight, " + dims_text(kernel));
    }
  }
  FB_ASSIGN(spec.strides, per_axis(node, "strides", spatial, 1, 1));
  FB_ASSIGN(spec.dilations, per_axis(node, "dilations", spatial, 1, 1));
  FB_ASSIGN(const std::vector<std::int64_t> pads, per_axis(node, "pads", spatial * 2, 0, -kMostStep));
  spec.pads_begin.assign(pads.begin(), pads.begin() + static_cast<std::ptrdiff_t>(spatial));
  spec.pads_end.assign(pads.begin() + static_cast<std::ptrdiff_t>(spatial), pads.end());
  const std::string_view mode = node.text("auto_pad", "NOTSET");
  if (mode == "SAME_UPPER") {
    spec.auto_pad = AutoPad::same_upper;
  } else if (mode == "SAME_LOWER") {
    spec.auto_pad = AutoPad::same_lower;
  } else if (mode == "VALID") {
    spec.auto_pad = AutoPad::valid;
    spec.pads_begin.assign(spatial, 0);
    spec.pads_end.assign(spatial, 0);
  } else if (mode != "NOTSET" && !mode.empty()) {
    return node.invalid("auto_pad is '" + std::string(mode) + "'");
  }
  spec.ceil_mode = node.integer("ceil_mode", 0) != 0;
  return spec;
}

std::int64_t window_output(const WindowSpec& spec, std::size_t axis, std::int64_t input) {
  if (input < 0 || spec.kernel[axis] < 0) return -1;
  const std::int64_t stride = spec.strides[axis];
  if (spec.auto_pad == AutoPad::same_upper || spec.auto_pad == AutoPad::same_lower) return (input + stride - 1) / stride;
  const std::int64_t room = input + spec.pads_begin[axis] + spec.pads_end[axis] - extent(spec, axis);
  if (room < 0) return 0;
  std::int64_t output = room / stride + 1;
  if (spec.ceil_mode) {
    output = (room + stride - 1) / stride + 1;
    if ((output - 1) * stride >= input + spec.pads_begin[axis]) --output;  // a window must start inside of the input or its left padding
  }
  return output;
}

Result<Window> resolve_window(const NodeView& node, const WindowSpec& spec, std::span<const std::int64_t> input) {
  const std::size_t spatial = spec.kernel.size();
  if (spatial > kMostSpatial) return node.unsupported(std::to_string(spatial) + " spatial axes; up to 3 are served");
  Window window;
  window.spatial = static_cast<int>(spatial);
  for (std::size_t i = 0; i < spatial; ++i) {
    const std::size_t at = i + kMostSpatial - spatial;
    window.in[at] = input[i];
    window.out[at] = window_output(spec, i, input[i]);
    window.kernel[at] = spec.kernel[i];
    window.stride[at] = spec.strides[i];
    window.dilation[at] = spec.dilations[i];
    window.pad[at] = spec.pads_begin[i];
    window.pad_end[at] = spec.pads_end[i];
    if (spec.auto_pad == AutoPad::same_upper || spec.auto_pad == AutoPad::same_lower) {
      const std::int64_t total = std::max<std::int64_t>(0, (window.out[at] - 1) * spec.strides[i] + extent(spec, i) - input[i]);
      window.pad[at] = spec.auto_pad == AutoPad::same_upper ? total / 2 : total - total / 2;
      window.pad_end[at] = total - window.pad[at];
    }
  }
  return window;
}

}  // namespace forebay::ops
