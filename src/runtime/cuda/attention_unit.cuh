// What every attention kernel must agree on: where rows lie, what a row may see, what a mask does, what an empty row gives.
#pragma once

#include "runtime/cuda/attention_task.h"
#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

inline constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

struct Unit {
  std::int64_t b, kv_head, group;
  __device__ Unit(const AttentionTask& t, std::int64_t index)
      : b(index / t.kv_heads), kv_head(index % t.kv_heads), group(t.q_heads / t.kv_heads) {}
  __device__ Unit(int batch, int head, int heads_of_a_key) : b(batch), kv_head(head), group(heads_of_a_key) {}
  __device__ std::int64_t head(const AttentionTask& t, std::int64_t row) const { return kv_head * group + row / t.queries; }
  __device__ std::int64_t place(const AttentionTask& t, const std::int64_t (&strides)[3], std::int64_t row) const {
    return b * strides[0] + head(t, row) * strides[1] + row % t.queries * strides[2];
  }
  template <typename T>
  __device__ const T* key(const AttentionTask& t, const void* now, const void* past, const std::int64_t (&strides)[3], std::int64_t j,
                          std::int64_t width) const {
    if (j < t.past) return static_cast<const T*>(past) + ((b * t.kv_heads + kv_head) * t.past + j) * width;
    return static_cast<const T*>(now) + b * strides[0] + kv_head * strides[1] + (j - t.past) * strides[2];
  }
  // How many keys a row may see: the rest never counts, whatever lies there.
  __device__ std::int64_t visible(const AttentionTask& t, std::int64_t row) const {
    std::int64_t count = t.past + t.keys;
    if (t.causal) count = min(count, row % t.queries + (t.befores != nullptr ? t.befores[b] : t.past) + 1);
    if (t.lengths != nullptr) count = min(count, t.lengths[b]);
    if (t.mask != nullptr) count = min(count, t.mask_length);
    return max(count, std::int64_t{0});
  }
  __device__ std::int64_t mask_row(const AttentionTask& t, std::int64_t row) const {
    return b * t.mask_strides[0] + head(t, row) * t.mask_strides[1] + row % t.queries * t.mask_strides[2];
  }
};

// What element `at` of the mask adds; of a boolean mask 0 or minus infinity.
__device__ inline float mask_value(const AttentionTask& t, std::int64_t at) {
  switch (t.mask_type) {
    case DType::f32:
      return static_cast<const float*>(t.mask)[at];
    case DType::f16:
      return widen(static_cast<const __half*>(t.mask)[at]);
    case DType::bf16:
      return widen(static_cast<const __nv_bfloat16*>(t.mask)[at]);
    default:
      return static_cast<const std::uint8_t*>(t.mask)[at] != 0 ? 0.0f : -INFINITY;
  }
}

__device__ inline float capped(const AttentionTask& t, float score) {
  score *= t.scale;
  return t.softcap != 0.0f ? t.softcap * tanhf(score / t.softcap) : score;
}

__device__ inline float masked_by(const AttentionTask& t, float added, float score) {
  const bool filled = t.mask_type == DType::boolean && added != 0.0f && t.mask_fill != -INFINITY;
  return filled ? t.mask_fill : score + added;
}
__device__ inline float masked(const AttentionTask& t, std::int64_t at, float score) {
  return masked_by(t, mask_value(t, at), score);
}

__device__ inline float finite_or_zero(float most) {
  return most == -INFINITY ? 0.0f : most;
}

// What a row's weighted values are divided by: `total`, the sum of weights under the level `most`, and its head's sink. `unit_of_score` is
// what `most` counts in.
__device__ inline float divisor(const AttentionTask& t, std::int64_t head, float total, float most, float unit_of_score) {
  if (t.sinks == nullptr && !t.sink_of_zero) return total;
  float sink = 0;
  if (t.sinks != nullptr) {
    sink = t.type == DType::f32   ? static_cast<const float*>(t.sinks)[head]
           : t.type == DType::f16 ? widen(static_cast<const __half*>(t.sinks)[head])
                                  : widen(static_cast<const __nv_bfloat16*>(t.sinks)[head]);
  }
  return total + expf(sink - finite_or_zero(most) * unit_of_score);
}

// Weighted sum to output. The divisor is 0 only where every score was minus infinity.
__device__ inline float settle(const AttentionTask& t, bool sees, float sum, float total) {
  if (!sees) return 0.0f;
  if (total == 0.0f) return t.empty_rows == EmptyRows::as_softmax ? NAN : 0.0f;
  if (total != total && t.empty_rows == EmptyRows::zero_when_nan) return 0.0f;
  return sum / total;
}

}  // namespace forebay::cuda
