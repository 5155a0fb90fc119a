// Products of few rows with B as rows: a warp a row of B, in the order of additions of
// runtime/cpu/gemv.h, the same bits. A row's sum does not depend on what else a launch holds, nor
// on where its activations are read.
#include "runtime/cuda/by_type.cuh"
#include "runtime/cuda/row_group.h"
#include "runtime/cuda/row_parts.cuh"

namespace forebay::cuda {
namespace {

constexpr int kRowWarps = 8;
constexpr std::size_t kMostShared = 48 << 10;  // of activations: four blocks a multiprocessor

// Eight neighbours of a row. Weights are read once: they pass by the first cache. Activations are
// read by plain loads: the compiler might move those of read-only data ahead of after_previous().
template <typename T>
struct Eight {
  static constexpr int kParts = static_cast<int>(sizeof(T)) / 2;
  uint4 parts[kParts];
  // Parts lie `step` apart.
  __device__ void load(const uint4* from, int step) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) parts[p] = from[p * step];
  }
  __device__ void load(const T* from) {
    load(reinterpret_cast<const uint4*>(from), 1);
  }
  __device__ void stream(const T* from) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) parts[p] = read_once(reinterpret_cast<const uint4*>(from) + p);
  }
  __device__ float operator[](int i) const {
    const uint4& part = parts[i * kParts / 8];
    const int word = i * kParts / 2 % 4;
    const std::uint32_t bits = word == 0   ? part.x
                               : word == 1 ? part.y
                               : word == 2 ? part.z
                                           : part.w;
    if constexpr (std::is_same_v<T, float>) return __uint_as_float(bits);
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
      return __uint_as_float(i % 2 == 0 ? bits << 16 : bits & 0xffff0000u);
    return __half2float(
        __ushort_as_half(static_cast<unsigned short>(i % 2 == 0 ? bits & 0xffffu : bits >> 16)));
  }
};

// Any alignment.
template <typename T, int M>
__device__ inline void plain_row(const ProductTask& task, const T* w, const T* x,
                                 float (&sums)[M][8]) {
  for (std::int64_t k = threadIdx.x % 32 * 8; k < task.k; k += 256) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (k + i >= task.k) continue;
#pragma unroll
      for (int m = 0; m < M; ++m)
        sums[m][i] = __fmaf_rn(widen(w[k + i]), widen(x[(m < task.m ? m : 0) * task.a_row + k + i]),
                               sums[m][i]);
    }
  }
}

// The activations, for all rows of the block. Parts of a run lie apart: then a warp's reads do not
// collide.
template <typename T, int M>
__device__ inline void share_rows(const ProductTask& task, const T* x, uint4* shared) {
  const int runs = static_cast<int>(task.k / 8);
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const T* row = x + (m < task.m ? m : 0) * task.a_row;
    for (int i = static_cast<int>(threadIdx.x); i < runs; i += kRowWarps * 32) {
      Eight<T> values;
      values.load(row + i * 8);
#pragma unroll
      for (int p = 0; p < Eight<T>::kParts; ++p)
        shared[(m * Eight<T>::kParts + p) * runs + i] = values.parts[p];
    }
  }
  __syncthreads();
}

// The blocks of the first product come first.
struct RowWork {
  RowGroup group;
  unsigned begins[RowGroup::kMost + 1] = {};  // blocks
  bool vectors = false;
};

