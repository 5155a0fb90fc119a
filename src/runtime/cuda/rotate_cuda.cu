#include <algorithm>

#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/rotate_group.h"

namespace forebay::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename T, typename C>
__global__ void rotate(const __grid_constant__ RotateGroup group) {
  after_previous();
  const RotateGroup::Part& part = group.parts[blockIdx.y];
  const RotateTask& task = part.task;
  const T* const x = static_cast<const T*>(part.x);
  const C *const cosines = static_cast<const C*>(part.cos), *const sines = static_cast<const C*>(part.sin);
  T* const y = static_cast<T*>(part.y);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < task.walk.total; i += step) {
    std::int64_t at[3];
    locate(task.walk, i, at);
    const float a = widen(x[at[0]]), b = widen(x[at[0] + task.half]);
    y[at[0]] = narrow<T>(a * widen(cosines[at[1]]) - b * widen(sines[at[2]]));
    y[at[0] + task.half] = narrow<T>(b * widen(cosines[at[1] + task.cos_step]) + a * widen(sines[at[2] + task.sin_step]));
  }
}

template <typename T>
cudaError_t start(DType table_type, const RotateGroup& group, cudaStream_t stream) {
  std::int64_t most = 0;
  for (int p = 0; p < group.count; ++p) most = std::max(most, group.parts[p].task.walk.total);
  if (most == 0) return cudaSuccess;
  const dim3 grid(blocks_for(most, kThreads), static_cast<unsigned>(group.count));
  return by_float(table_type, [&](auto t) { return launch_after(rotate<T, decltype(t)>, grid, kThreads, 0, stream, group); });
}

// Large operands have a kernel of their own.
bool launch_long(DType type, DType table_type, const RotateGroup::Part& part, cudaStream_t stream, cudaError_t* error) {
  return launch_long_rotate(type, table_type, part.task, part.y, part.x, part.cos, part.sin, stream, error);
}

}  // namespace

cudaError_t launch_rotates(DType type, DType table_type, const RotateGroup& group, cudaStream_t stream) {
  RotateGroup rest;
  for (int p = 0; p < group.count; ++p) {
    cudaError_t error = cudaSuccess;
    if (!launch_long(type, table_type, group.parts[p], stream, &error)) rest.parts[rest.count++] = group.parts[p];
    if (error != cudaSuccess) return error;
  }
  return by_float(type, [&](auto t) { return start<decltype(t)>(table_type, rest, stream); });
}

}  // namespace forebay::cuda
