// What the convolution kernels share.
#pragma once

#include "runtime/cuda/conv_task.h"
#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

// Row `row` of the call's weights, `length` values each.
template <typename T>
__device__ inline const T* weight_row(const ConvTask& task, std::int64_t row, std::int64_t length) {
  const std::int64_t slab = row / task.w.rows;
  return static_cast<const T*>(task.w.slabs[slab]) + (row - slab * task.w.rows) * length;
}

// The sum of filter `f` of y at image and pixel `n` becomes its output.
template <typename T>
__device__ inline void finish_conv(const ConvTask& task, int f, int n, float value) {
  if (task.bias != nullptr) value += widen(static_cast<const T*>(task.bias)[f]);
  const std::int64_t image = n / task.out_size, pixel = n % task.out_size;
  const std::int64_t at = (image * task.all_filters + f) * task.out_size + pixel;
  if (task.sum != nullptr) value += widen(static_cast<const T*>(task.sum)[at]);
  static_cast<T*>(task.y)[at] = narrow<T>(activate(task.activation, task.alpha, task.beta, value));
}

}  // namespace forebay::cuda
