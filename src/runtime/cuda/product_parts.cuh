// What the kernels of products share: how a sum becomes an element of y.
#pragma once

#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

__device__ inline float read_number(DType type, const void* data, std::int64_t at) {
  if (type == DType::f32) return static_cast<const float*>(data)[at];
  if (type == DType::f16) return widen(static_cast<const __half*>(data)[at]);
  return widen(static_cast<const __nv_bfloat16*>(data)[at]);
}

// alpha, C and the activation: product and sum are rounded apart, as on the CPU.
__device__ inline float finished(const ProductTask& task, std::int64_t m, std::int64_t n, float sum) {
  float value = task.alpha * sum;
  if (task.c != nullptr) value += task.beta * read_number(task.c_type, task.c, m * task.c_row + n * task.c_col);
  return activate(task.activation, task.activation_alpha, task.activation_beta, value);
}
__device__ inline void finish_one(const ProductTask& task, std::int64_t batch, std::int64_t m, std::int64_t n, float sum) {
  const float value = finished(task, m, n, sum);
  const std::int64_t at = batch * task.y_batch + m * task.y_row + n;
  if (task.y_type == DType::f32) {
    static_cast<float*>(task.y)[at] = value;
  } else if (task.y_type == DType::f16) {
    static_cast<__half*>(task.y)[at] = narrow<__half>(value);
  } else {
    static_cast<__nv_bfloat16*>(task.y)[at] = narrow<__nv_bfloat16>(value);
  }
}
__device__ inline void put(const ProductTask& task, std::int64_t batch, std::int64_t m,
                           std::int64_t n, float sum) {
  if (task.last) {
    finish_one(task, batch, m, n, sum);
  } else {
    task.sums[batch * task.y_batch + m * task.y_row + n] = sum;
  }
}

__device__ inline float carried(const ProductTask& task, std::int64_t batch, std::int64_t m,
                                std::int64_t n) {
  return task.first ? 0.0f : task.sums[batch * task.y_batch + m * task.y_row + n];
}

}  // namespace forebay::cuda
