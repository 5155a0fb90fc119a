// What the convolution kernels share.
#pragma once

#include "runtime/cuda/conv_task.h"
#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

// i / size and i % size; a 64-bit division is a subroutine.
__device__ inline std::int64_t divide(std::int64_t i, int size, int& rest) {
  if (i >> 32 == 0) {
    const unsigned quotient = static_cast<unsigned>(i) / static_cast<unsigned>(size);
    rest = static_cast<int>(static_cast<unsigned>(i) - quotient * static_cast<unsigned>(size));
    return quotient;
  }
  rest = static_cast<int>(i % size);
  return i / size;
}

// Row `row` of the call's weights, `length` values each.
template <typename T>
__device__ inline const T* weight_row(const ConvTask& task, std::int64_t row, std::int64_t length) {
  const int slab = static_cast<int>(row) / static_cast<int>(task.w.rows);
  return static_cast<const T*>(task.w.slabs[slab]) + (row - slab * task.w.rows) * length;
}

// The sum of filter `f` of y at image and pixel `n` becomes its output.
template <typename T>
__device__ inline void finish_conv(const ConvTask& task, int f, int n, float value) {
  if (task.bias != nullptr) value += widen(static_cast<const T*>(task.bias)[f]);
  const int image = n / task.out_size, pixel = n - image * task.out_size;
  const std::int64_t at = (static_cast<std::int64_t>(image) * task.all_filters + f) * task.out_size + pixel;
  if (task.sum != nullptr) value += widen(static_cast<const T*>(task.sum)[at]);
  static_cast<T*>(task.y)[at] = narrow<T>(activate(task.activation, task.alpha, task.beta, value));
}

inline dim3 conv_grid(const ConvTask& task, int tile) {
  return {static_cast<unsigned>((task.batch * task.out_size + tile - 1) / tile), static_cast<unsigned>((task.filters + tile - 1) / tile),
          static_cast<unsigned>(task.groups * task.splits)};
}

}  // namespace forebay::cuda
