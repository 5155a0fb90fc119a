// Products of f16 and bf16 on tensor cores, with f32 sums: tiles of 128 x 128, 32 deep, two of them under way. A sum's order follows from
// the shape alone.
#include "runtime/cuda/gemm_mma.h"
#include "runtime/cuda/mma_numbers.cuh"
#include "runtime/cuda/product_parts.cuh"

namespace forebay::cuda {
namespace {

constexpr int kTile = 128, kDepth = 32, kThreads = 256;
constexpr int kDeepRow = kDepth + 8, kWideRow = kTile + 8;  // padded: rows read together lie in different banks

__device__ inline void copy_16(void* to, const void* from, bool inside) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = inside ? 16 : 0;  // the rest becomes zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
}

// kRows: B is [n,k], else [k,n]. Eight warps, each 64 rows by 32 columns.
template <typename T, bool kRows>
__global__ void __launch_bounds__(kThreads) mma_tiles(const __grid_constant__ ProductTask task) {
  __shared__ __align__(16) T as[2][kTile * kDeepRow];
  __shared__ __align__(16) T bs[2][kRows ? kTile * kDeepRow : kDepth * kWideRow];
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.y) * kTile, n0 = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const T* a = static_cast<const T*>(task.a);
  const T* b = static_cast<const T*>(task.b);
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp_m = tid / 32 / 4 * 64, warp_n = tid / 32 % 4 * 32;
  const auto fetch = [&](int stage, std::int64_t k0) {
#pragma unroll
    for (int i = tid; i < kTile * kDepth / 8; i += kThreads) {
      const int row = i / (kDepth / 8), deep = i % (kDepth / 8) * 8;
      const bool inside = m0 + row < task.m && k0 + deep < task.k;
      copy_16(&as[stage][row * kDeepRow + deep], inside ? a + (m0 + row) * task.a_row + k0 + deep : a, inside);
    }
#pragma unroll
    for (int i = tid; i < kTile * kDepth / 8; i += kThreads) {
      if constexpr (kRows) {
        const int row = i / (kDepth / 8), deep = i % (kDepth / 8) * 8;
        const bool inside = n0 + row < task.n && k0 + deep < task.k;
        copy_16(&bs[stage][row * kDeepRow + deep], inside ? b + (n0 + row) * task.b_col + k0 + deep : b, inside);
      } else {
        const int deep = i / (kTile / 8), column = i % (kTile / 8) * 8;
        const bool inside = n0 + column < task.n && k0 + deep < task.k;
        copy_16(&bs[stage][deep * kWideRow + column], inside ? b + (k0 + deep) * task.b_row + n0 + column : b, inside);
      }
    }
    end_copies();
  };
  float sums[4][4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const std::int64_t m = m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8, n = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
        sums[i][j][e] = task.first || m >= task.m || n >= task.n ? 0.0f : task.sums[m * task.y_row + n];
      }
    }
  }
  fetch(0, 0);
  const std::int64_t steps = (task.k + kDepth - 1) / kDepth;
  for (std::int64_t step = 0; step < steps; ++step) {
    const int stage = static_cast<int>(step % 2);
    if (step + 1 < steps) {
      fetch(1 - stage, (step + 1) * kDepth);
      await_copies<1>();
    } else {
      await_copies<0>();
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      unsigned left[4][4], right[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) load_matrices(left[i], &as[stage][(warp_m + i * 16 + lane % 16) * kDeepRow + k + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if constexpr (kRows) {
          load_matrices(right[j], &bs[stage][(warp_n + j * 16 + lane % 8 + lane / 16 * 8) * kDeepRow + k + lane / 8 % 2 * 8]);
        } else {
          load_turned(right[j], &bs[stage][(k + lane % 16) * kWideRow + warp_n + j * 16 + lane / 16 * 8]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_tile(T(), sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const std::int64_t m = m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8, n = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
        if (m < task.m && n < task.n) put(task, 0, m, n, sums[i][j][e]);
      }
    }
  }
}

template <typename T>
cudaError_t start(const ProductTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((task.n + kTile - 1) / kTile), static_cast<unsigned>((task.m + kTile - 1) / kTile));
  if (task.b_row == 1) {
    mma_tiles<T, true><<<grid, kThreads, 0, stream>>>(task);
  } else {
    mma_tiles<T, false><<<grid, kThreads, 0, stream>>>(task);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_mma(const ProductTask& task, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0) return cudaSuccess;
  return task.b_type == DType::f16 ? start<__half>(task, stream) : start<__nv_bfloat16>(task, stream);
}

}  // namespace forebay::cuda
