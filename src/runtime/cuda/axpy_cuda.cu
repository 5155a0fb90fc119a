// Products of few rows with B as columns: one FMA chain an output in the order of k, the bits of
// the CPU's, however k is cut into slabs and launches. Weights come through shared memory, many
// rows of them under way.
#include "runtime/cuda/axpy_stream.h"
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/product_parts.cuh"

namespace forebay::cuda {
namespace {

constexpr int kColumns = 32, kRows = 64, kThreads = 128;  // the first warp computes, the others fetch
constexpr int kChain = 32;                                // rows that are in registers at a time
constexpr std::size_t kMostShared = 64 << 10;             // of activations, as f32

__device__ inline void copy_16(void* to, const void* from,
                               bool there) {  // zeros where there is nothing
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(bytes));
}
__device__ inline void end_group() {
  asm volatile("cp.async.commit_group;");
}
template <int N>
__device__ inline void wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

// The next rows of a column onto its sums; activations of row m lie at x + m * x_row.
template <typename T, typename X, int M>
__device__ inline void chain(const ProductTask& task, const T* rows, const X* x, std::int64_t x_row, int left, float (&sums)[M]) {
  float w[kChain];
#pragma unroll
  for (int r = 0; r < kChain; ++r) w[r] = widen(rows[r * kColumns]);
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const X* values = x + (m < task.m ? m : 0) * x_row;
    if (left >= kChain) {
      if constexpr (std::is_same_v<X, float4>) {
#pragma unroll
        for (int r = 0; r < kChain; r += 4) {
          const float4 four = values[r / 4];
          sums[m] = __fmaf_rn(w[r], four.x, sums[m]);
          sums[m] = __fmaf_rn(w[r + 1], four.y, sums[m]);
          sums[m] = __fmaf_rn(w[r + 2], four.z, sums[m]);
          sums[m] = __fmaf_rn(w[r + 3], four.w, sums[m]);
        }
      } else {
#pragma unroll
        for (int r = 0; r < kChain; ++r) sums[m] = __fmaf_rn(w[r], widen(values[r]), sums[m]);
      }
      continue;
    }
#pragma unroll
    for (int r = 0; r < kChain; ++r) {
      if (r >= left) continue;
      if constexpr (std::is_same_v<X, float4>) {
        sums[m] = __fmaf_rn(w[r], reinterpret_cast<const float*>(values)[r], sums[m]);
      } else {
        sums[m] = __fmaf_rn(w[r], widen(values[r]), sums[m]);
      }
    }
  }
}

