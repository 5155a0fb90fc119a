// Products of one row with B as columns, for 16-bit numbers: the chain of FMAs of axpy_cuda.cu, the same bits. A chain waits four cycles
// for each of its numbers whatever else is done, so one warp computes 32 columns and does little besides: weights and activations are in
// registers ahead of their turn, and four warps fetch large stages, so that the block seldom meets.
#include "runtime/cuda/axpy_stream.h"

#include "runtime/cuda/product_parts.cuh"

namespace forebay::cuda {
namespace {

constexpr int kColumns = 32, kRows = 128, kStages = 6;
constexpr int kFetchers = 128, kThreads = 32 + kFetchers;
constexpr int kPieces = kColumns / 8, kStep = kFetchers / kPieces;  // 16-byte pieces of a row; rows that are fetched at a time
constexpr int kChain = 16;                                          // numbers in registers at a time, twice
constexpr int kTileBytes = kStages * kRows * kColumns * 2;
constexpr std::int64_t kLeastDepth = 512, kMostDepth = 28 << 10;

__device__ inline void copy_piece(void* to, const void* from, bool there) {  // zeros where there is nothing
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from),
               "r"(bytes));
}

// The rows of a fetching thread, one after the other.
template <typename T>
struct ColumnSource {
  const ProductTask& task;
  const SlabTable& table;
  int k, slab = 0, in_slab, column;
  bool mine;
  __device__ inline ColumnSource(const ProductTask& t, const SlabTable& s, int thread, int n0)
      : task(t), table(s), k(thread / kPieces), in_slab(k), column(n0 + thread % kPieces * 8), mine(column < t.n) {
    settle();
  }
  __device__ inline void settle() {
    while (in_slab >= table.rows && k < task.k) {
      in_slab -= static_cast<int>(table.rows);
      ++slab;
    }
  }
  __device__ inline void fetch(T (*to)[kColumns], int thread) {
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) {
      const bool there = mine && k < task.k;
      const T* const from = static_cast<const T*>(table.slabs[there ? slab : 0]) + (there ? in_slab * task.b_row + column : 0);
      copy_piece(&to[i * kStep + thread / kPieces][thread % kPieces * 8], from, there);
      k += kStep;
      in_slab += kStep;
      settle();
    }
  }
};

template <typename T>
__device__ inline float chain_stage(const T* rows, const float4* x, float sum) {
  T w[2][kChain];
  float4 values[2][kChain / 4];
  const auto load = [&](int chunk) {
#pragma unroll
    for (int r = 0; r < kChain; ++r) w[chunk % 2][r] = rows[(chunk * kChain + r) * kColumns];
#pragma unroll
    for (int r = 0; r < kChain / 4; ++r) values[chunk % 2][r] = x[chunk * kChain / 4 + r];
  };
  load(0);
#pragma unroll
  for (int chunk = 0; chunk < kRows / kChain; ++chunk) {
    if (chunk + 1 < kRows / kChain) load(chunk + 1);
#pragma unroll
    for (int r = 0; r < kChain; r += 4) {
      const float4 four = values[chunk % 2][r / 4];
      sum = __fmaf_rn(widen(w[chunk % 2][r]), four.x, sum);
      sum = __fmaf_rn(widen(w[chunk % 2][r + 1]), four.y, sum);
      sum = __fmaf_rn(widen(w[chunk % 2][r + 2]), four.z, sum);
      sum = __fmaf_rn(widen(w[chunk % 2][r + 3]), four.w, sum);
    }
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    axpy_stream(const __grid_constant__ ProductTask task, const __grid_constant__ SlabTable table) {
  extern __shared__ float4 memory[];
  auto* const tiles = reinterpret_cast<T(*)[kRows][kColumns]>(memory);
  auto* const x = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(memory) + kTileBytes);
  const int thread = static_cast<int>(threadIdx.x), n0 = static_cast<int>(blockIdx.x) * kColumns, n = n0 + thread,
            depth = static_cast<int>(task.k), stages = (depth + kRows - 1) / kRows;
  const bool fetches = thread >= 32;
  ColumnSource<T> source(task, table, fetches ? thread - 32 : 0, n0);
  const auto fetch = [&](int stage) {
    if (fetches && stage < stages) source.fetch(tiles[stage % kStages], thread - 32);
    asm volatile("cp.async.commit_group;");
  };
  const auto begin = [&] {
    for (int s = 0; s < kStages - 1; ++s) fetch(s);
  };
  if (task.constant_b) begin();  // nothing before this kernel writes them
  after_previous();
  if (!task.constant_b) begin();
  const T* const given = static_cast<const T*>(task.a);
  for (int i = thread; i < depth; i += kThreads) x[i] = widen(given[i]);
  const bool mine = !fetches && n < task.n;
  float sum = mine ? carried(task, 0, 0, n) : 0.0f;
  for (int stage = 0; stage < stages; ++stage) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2));
    __syncthreads();  // this stage is there, the last one has been used
    fetch(stage + kStages - 1);
    if (fetches) continue;
    const int at = stage * kRows;
    const T* const rows = &tiles[stage % kStages][0][thread];
    if (depth - at >= kRows) {
      sum = chain_stage<T>(rows, reinterpret_cast<const float4*>(x + at), sum);
    } else {
      for (int r = 0; r < depth - at; ++r) sum = __fmaf_rn(widen(rows[r * kColumns]), x[at + r], sum);
    }
  }
  if (mine) put(task, 0, 0, n, sum);
}

template <typename T>
cudaError_t start(const ProductTask& task, const SlabTable& table, cudaStream_t stream) {
  const std::size_t bytes = kTileBytes + static_cast<std::size_t>(task.k) * sizeof(float);
  return launch_after(axpy_stream<T>, dim3(static_cast<unsigned>((task.n + kColumns - 1) / kColumns)), kThreads, bytes, stream, task,
                      table);
}

}  // namespace

bool launch_axpy_stream(const ProductTask& task, const SlabTable& table, cudaStream_t stream, cudaError_t* error) {
  const bool sixteen = task.b_type == DType::f16 || task.b_type == DType::bf16;
  if (!sixteen || task.m != 1 || task.batches != 1 || task.k < kLeastDepth || task.k > kMostDepth || task.n > (1 << 30)) return false;
  int device = 0, most = 0;
  *error = cudaGetDevice(&device);
  if (*error == cudaSuccess) *error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (*error != cudaSuccess || kTileBytes + task.k * static_cast<std::int64_t>(sizeof(float)) > most) return false;
  *error = task.b_type == DType::f16 ? start<__half>(task, table, stream) : start<__nv_bfloat16>(task, table, stream);
  return true;
}

}  // namespace forebay::cuda
