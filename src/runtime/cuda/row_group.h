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
cudaError_t launch_row_dot_group(const RowGroup& group, cudaStream_t stream);

}  // namespace forebay::cuda
