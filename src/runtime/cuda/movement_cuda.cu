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

}  // namespace forebay::cuda
