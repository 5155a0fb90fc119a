// Slabs of a weight that lie anywhere, one behind the other, for kernels that are not ours.
#include "runtime/cuda/nhwc_library.h"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256, kEach = 8;  // of a block; units that a thread has under way

__global__ void gather_slabs(const GatherSlabsTask task) {
  const std::int64_t begin = task.begins[blockIdx.y], count = task.begins[blockIdx.y + 1] - begin;
  const auto* const from = static_cast<const uint2*>(task.from[blockIdx.y]);
  auto* const to = static_cast<uint2*>(task.to) + begin;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads * kEach + threadIdx.x;
  uint2 values[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (first + i * kThreads < count) values[i] = from[first + i * kThreads];
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (first + i * kThreads < count) to[first + i * kThreads] = values[i];
  }
}

}  // namespace

cudaError_t launch_gather_slabs(const GatherSlabsTask& task, cudaStream_t stream) {
  std::int64_t most = 0;
  for (int i = 0; i < task.count; ++i) most = most > task.begins[i + 1] - task.begins[i] ? most : task.begins[i + 1] - task.begins[i];
  if (most == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((most + kThreads * kEach - 1) / (kThreads * kEach)), static_cast<unsigned>(task.count));
  gather_slabs<<<grid, kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
