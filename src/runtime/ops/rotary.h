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

// Inputs: X, cos_cache, sin_cache, position_ids. Without ids the caches are [batch, sequence, rotated / 2].
// com.microsoft: X, position_ids, cos_cache, sin_cache. One id alone is the position of the first row of every sequence.
struct RotaryDims {
  std::size_t cos = 1, sin = 2, ids = 3;
  bool vendor = false;
  std::int64_t batch = 0, heads = 1, sequence = 0, head = 0, rotated = 0, positions = 0;
  bool packed = false, interleaved = false, with_ids = false, offset = false;
};
Result<RotaryDims> rotary_dims(const PrepareContext& context);

Status infer_rotary(InferContext& context);
Result<std::unique_ptr<Kernel>> create_rotary(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);

}  // namespace forebay::ops
