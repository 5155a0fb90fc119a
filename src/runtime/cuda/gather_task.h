// The seam between the kernel that gathers rows and what prepares it.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// y[outer, i, :] = a[outer, index i, :] of the rows that are there: a is [outer, rows, inner], rows from `first` on of a table of `table`.
struct GatherTask {
  std::int64_t outer = 1, rows = 1, inner = 1, count = 1;
  std::int64_t first = 0, table = 1;  // indices below 0 count from the table's end; all were checked
  bool wide = true;                   // indices of 8 bytes, else 4
};
cudaError_t launch_gather(int element_bytes, const GatherTask& task, void* y, const void* a, const void* indices, cudaStream_t stream);

}  // namespace forebay::cuda
