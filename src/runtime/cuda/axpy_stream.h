// One row by 16-bit weights that lie as columns.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// As launch_axpy_slabs of one row; rows, slabs and n are multiples of 16 bytes. False: not served.
bool launch_axpy_stream(const ProductTask& task, const SlabTable& table, cudaStream_t stream, cudaError_t* error);

}  // namespace forebay::cuda
