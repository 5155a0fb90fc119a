// Steps of 32 in order, fetched a few ahead; splits of the sum are added in order by a second kernel. What a row of W gives depends on
// nothing else in the launch.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/linear_bulk.h"
#include "runtime/cuda/linear_finish.cuh"
#include "runtime/cuda/mma_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kPitch = kLinearDepth + 8;  // elements from row to row in shared memory: rows of a matrix load meet different banks
constexpr int kChunks = kLinearDepth / 8, kStages = 4;

template <typename T, int kTile, int kThreads, int kWide>
__device__ inline void finish_rows(const LinearTask& task, const float* tile, int m0, int n0) {
  constexpr int kEach = kTile / kWide;
  for (int i = static_cast<int>(threadIdx.x); i < 64 * kEach; i += kThreads) {
    const int row = i / kEach, column = i % kEach * kWide;
    if (m0 + row >= task.rows || n0 + column >= task.columns) continue;
    finish_linear<T, kWide>(task, m0 + row, n0 + column, tile + row * kTile + column);
  }
}

// Row `k` of the call's weights [depth, columns].
__device__ inline const unsigned short* turned_row(const LinearTask& task, int k) {
  const int slab = k / static_cast<int>(task.w.rows);
  return static_cast<const unsigned short*>(task.w.slabs[slab]) +
         static_cast<std::int64_t>(k - slab * static_cast<int>(task.w.rows)) * task.columns;
}

// A warp's sums to `task.sums`, or from there.
template <int kRows, bool kStore>
__device__ inline void carry_sums(const LinearTask& task, float (&sums)[kRows / 16][4][4], int row0, int column0) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int m = row0 + i * 16 + lane / 4 + e / 2 * 8, n = column0 + j * 8 + lane % 4 * 2 + e % 2;
        if (m >= task.rows || n >= task.columns) continue;
        float& kept = task.sums[static_cast<std::int64_t>(m) * task.columns + n];
        (kStore ? kept : sums[i][j][e]) = kStore ? sums[i][j][e] : kept;
      }
    }
  }
}

