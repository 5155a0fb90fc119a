// Search and sums along long axes: sorted 64-bit keys, TopK, ArgMax and ArgMin, CumSum.
#pragma once

#include "runtime/cuda/axis_task.h"

namespace forebay::cuda {

// Lines of `length` keys, a power of two, each sorted from its smallest.
cudaError_t launch_sort(std::uint64_t* keys, std::int64_t lines, std::int64_t length, cudaStream_t stream);
std::int64_t sorted_length(std::int64_t count);  // the power of two that holds so many, at least 2

// A key holds the order of a value above its place in the line, so that equals keep their order: for f32, f16, bf16 and i32. NaN counts as
// larger than every number, and places are below 2^32.
bool orders(DType type);
struct TopKTask {
  AxisTask axis;  // y: values, or null
  std::int64_t* places = nullptr;
  std::uint64_t* keys = nullptr;  // sorted_length(axis.length) for each line of the call
  std::int64_t k = 0;
  std::int64_t first = 0, lines = 0;  // of outer * inner
  bool largest = true;
};
cudaError_t launch_top_k(const TopKTask& task, cudaStream_t stream);

// A block a line. As launch_axis_arg; sums are added up in trees over a line's parts.
cudaError_t launch_long_arg(const AxisTask& task, bool most, bool last, cudaStream_t stream);
cudaError_t launch_long_cumsum(const AxisTask& task, bool exclusive, bool reverse, cudaStream_t stream);

}  // namespace forebay::cuda
