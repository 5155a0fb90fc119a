#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/gather_task.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void gather(const __grid_constant__ GatherTask task, T* y, const T* a, const void* indices) {
  const std::int64_t total = task.outer * task.count * task.inner, step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    const std::int64_t column = i % task.inner, which = i / task.inner % task.count, outer = i / task.inner / task.count;
    std::int64_t row = task.wide ? static_cast<const std::int64_t*>(indices)[which] : static_cast<const std::int32_t*>(indices)[which];
    row += (row < 0 ? task.table : 0) - task.first;
    if (row >= 0 && row < task.rows) y[i] = a[(outer * task.rows + row) * task.inner + column];
  }
}
template <typename T>
cudaError_t start(const GatherTask& task, void* y, const void* a, const void* indices, cudaStream_t stream) {
  gather<T><<<blocks_for(task.outer * task.count * task.inner, kThreads), kThreads, 0, stream>>>(task, static_cast<T*>(y),
                                                                                                 static_cast<const T*>(a), indices);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_gather(int element_bytes, const GatherTask& task, void* y, const void* a, const void* indices, cudaStream_t stream) {
  if (task.outer * task.count * task.inner == 0) return cudaSuccess;
  if (element_bytes == 16) return start<uint4>(task, y, a, indices, stream);
  return by_bytes(element_bytes, [&](auto t) { return start<decltype(t)>(task, y, a, indices, stream); });
}

}  // namespace forebay::cuda
