// Products of f16 and bf16 on tensor cores.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// One batch; A and B of one 16-bit type, at multiples of 16 bytes, as are the steps from row to row; A's columns are neighbours; B is [n,k]
// with rows of k elements (b_row 1) or [k,n] with rows of n (b_col 1).
cudaError_t launch_mma(const ProductTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
