// What a mask does to each 64 queries by 64 keys: nothing, something, or hide them all. One reading of the mask for all heads that share
// it.
#include "runtime/cuda/attention_unit.cuh"

namespace forebay::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) find_kinds(const __grid_constant__ AttentionTask t) {
  const std::int64_t key = std::int64_t{blockIdx.x} * kKindTile + threadIdx.x % kKindTile, head = blockIdx.z % t.kind_dims[1],
                     batch = blockIdx.z / t.kind_dims[1];
  bool plain = true, low = true, never = true;
  if (key < min(t.mask_length, t.past + t.keys)) {
    const std::int64_t column = batch * t.mask_strides[0] + head * t.mask_strides[1] + key * t.mask_strides[3];
#pragma unroll 8
    for (int i = static_cast<int>(threadIdx.x) / kKindTile; i < kKindTile; i += kThreads / kKindTile) {
      const std::int64_t query = std::int64_t{blockIdx.y} * kKindTile + i;
      if (query >= t.queries) break;
      float x = mask_value(t, column + query * t.mask_strides[2]);
      if (t.mask_type == DType::boolean && x != 0.0f) x = t.mask_fill;
      plain = plain && x == 0.0f;
      low = low && x <= kHiddenBelow;
      never = never && x == -INFINITY;
    }
  }
  plain = __syncthreads_and(plain) != 0;
  low = __syncthreads_and(low) != 0;
  never = __syncthreads_and(never) != 0;
  if (threadIdx.x != 0) return;
  const std::int64_t at = (std::int64_t{blockIdx.z} * t.kind_dims[2] + blockIdx.y) * t.kind_dims[3] + blockIdx.x;
  const_cast<std::uint8_t*>(t.kinds)[at] = static_cast<std::uint8_t>(plain ? kPlain : never ? kHidden : low ? kHiddenByNumber : kMixed);
}

}  // namespace

cudaError_t launch_mask_kinds(const AttentionTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(task.kind_dims[3]), static_cast<unsigned>(task.kind_dims[2]),
                  static_cast<unsigned>(task.kind_dims[0] * task.kind_dims[1]));
  if (grid.x * grid.y * grid.z == 0) return cudaSuccess;
  find_kinds<<<grid, kThreads, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
