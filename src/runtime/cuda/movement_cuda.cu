#include <algorithm>

#include "runtime/cuda/by_type.cuh"

namespace forebay::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename T>
__global__ void copy_walks(const __grid_constant__ CopyTask task) {
  after_previous();
  const CopyTask::Part& part = task.parts[blockIdx.y];
  const T* from = static_cast<const T*>(part.from);
  T* to = static_cast<T*>(part.to);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < part.walk.total; i += step) {
    std::int64_t at[2];
    locate(part.walk, i, at);
    to[at[0]] = from[at[1]];
  }
}
template <typename T>
cudaError_t start_copies(const CopyTask& task, cudaStream_t stream) {
  std::int64_t most = 0;
  for (int p = 0; p < task.count; ++p) most = std::max(most, task.parts[p].walk.total);
  return launch_after(copy_walks<T>, dim3(blocks_for(most, kThreads), static_cast<unsigned>(task.count)), kThreads, 0, stream, task);
}

}  // namespace

cudaError_t launch_copies(int element_bytes, const CopyTask& task, cudaStream_t stream) {
  if (task.count == 0) return cudaSuccess;
  if (element_bytes == 16) return start_copies<uint4>(task, stream);
  return by_bytes(element_bytes, [&](auto t) { return start_copies<decltype(t)>(task, stream); });
}

cudaError_t launch_copy(int element_bytes, const Walk& walk, void* y, const void* a, cudaStream_t stream) {
  CopyTask task;
  task.count = walk.total > 0 ? 1 : 0;
  task.parts[0] = {walk, y, a};
  return launch_copies(element_bytes, task, stream);
}

}  // namespace forebay::cuda
