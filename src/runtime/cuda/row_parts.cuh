// What the kernels of products of few rows share: the tree of a row's sums.
#pragma once

#include "runtime/cuda/product_parts.cuh"

namespace forebay::cuda {

// The tree, whose result the first lane has.
__device__ inline float row_sum(const float (&s)[8]) {
  float run = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
#pragma unroll
  for (int half = 16; half > 0; half /= 2) run = run + __shfl_down_sync(0xffffffffu, run, half);
  return run;
}

// Sums of one row, lane l holding 8l to 8l+7: sum i takes elements i, i + 256, ...; then the tree.
template <int M>
__device__ inline void finish_row(const ProductTask& task, const float (&sums)[M][8], std::int64_t n, std::int64_t batch) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const float run = row_sum(sums[m]);
    if (threadIdx.x % 32 == 0 && m < task.m) put(task, batch, m, n, run);
  }
}

}  // namespace forebay::cuda
