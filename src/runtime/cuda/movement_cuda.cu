#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename T>
__global__ void copy_walk(Walk walk, T* y, const T* a) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < walk.total; i += step) {
    std::int64_t at[2];
    locate(walk, i, at);
    y[at[0]] = a[at[1]];
  }
}
template <typename T>
void start_copy(const Walk& walk, void* y, const void* a, cudaStream_t stream) {
  copy_walk<<<blocks_for(walk.total, kThreads), kThreads, 0, stream>>>(walk, static_cast<T*>(y),
                                                                       static_cast<const T*>(a));
}

template <typename T>
__global__ void gather(GatherTask task, T* y, const T* a, const void* indices) {
  const std::int64_t total = task.outer * task.count * task.inner,
                     step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += step) {
    const std::int64_t column = i % task.inner, which = i / task.inner % task.count,
                       outer = i / task.inner / task.count;
    std::int64_t row = task.wide ? static_cast<const std::int64_t*>(indices)[which]
                                 : static_cast<const std::int32_t*>(indices)[which];
    if (row < 0) row += task.rows;
    y[i] = a[(outer * task.rows + row) * task.inner + column];
  }
}
template <typename T>
void start_gather(const GatherTask& task, void* y, const void* a, const void* indices,
                  cudaStream_t stream) {
  gather<<<blocks_for(task.outer * task.count * task.inner, kThreads), kThreads, 0, stream>>>(
      task, static_cast<T*>(y), static_cast<const T*>(a), indices);
}

}  // namespace

cudaError_t launch_copy(int element_bytes, const Walk& walk, void* y, const void* a,
                        cudaStream_t stream) {
  if (walk.total == 0) return cudaSuccess;
  switch (element_bytes) {
    case 1:
      start_copy<std::uint8_t>(walk, y, a, stream);
      break;
    case 2:
      start_copy<std::uint16_t>(walk, y, a, stream);
      break;
    case 4:
      start_copy<std::uint32_t>(walk, y, a, stream);
      break;
    case 8:
      start_copy<std::uint64_t>(walk, y, a, stream);
      break;
    case 16:
      start_copy<uint4>(walk, y, a, stream);
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

cudaError_t launch_gather(int element_bytes, const GatherTask& task, void* y, const void* a,
                          const void* indices, cudaStream_t stream) {
  if (task.outer * task.count * task.inner == 0) return cudaSuccess;
  switch (element_bytes) {
    case 1:
      start_gather<std::uint8_t>(task, y, a, indices, stream);
      break;
    case 2:
      start_gather<std::uint16_t>(task, y, a, indices, stream);
      break;
    case 4:
      start_gather<std::uint32_t>(task, y, a, indices, stream);
      break;
    case 8:
      start_gather<std::uint64_t>(task, y, a, indices, stream);
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace forebay::cuda
