// Steps of 32 in order, fetched a few ahead; splits of the sum are added in order by a second kernel. What a row of W gives depends on
// nothing else in the launch.
#include "runtime/cuda/linear_task.h"
#include "runtime/cuda/mma_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kPitch = kLinearDepth + 8;  // elements from row to row in shared memory: rows of a matrix load meet different banks
constexpr int kChunks = kLinearDepth / 8, kStages = 4;

template <typename T>
__device__ inline void finish(const LinearTask& task, int row, int column, float value) {
  const int at = task.first + column;
  if (task.bias != nullptr) value += widen(static_cast<const T*>(task.bias)[at]);
  static_cast<T*>(task.y)[static_cast<std::int64_t>(row) * task.all_columns + at] = narrow<T>(activate(task.activation, task.alpha, task.beta, value));
}

// kTile x kTile outputs, warps of kRows x 32.
template <typename T, int kTile, int kRows>
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
    x_rows[p] = m0 + row < task.rows ? static_cast<const unsigned short*>(task.x) + static_cast<std::int64_t>(m0 + row) * task.depth : nullptr;
    w_rows[p] = n < task.columns
                    ? static_cast<const unsigned short*>(task.w.slabs[n / task.w.rows]) + static_cast<std::int64_t>(n % task.w.rows) * task.depth
                    : nullptr;
  }
  const auto fetch = [&](int step) {
    const int stage = step % kStages;
#pragma unroll
    for (int p = 0; p < kPasses; ++p) {
      const int row = (thread + p * kThreads) / kChunks, part = (thread + p * kThreads) % kChunks * 8, k = step * kLinearDepth + part;
      const bool inside = step < end && k < task.depth;
      copy_async(&x_tiles[stage * kStage + row * kPitch + part], inside && x_rows[p] != nullptr ? x_rows[p] + k : nullptr);
      copy_async(&w_tiles[stage * kStage + row * kPitch + part], inside && w_rows[p] != nullptr ? w_rows[p] + k : nullptr);
    }
    end_copies();
  };
  float sums[kRows / 16][4][4] = {};
  const int row0 = warp / kAcross * kRows, column0 = warp % kAcross * 32;
  for (int step = begin; step < begin + kStages - 1; ++step) fetch(step);
  for (int step = begin; step < end; ++step) {
    await_copies<kStages - 2>();
    __syncthreads();
    fetch(step + kStages - 1);
    const unsigned short* const x_tile = x_tiles + step % kStages * kStage;
    const unsigned short* const w_tile = w_tiles + step % kStages * kStage;
#pragma unroll
    for (int k = 0; k < kLinearDepth; k += 16) {
      unsigned a[kRows / 16][4], b[2][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) load_matrices(a[i], &x_tile[(row0 + i * 16 + lane % 16) * kPitch + k + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 2; ++j) load_matrices(b[j], &w_tile[(column0 + j * 16 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8]);
#pragma unroll
      for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_tile(T(), sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int m = m0 + row0 + i * 16 + lane / 4 + e / 2 * 8, n = n0 + column0 + j * 8 + lane % 4 * 2 + e % 2;
        if (m >= task.rows || n >= task.columns) continue;
        if (task.splits == 1) {
          finish<T>(task, m, n, sums[i][j][e]);
        } else {
          task.sums[(static_cast<std::int64_t>(split) * task.rows + m) * task.columns + n] = sums[i][j][e];
        }
      }
    }
  }
}

template <typename T>
__global__ void linear_join(const __grid_constant__ LinearTask task) {
  const std::int64_t total = static_cast<std::int64_t>(task.rows) * task.columns, step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
    float sum = 0;
    for (int s = 0; s < task.splits; ++s) sum += task.sums[s * total + i];
    finish<T>(task, static_cast<int>(i / task.columns), static_cast<int>(i % task.columns), sum);
  }
}

template <typename T, int kTile, int kRows>
cudaError_t start(const LinearTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((task.columns + kTile - 1) / kTile), static_cast<unsigned>((task.rows + kTile - 1) / kTile),
                  static_cast<unsigned>(task.splits));
  constexpr int kBytes = 2 * kStages * kTile * kPitch * static_cast<int>(sizeof(unsigned short));
  const cudaError_t error = cudaFuncSetAttribute(linear_mma<T, kTile, kRows>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  linear_mma<T, kTile, kRows><<<grid, kTile / kRows * kTile, kBytes, stream>>>(task);
  if (task.splits > 1) linear_join<T><<<blocks_for(static_cast<std::int64_t>(task.rows) * task.columns, 256), 256, 0, stream>>>(task);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_linear_mma(const LinearTask& task, bool large, cudaStream_t stream) {
  if (static_cast<std::int64_t>(task.rows) * task.columns == 0) return cudaSuccess;
  switch (task.type) {
    case DType::f16: return large ? start<__half, 128, 64>(task, stream) : start<__half, 64, 32>(task, stream);
    case DType::bf16: return large ? start<__nv_bfloat16, 128, 64>(task, stream) : start<__nv_bfloat16, 64, 32>(task, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace forebay::cuda