template <typename T, int M, bool kShared>
__global__ void __launch_bounds__(kRowWarps * 32, M == 1   ? 4
                                                  : M == 2 ? 3
                                                           : 2)
    row_dot(const __grid_constant__ RowWork work) {
  int which = 0;
  while (blockIdx.x >= work.begins[which + 1]) ++which;
  const ProductTask& task = work.group.tasks[which];
  const SlabTable& table = work.group.tables[which];
  const bool vectors = work.vectors;
  extern __shared__ uint4 shared[];
  constexpr int kAhead = (M > 2 ? 4 : 8) / Eight<T>::kParts;  // runs of 256 weights under way
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x - work.begins[which]) *
                             kRowWarps +
                         threadIdx.x / 32,
                     batch = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x) % 32, runs = static_cast<int>(task.k / 8);
  const bool mine = n < task.n;
  const auto slab =
      mine ? static_cast<std::uint32_t>(n) / static_cast<std::uint32_t>(table.rows) : 0;
  const T* w = static_cast<const T*>(table.slabs[slab]) + batch * task.b_batch +
               (mine ? n - slab * table.rows : 0) * task.k;
  const T* x = static_cast<const T*>(task.a) + batch * task.a_batch;
  Eight<T> weights[kAhead];
  const auto begin = [&] {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (mine && vectors && u * 32 + lane < runs) weights[u].stream(w + (u * 32 + lane) * 8);
    }
  };
  if (task.constant_b) begin();  // nothing before this kernel writes them
  after_previous();
  if (!task.constant_b) begin();
  if constexpr (kShared) share_rows<T, M>(task, x, shared);
  if (!mine) return;
  float sums[M][8] = {};
  if (!vectors) {
    plain_row<T, M>(task, w, x, sums);
    return finish_row<M>(task, sums, n, batch);
  }
  for (int at = lane; at < runs; at += kAhead * 32) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int run = at + u * 32, next = run + kAhead * 32;
      if (run < runs) {
#pragma unroll
        for (int m = 0; m < M; ++m) {
          Eight<T> values;
          if constexpr (kShared) {
            values.load(shared + m * Eight<T>::kParts * runs + run, runs);
          } else {
            values.load(x + (m < task.m ? m : 0) * task.a_row + run * 8);
          }
#pragma unroll
          for (int i = 0; i < 8; ++i) sums[m][i] = __fmaf_rn(weights[u][i], values[i], sums[m][i]);
        }
      }
      if (next < runs) weights[u].stream(w + next * 8);
    }
  }
  finish_row<M>(task, sums, n, batch);
}

template <typename T, int M>
cudaError_t start(RowWork& work, cudaStream_t stream) {
  const auto aligned = [](const void* data, std::int64_t step) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
           step * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
  };
  const RowGroup& group = work.group;
  const ProductTask& task = group.tasks[0];
  work.vectors = task.k % 8 == 0 && aligned(task.a, task.a_row) && aligned(task.a, task.a_batch);
  for (int t = 0; t < group.count; ++t) {
    const std::int64_t n = group.tasks[t].n, rows = group.tables[t].rows;
    for (std::int64_t i = 0; i * rows < n; ++i) work.vectors = work.vectors && aligned(group.tables[t].slabs[i], task.b_batch);
    work.begins[t + 1] = work.begins[t] + static_cast<unsigned>((n + kRowWarps - 1) / kRowWarps);
  }
  if (cudaError_t error = cudaSuccess; work.vectors && launch_row_stream(group, {}, stream, &error)) return error;
  const dim3 grid(work.begins[group.count], static_cast<unsigned>(task.batches));
  const std::size_t bytes = static_cast<std::size_t>(task.k) * M * sizeof(T);
  if (!work.vectors || bytes > kMostShared)
    return launch_after(row_dot<T, M, false>, grid, kRowWarps * 32, 0, stream, work);
  return launch_after(row_dot<T, M, true>, grid, kRowWarps * 32, bytes, stream, work);
}
template <typename T>
cudaError_t by_rows(RowWork& work, cudaStream_t stream) {
  if (work.group.tasks[0].m <= 1) return start<T, 1>(work, stream);
  if (work.group.tasks[0].m <= 2) return start<T, 2>(work, stream);
  if (work.group.tasks[0].m <= 4) return start<T, 4>(work, stream);
  return start<T, 8>(work, stream);
}
cudaError_t start_rows(RowWork& work, cudaStream_t stream) {
  return by_float(work.group.tasks[0].b_type, [&](auto t) { return by_rows<decltype(t)>(work, stream); });
}

}  // namespace

cudaError_t launch_row_dot_slabs(const ProductTask& task, const SlabTable& table,
                                 cudaStream_t stream) {
  if (task.m == 0 || task.n == 0 || task.batches == 0) return cudaSuccess;
  RowWork work;
  work.group.count = 1;
  work.group.tasks[0] = task;
  work.group.tables[0] = table;
  return start_rows(work, stream);
}

cudaError_t launch_row_dot_group(const RowGroup& group, cudaStream_t stream) {
  RowWork work;
  work.group = group;
  return start_rows(work, stream);
}

cudaError_t launch_row_dot(const ProductTask& task, cudaStream_t stream) {
  SlabTable table;
  table.slabs[0] = task.b;
  table.rows = task.n > 0 ? task.n : 1;
  return launch_row_dot_slabs(task, table, stream);
}

}  // namespace forebay::cuda
