// Products of few rows that share a launch.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// Of the same activations, types and k, and of one batch.
struct RowGroup {
  static constexpr int kMost = 3;
  int count = 0;
  ProductTask tasks[kMost];
  SlabTable tables[kMost];
};
// What row_stream_cuda.cu does besides, in the same launch: the norm that makes the activations, and the product of both results of a pair.
struct RowAround {
  bool normed = false;
  NormTask norm;
  void* both = nullptr;  // of the products' type; null: not wanted
};
// One row of 16-bit numbers by large weights on devices that have bulk copies; addresses and steps are multiples of 16 bytes. False: not
// served.
bool launch_row_stream(const RowGroup& group, const RowAround& around, cudaStream_t stream, cudaError_t* error);
cudaError_t launch_row_dot_group(const RowGroup& group, cudaStream_t stream);

}  // namespace forebay::cuda