// kTile x kTile outputs, warps of kRows x 32.
template <typename T, int kTile, int kRows, bool kTurned>
__global__ void __launch_bounds__(kTile / kRows * kTile) linear_mma(const __grid_constant__ LinearTask task) {
  constexpr int kThreads = kTile / kRows * kTile, kPasses = kChunks * kTile / kThreads, kAcross = kTile / 32, kStage = kTile * kPitch;
  extern __shared__ __align__(16) unsigned short shared[];
  unsigned short* const x_tiles = shared;
  unsigned short* const w_tiles = shared + kStages * kStage;
  const int split = static_cast<int>(blockIdx.z), n0 = static_cast<int>(blockIdx.x) * kTile, m0 = static_cast<int>(blockIdx.y) * kTile;
  const int steps = (task.depth + kLinearDepth - 1) / kLinearDepth;
  const int begin = static_cast<int>(static_cast<std::int64_t>(steps) * split / task.splits),
            end = static_cast<int>(static_cast<std::int64_t>(steps) * (split + 1) / task.splits);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const unsigned short *x_rows[kPasses], *w_rows[kPasses];
#pragma unroll
  for (int p = 0; p < kPasses; ++p) {
    const int row = (thread + p * kThreads) / kChunks, n = n0 + row;
    x_rows[p] =
        m0 + row < task.rows ? static_cast<const unsigned short*>(task.x) + static_cast<std::int64_t>(m0 + row) * task.x_row : nullptr;
    w_rows[p] = !kTurned && n < task.columns ? static_cast<const unsigned short*>(task.w.slabs[n / task.w.rows]) +
                                                   static_cast<std::int64_t>(n % task.w.rows) * task.depth
                                             : nullptr;
  }
  const auto fetch = [&](int step) {
    const int stage = step % kStages;
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      const int row = (thread + p * kThreads) / kChunks, part = (thread + p * kThreads) % kChunks * 8, k = step * kLinearDepth + part;
      const bool inside = step < end && k < task.depth;
      copy_async<16>(&x_tiles[stage * kStage + row * kPitch + part], inside && x_rows[p] != nullptr ? x_rows[p] + k : nullptr);
      if constexpr (kTurned) {
        const int i = thread + p * kThreads, row_k = i / (kTile / 8), column = n0 + i % (kTile / 8) * 8, at = step * kLinearDepth + row_k;
        const void* from = nullptr;
        if (step < end && at < task.depth && column < task.columns) from = turned_row(task, at) + column;
        copy_async<16>(&w_tiles[stage * kStage + row_k * (kTile + 8) + i % (kTile / 8) * 8], from);
      } else {
        copy_async<16>(&w_tiles[stage * kStage + row * kPitch + part], inside && w_rows[p] != nullptr ? w_rows[p] + k : nullptr);
      }
    }
    end_copies();
  };
  float sums[kRows / 16][4][4] = {};
  const int row0 = warp / kAcross * kRows, column0 = warp % kAcross * 32;
  if (kTurned && !task.first_part) carry_sums<kRows, false>(task, sums, m0 + row0, n0 + column0);
  for (int step = begin; step < begin + kStages - 1; ++step) fetch(step);
  for (int step = begin; step < end; ++step) {
    await_copies<kStages - 2>();
    __syncthreads();
    fetch(step + kStages - 1);
    const unsigned short* const x_tile = x_tiles + step % kStages * kStage;
    const unsigned short* const w_tile = w_tiles + step % kStages * kStage;
#pragma unroll
    for (int k = 0; k < kLinearDepth; k += 16) {
      if (kTurned && step * kLinearDepth + k >= task.depth) break;  // zeros would change the sign of a zero
      unsigned a[kRows / 16][4], b[2][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) load_matrices(a[i], &x_tile[(row0 + i * 16 + lane % 16) * kPitch + k + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if constexpr (kTurned) {
          load_turned(b[j], &w_tile[(k + lane % 16) * (kTile + 8) + column0 + j * 16 + lane / 16 * 8]);
        } else {
          load_matrices(b[j], &w_tile[(column0 + j * 16 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8]);
        }
      }
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_tile(T(), sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  await_copies<0>();
  if (kTurned && !task.last_part) return carry_sums<kRows, true>(task, sums, m0 + row0, n0 + column0);
  float* const tile = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int first = 0; first < kTile; first += 64) {
    __syncthreads();
    stage_sums<kTile, kRows>(sums, tile, first);
    if (kTile == 64 && task.clusters) {
      join_cluster<kTile, kThreads>(tile, split, task.splits, [&](int row, int column, float sum) {
        if (m0 + row < task.rows && n0 + column < task.columns) finish_linear<T, 1>(task, m0 + row, n0 + column, &sum);
      });
      return;
    }
    __syncthreads();
    if (kTile == 64 && task.splits > 1) {
      for (int i = thread; i < 64 * kTile; i += kThreads) {
        const int m = m0 + i / kTile, n = n0 + i % kTile;
        if (m < task.rows && n < task.columns) task.sums[(static_cast<std::int64_t>(split) * task.rows + m) * task.columns + n] = tile[i];
      }
    } else if ((task.first | task.columns | task.all_columns) % 8 == 0) {
      finish_rows<T, kTile, kThreads, 8>(task, tile, m0 + first, n0);
    } else {
      finish_rows<T, kTile, kThreads, 1>(task, tile, m0 + first, n0);
    }
  }
}

template <typename T>
__global__ void linear_join(const __grid_constant__ LinearTask task) {
  const std::int64_t total = static_cast<std::int64_t>(task.rows) * task.columns, step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    float sum = 0;
    for (int s = 0; s < task.splits; ++s) sum += task.sums[s * total + i];
    finish_linear<T, 1>(task, static_cast<int>(i / task.columns), static_cast<int>(i % task.columns), &sum);
  }
}

template <typename T, int kTile, int kRows>
cudaError_t start(const LinearTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((task.columns + kTile - 1) / kTile), static_cast<unsigned>((task.rows + kTile - 1) / kTile),
                  static_cast<unsigned>(task.splits));
  constexpr int kBytes = 2 * kStages * kTile * kPitch * static_cast<int>(sizeof(unsigned short));
  const auto kernel = task.turned ? linear_mma<T, kTile, kRows, true> : linear_mma<T, kTile, kRows, false>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error == cudaSuccess)
    error = launch_split(kernel, grid, kTile / kRows * kTile, kBytes, task.clusters ? task.splits : 1, task, stream);
  if (error != cudaSuccess) return error;
  if (task.splits > 1 && !task.clusters)
    linear_join<T><<<blocks_for(static_cast<std::int64_t>(task.rows) * task.columns, 256), 256, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

bool has_linear_hopper(int capability) {
#ifdef FOREBAY_CUDA_HOPPER
  return capability == 90;
#else
  static_cast<void>(capability);
  return false;
#endif
}
#ifndef FOREBAY_CUDA_HOPPER
cudaError_t launch_linear_hopper(LinearGroup&, LinearTile, cudaStream_t) {
  return cudaErrorNotSupported;
}
cudaError_t launch_linear_bulk(BulkGroup&, DType, bool, LinearTile, cudaStream_t) {
  return cudaErrorNotSupported;
}
#endif

cudaError_t launch_linear_mma(const LinearTask& task, bool large, cudaStream_t stream) {
  if (static_cast<std::int64_t>(task.rows) * task.columns == 0) return cudaSuccess;
  return by_types<__half, __nv_bfloat16>(
      task.type, [&](auto t) { return large ? start<decltype(t), 128, 64>(task, stream) : start<decltype(t), 64, 32>(task, stream); });
}

}  // namespace forebay::cuda
