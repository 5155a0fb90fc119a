// Elements and slices that tuples of indices name: GatherND, GatherElements, ScatterND, ScatterElements.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// Tuple t names the `inner` elements of the data from base(t) + the sum of its indices times their strides on.
struct IndexTask {
  const void* indices = nullptr;
  bool wide = true;                                          // of 8 bytes, else 4
  int depth = 1;                                             // indices of a tuple
  std::int64_t dims[kMaxRank] = {}, strides[kMaxRank] = {};  // of the axes that they belong to; below 0 they count from the end
  Walk base;                                                 // over the tuples; operand 0
  std::int64_t inner = 1;
};
// *worst becomes the first index that lies outside of its axis; it is all ones where there is none.
cudaError_t launch_check_indices(const IndexTask& task, std::uint64_t* worst, cudaStream_t stream);
cudaError_t launch_gather_tuples(int element_bytes, const IndexTask& task, void* y, const void* data, cudaStream_t stream);

enum class Scatter : int { replace, add, mul, min, max };
bool scatters(Scatter reduction, DType type);
// y holds the data. `keys`: sorted_length(tuples) of sort_task.h. Updates of one place are taken in their order, the last one replaces.
cudaError_t launch_scatter_tuples(Scatter reduction, DType type, const IndexTask& task, void* y, const void* updates, std::uint64_t* keys,
                                  cudaStream_t stream);

}  // namespace forebay::cuda
