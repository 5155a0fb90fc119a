#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/product_parts.cuh"

namespace forebay::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16;

template <typename T>
__global__ void __launch_bounds__(256) tiles(const __grid_constant__ ProductTask task) {
  __shared__ float as[kDepth][kTile + 1], bs[kDepth][kTile + 1];
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.y) * kTile,
                     n0 = static_cast<std::int64_t>(blockIdx.x) * kTile, batch = blockIdx.z;
  const T* a = static_cast<const T*>(task.a) + batch * task.a_batch;
  const T* b = static_cast<const T*>(task.b) + batch * task.b_batch;
  const int tid = static_cast<int>(threadIdx.x), tm = tid / 16 * 4, tn = tid % 16 * 4;
  float sums[4][4];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      const bool inside = m0 + tm + i < task.m && n0 + tn + j < task.n;
      sums[i][j] = inside ? carried(task, batch, m0 + tm + i, n0 + tn + j) : 0.0f;
    }
  }
  for (std::int64_t k0 = 0; k0 < task.k; k0 += kDepth) {
    for (int i = tid; i < kTile * kDepth; i += 256) {
      // Neighbouring threads read neighbouring elements, whichever way the matrix lies.
      const int ma = task.a_col == 1 ? i / kDepth : i % kTile,
                ka = task.a_col == 1 ? i % kDepth : i / kTile;
      as[ka][ma] = m0 + ma < task.m && k0 + ka < task.k
                       ? widen(a[(m0 + ma) * task.a_row + (k0 + ka) * task.a_col])
                       : 0.0f;
      const int nb = task.b_row == 1 ? i / kDepth : i % kTile,
                kb = task.b_row == 1 ? i % kDepth : i / kTile;
      bs[kb][nb] = n0 + nb < task.n && k0 + kb < task.k
                       ? widen(b[(k0 + kb) * task.b_row + (n0 + nb) * task.b_col])
                       : 0.0f;
    }
    __syncthreads();
    const int depth = task.k - k0 < kDepth ? static_cast<int>(task.k - k0) : kDepth;
    for (int k = 0; k < depth; ++k) {
      float left[4], right[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = as[k][tm + i];
#pragma unroll
      for (int j = 0; j < 4; ++j) right[j] = bs[k][tn + j];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = __fmaf_rn(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      if (m0 + tm + i < task.m && n0 + tn + j < task.n)
        put(task, batch, m0 + tm + i, n0 + tn + j, sums[i][j]);
    }
  }
}

template <typename T>
cudaError_t start_tiles(const ProductTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((task.n + kTile - 1) / kTile),
                  static_cast<unsigned>((task.m + kTile - 1) / kTile),
                  static_cast<unsigned>(task.batches));
  tiles<T><<<grid, 256, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_tiles(const ProductTask& task, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0 || task.batches == 0) return cudaSuccess;
  return by_float(task.b_type, [&](auto t) { return start_tiles<decltype(t)>(task, stream); });
}

}  // namespace forebay::cuda
