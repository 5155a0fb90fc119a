// Sums of activation(x * W' + bias) to outputs.
#pragma once

#include "runtime/cuda/cuda_numbers.cuh"
#include "runtime/cuda/linear_task.h"

namespace forebay::cuda {

// Its code at every place that finishes sums would be most of a kernel, and take longer to fetch than to run.
static __device__ __noinline__ float activate_apart(Activation activation, float alpha, float beta, float x) {
  return activate(activation, alpha, beta, x);
}
__device__ inline float activate_linear(const LinearTask& task, float x) {
  if (task.activation == Activation::none) return x;
  if (task.activation == Activation::gelu) return activate(Activation::gelu, 0, 0, x);
  return activate_apart(task.activation, task.alpha, task.beta, x);
}

// kWide (1, 4 or 8) sums of a row, at a multiple of 16 bytes when there are several, from a column of the call on.
template <typename T, int kWide>
__device__ inline void finish_linear(const LinearTask& task, int row, int column, const float* sums) {
  struct alignas(sizeof(T) * kWide) Values {
    T values[kWide];
  };
  const int at = task.first + column;
  Values bias, out;
  alignas(16) float mine[kWide];  // four at a time: neighbours in a warp would read the same banks
#pragma unroll
  for (int i = 0; i < kWide; i += 4) {
    if constexpr (kWide % 4 == 0) {
      *reinterpret_cast<float4*>(mine + i) = *reinterpret_cast<const float4*>(sums + i);
    } else {
      mine[i] = sums[i];
    }
  }
  if (task.bias != nullptr) bias = *reinterpret_cast<const Values*>(static_cast<const T*>(task.bias) + at);
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    const float value = task.bias != nullptr ? mine[i] + widen(bias.values[i]) : mine[i];
    out.values[i] = narrow<T>(activate_linear(task, value));
  }
  *reinterpret_cast<Values*>(static_cast<T*>(task.y) + static_cast<std::int64_t>(row) * task.all_columns + at) = out;
}

}  // namespace forebay::cuda