// With kShared the activations are in shared memory, where the chain meets them without waiting.
template <typename T, int M, bool kShared>
__global__ void __launch_bounds__(kThreads)
    axpy(const __grid_constant__ ProductTask task, const __grid_constant__ SlabTable table) {
  constexpr int kStages = 16 / static_cast<int>(sizeof(T));  // 32 KiB of weights
  constexpr int kRun = 16 / static_cast<int>(sizeof(T)), kRuns = kColumns / kRun;
  __shared__ alignas(16) T tile[kStages][kRows][kColumns];
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) * kColumns, batch = blockIdx.y,
                     n = n0 + threadIdx.x;
  const int depth = static_cast<int>(task.k), stages = (depth + kRows - 1) / kRows;
  const auto fetch = [&](int stage) {
    for (int i = static_cast<int>(threadIdx.x) - 32; i < kRows * kRuns; i += kThreads - 32) {
      if (i < 0) break;
      const int row = i / kRuns, column = i % kRuns * kRun, k = stage * kRows + row;
      const bool there = k < depth && n0 + column < task.n;
      const int slab = there ? k / static_cast<int>(table.rows) : 0;
      const T* from = static_cast<const T*>(table.slabs[slab]) + batch * task.b_batch;
      if (there) from += (k - slab * table.rows) * task.b_row + n0 + column;
      copy_16(&tile[stage % kStages][row][column], from, there);
    }
  };
  const auto begin = [&] {
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < stages) fetch(s);
      end_group();
    }
  };
  if (task.constant_b) begin();  // nothing before this kernel writes them
  after_previous();
  if (!task.constant_b) begin();
  const bool mine = threadIdx.x < kColumns && n < task.n;
  const T* x = static_cast<const T*>(task.a) + batch * task.a_batch;
  extern __shared__ float4 shared[];
  const int row_fours = (depth + 3) / 4;
  for (int i = static_cast<int>(threadIdx.x); kShared && i < depth; i += kThreads) {
    for (int m = 0; m < task.m; ++m) reinterpret_cast<float*>(shared + m * row_fours)[i] = widen(x[m * task.a_row + i]);
  }
  float sums[M] = {};
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (mine && m < task.m) sums[m] = carried(task, batch, m, n);
  }
  for (int stage = 0; stage < stages; ++stage) {
    wait_groups<kStages - 2>();
    __syncthreads();  // this stage is there, the last one has been used
    if (stage + kStages - 1 < stages) fetch(stage + kStages - 1);
    end_group();
    if (!mine) continue;
    for (int r = 0; r < kRows; r += kChain) {
      const int k = stage * kRows + r;
      if (k >= depth) continue;
      const T* const rows = &tile[stage % kStages][r][threadIdx.x];
      if constexpr (kShared) {
        chain<T, float4, M>(task, rows, shared + k / 4, row_fours, depth - k, sums);
      } else {
        chain<T, T, M>(task, rows, x + k, task.a_row, depth - k, sums);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (mine && m < task.m) put(task, batch, m, n, sums[m]);
  }
}

// Any alignment: a column a thread.
template <typename T, int M>
__global__ void __launch_bounds__(kColumns)
    plain_axpy(const __grid_constant__ ProductTask task, const __grid_constant__ SlabTable table) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kColumns + threadIdx.x,
                     batch = blockIdx.y;
  after_previous();
  if (n >= task.n) return;
  const T* x = static_cast<const T*>(task.a) + batch * task.a_batch;
  float sums[M];
#pragma unroll
  for (int m = 0; m < M; ++m) sums[m] = m < task.m ? carried(task, batch, m, n) : 0.0f;
  constexpr int kUnder = 16;  // weights under way
  for (std::int64_t first = 0; first < task.k; first += kUnder) {
    T weights[kUnder];
#pragma unroll
    for (int u = 0; u < kUnder; ++u) {
      const std::int64_t k = first + u < task.k ? first + u : first, slab = k / table.rows;
      weights[u] = (static_cast<const T*>(table.slabs[slab]) +
                    batch * task.b_batch)[(k - slab * table.rows) * task.b_row + n];
    }
#pragma unroll
    for (int u = 0; u < kUnder; ++u) {
      if (first + u >= task.k) break;
#pragma unroll
      for (int m = 0; m < M; ++m)
        sums[m] = __fmaf_rn(widen(weights[u]),
                            widen(x[(m < task.m ? m : 0) * task.a_row + first + u]), sums[m]);
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (m < task.m) put(task, batch, m, n, sums[m]);
  }
}

template <typename T, int M>
cudaError_t start(const ProductTask& task, const SlabTable& table, cudaStream_t stream) {
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
  const auto even = [](std::int64_t step) { return step * kSize % 16 == 0; };
  bool vectors = task.b_col == 1 && even(task.b_row) && even(task.b_batch) && even(task.n) &&
                 task.k < (1 << 30);
  for (std::int64_t i = 0; i * table.rows < task.k; ++i)
    vectors = vectors && reinterpret_cast<std::uintptr_t>(table.slabs[i]) % 16 == 0;
  if (cudaError_t error = cudaSuccess; vectors && M == 1 && launch_axpy_stream(task, table, stream, &error)) return error;
  const dim3 grid(static_cast<unsigned>((task.n + kColumns - 1) / kColumns),
                  static_cast<unsigned>(task.batches));
  const std::size_t shared = static_cast<std::size_t>((task.k + 3) / 4 * task.m) * sizeof(float4);
  if (vectors && shared <= kMostShared) return launch_after(axpy<T, M, true>, grid, kThreads, shared, stream, task, table);
  if (vectors) return launch_after(axpy<T, M, false>, grid, kThreads, 0, stream, task, table);
  return launch_after(plain_axpy<T, M>, grid, kColumns, 0, stream, task, table);
}
template <typename T>
cudaError_t by_rows(const ProductTask& task, const SlabTable& table, cudaStream_t stream) {
  if (task.m <= 1) return start<T, 1>(task, table, stream);
  if (task.m <= 2) return start<T, 2>(task, table, stream);
  if (task.m <= 4) return start<T, 4>(task, table, stream);
  return start<T, 8>(task, table, stream);
}

}  // namespace

cudaError_t launch_axpy_slabs(const ProductTask& task, const SlabTable& table,
                              cudaStream_t stream) {
  if (task.m == 0 || task.n == 0 || task.batches == 0) return cudaSuccess;
  return by_float(task.b_type, [&](auto t) { return by_rows<decltype(t)>(task, table, stream); });
}

cudaError_t launch_axpy(const ProductTask& task, cudaStream_t stream) {
  SlabTable table;
  table.slabs[0] = task.b;
  table.rows = task.k > 0 ? task.k : 1;
  return launch_axpy_slabs(task, table, stream);
}

}  // namespace forebay::cuda
