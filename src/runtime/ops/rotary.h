// RotaryEmbedding (opset 23), and com.microsoft's, whose positions come before the caches and may be one offset for all.
#pragma once

#include <cstdint>

#include "runtime/op.h"

namespace forebay::ops {

// Turns the first 2 * half elements of a head; y may be x.
template <typename T>
void rotate_head(const T* x, const T* cos, const T* sin, T* y, std::int64_t half, bool interleaved) {
  for (std::int64_t j = 0; j < half; ++j) {
    const std::int64_t first = interleaved ? 2 * j : j, second = interleaved ? 2 * j + 1 : j + half;
    const T a = x[first], c = x[second];
    y[first] = cos[j] * a - sin[j] * c;
    y[second] = sin[j] * a + cos[j] * c;
  }
}

Status infer_rotary(InferContext& context);
Result<std::unique_ptr<Kernel>> create_rotary(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);

}  // namespace forebay::ops
