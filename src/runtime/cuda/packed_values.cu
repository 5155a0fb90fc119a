// Packed weights in the other ways: [k,n] products for few rows, and values written out.
#include "runtime/cuda/packed_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kColumns = 64;  // threads of a block, a column each

template <int M>
__global__ void __launch_bounds__(kColumns)
    packed_axpy(const __grid_constant__ ProductTask task, const __grid_constant__ PackedWeight weight,
                const __grid_constant__ PackedSlabs slabs) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  if (n >= task.n) return;
  float sums[M];
#pragma unroll
  for (int m = 0; m < M; ++m) sums[m] = m < task.m ? sum_so_far(task, m, n) : 0.0f;
  constexpr int kUnder = 8;
  std::int64_t k = 0;
  for (; k + kUnder <= task.k; k += kUnder) {
    float w[kUnder];
#pragma unroll
    for (int u = 0; u < kUnder; ++u) w[u] = PackedRow(weight, slabs, k + u).value(weight, n);
#pragma unroll
    for (int u = 0; u < kUnder; ++u) {
#pragma unroll
      for (int m = 0; m < M; ++m)
        sums[m] = __fmaf_rn(w[u], read_number(task.a_type, task.a, (m < task.m ? m : 0) * task.a_row + k + u), sums[m]);
    }
  }
  for (; k < task.k; ++k) {
    const float w = PackedRow(weight, slabs, k).value(weight, n);
#pragma unroll
    for (int m = 0; m < M; ++m) sums[m] = __fmaf_rn(w, read_number(task.a_type, task.a, (m < task.m ? m : 0) * task.a_row + k), sums[m]);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (m < task.m) put(task, 0, m, n, sums[m]);
  }
}

__global__ void unpack(const __grid_constant__ UnpackTask task, const __grid_constant__ PackedWeight weight,
                       const __grid_constant__ PackedSlabs slabs) {
  const std::int64_t row = blockIdx.y + static_cast<std::int64_t>(blockIdx.z) * 32768;
  if (row >= task.rows) return;
  std::int64_t from = row;
  if (task.indices != nullptr) {
    const std::int64_t place = row / task.each;
    std::int64_t index =
        task.wide ? static_cast<const std::int64_t*>(task.indices)[place] : static_cast<const std::int32_t*>(task.indices)[place];
    if (index < 0) index += task.table;
    from = index * task.each + row % task.each;
  }
  const PackedRow packed(weight, slabs, from);
  // Four neighbours a thread: their codes share a word, their scale mostly too.
  for (std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4; column < task.columns;
       column += static_cast<std::int64_t>(gridDim.x) * blockDim.x * 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + i < task.columns) write_number(task.y_type, task.y, row * task.columns + column + i, packed.value(weight, column + i));
    }
  }
}

}  // namespace

cudaError_t launch_packed_axpy(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((task.n + kColumns - 1) / kColumns);
  if (task.m <= 1) {
    packed_axpy<1><<<blocks, kColumns, 0, stream>>>(task, weight, slabs);
  } else {
    packed_axpy<8><<<blocks, kColumns, 0, stream>>>(task, weight, slabs);
  }
  return cudaGetLastError();
}

cudaError_t launch_unpack(const UnpackTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream) {
  if (task.rows == 0 || task.columns == 0) return cudaSuccess;
  const std::int64_t across = (task.columns + 1023) / 1024;
  const dim3 grid(static_cast<unsigned>(across < 64 ? across : 64), static_cast<unsigned>(task.rows < 32768 ? task.rows : 32768),
                  static_cast<unsigned>((task.rows + 32767) / 32768));
  unpack<<<grid, 256, 0, stream>>>(task, weight, slabs);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
