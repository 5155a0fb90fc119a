// A sliding window in the 32-bit numbers of a kernel's task.
#pragma once

#include <algorithm>

#include "base/check.h"
#include "runtime/ops/window.h"

namespace forebay::cuda {

inline constexpr std::int64_t kMostCounted = std::int64_t{1} << 30;  // elements that kernels count in 32 bits

// Fills in, out, kernel, stride, dilation and pad of `task`, and pad_end, taps and the sizes where it has them. Unsupported where 32 bits
// may not hold a number of the window or a place that it reaches.
template <typename Task>
Status set_window(const NodeView& node, const ops::Window& window, Task& task) {
  for (std::size_t d = 0; d < 3; ++d) {
    const std::int64_t pads = window.pad[d] + window.pad_end[d];
    for (const std::int64_t number : {std::max(window.in[d], window.out[d]) + pads, window.kernel[d], window.stride[d], window.dilation[d],
                                      window.kernel[d] * window.dilation[d]}) {
      if (number > kMostCounted) return node.unsupported("sizes beyond 32 bits");
    }
    task.in[d] = static_cast<int>(window.in[d]);
    task.out[d] = static_cast<int>(window.out[d]);
    task.kernel[d] = static_cast<int>(window.kernel[d]);
    task.stride[d] = static_cast<int>(window.stride[d]);
    task.dilation[d] = static_cast<int>(window.dilation[d]);
    task.pad[d] = static_cast<int>(window.pad[d]);
    if constexpr (requires { task.pad_end; }) task.pad_end[d] = static_cast<int>(window.pad_end[d]);
  }
  if (window.in_size() > kMostCounted || window.out_size() > kMostCounted) return node.unsupported("planes beyond 32 bits");
  if constexpr (requires { task.taps; }) {
    task.taps = static_cast<int>(window.taps());
    task.in_size = static_cast<int>(window.in_size());
    task.out_size = static_cast<int>(window.out_size());
  }
  return {};
}

// That and a convolution's sizes: input [batch, channels, ...], `filters` of all groups.
template <typename Task>
Status set_conv(const NodeView& node, const ops::Window& window, std::span<const std::int64_t> input, std::int64_t filters, Task& task) {
  for (const std::int64_t count :
       {input[0] * window.out_size(), filters * window.taps(), input[1] * window.taps(), input[1] * window.in_size()}) {
    if (count > kMostCounted) return node.unsupported("sizes beyond 32 bits");
  }
  task.batch = static_cast<int>(input[0]);
  task.groups = static_cast<int>(node.integer("group", 1));
  task.all_filters = static_cast<int>(filters);
  return set_window(node, window, task);
}

}  // namespace forebay::cuda
