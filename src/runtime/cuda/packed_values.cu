// Packed weights in the other ways: [k,n] products for few rows, and values written out.
#include <algorithm>

#include "runtime/cuda/norm_parts.cuh"
#include "runtime/cuda/packed_eight.cuh"

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

// The slab's row that row `row` of y is.
__device__ inline std::int64_t row_from(const UnpackTask& task, std::int64_t row) {
  if (task.indices == nullptr) return row;
  const std::int64_t place = row / task.each;
  std::int64_t index =
      task.wide ? static_cast<const std::int64_t*>(task.indices)[place] : static_cast<const std::int32_t*>(task.indices)[place];
  if (index < 0) index += task.table;
  return index * task.each + row % task.each;
}

// Eight neighbours a thread.
template <PackedCodes kCodes, typename T>
__global__ void unpack_runs(const __grid_constant__ UnpackTask task, const __grid_constant__ PackedWeight weight,
                            const __grid_constant__ PackedSlabs slabs, const __grid_constant__ PackedBlocks blocks) {
  const std::int64_t row = blockIdx.y + static_cast<std::int64_t>(blockIdx.z) * 32768;
  if (row >= task.rows) return;
  const PackedRow packed(weight, slabs, row_from(task, row));
  const bool is_signed = weight.code == DType::i4 || weight.code == DType::i8;
  const auto columns = static_cast<std::uint32_t>(task.columns);
  for (std::uint32_t run = blockIdx.x * blockDim.x + threadIdx.x; run * 8 < columns; run += gridDim.x * blockDim.x) {
    EightCodes<kCodes> eight;
    eight.load(packed.codes + run * EightCodes<kCodes>::kBytes);
    float w[8];
    if (blocks.each) {
      eight.template values<false>(is_signed, 1.0f, 0.0f, w);
#pragma unroll
      for (int i = 0; i < 8; ++i) w[i] = (w[i] - packed.zero(weight, run * 8 + i)) * packed.scale(weight, run * 8 + i);
    } else {
      const std::uint32_t block = blocks.of(run * 8, static_cast<std::uint32_t>(weight.col_block));
      const float scale = packed.scale(weight, block), zero = packed.zero(weight, block);
      eight.template values<false>(is_signed, scale, zero, w);  // not by one FMA: what is zero keeps the scale's sign, as the CPU's
    }
    write_run<T>(task.y, row * task.columns + run * 8, 8, true, w);
  }
}

__global__ void unpack(const __grid_constant__ UnpackTask task, const __grid_constant__ PackedWeight weight,
                       const __grid_constant__ PackedSlabs slabs) {
  const std::int64_t row = blockIdx.y + static_cast<std::int64_t>(blockIdx.z) * 32768;
  if (row >= task.rows) return;
  const PackedRow packed(weight, slabs, row_from(task, row));
  // Four neighbours a thread: their codes share a word, their scale mostly too.
  for (std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4; column < task.columns;
       column += static_cast<std::int64_t>(gridDim.x) * blockDim.x * 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + i < task.columns) write_number(task.y_type, task.y, row * task.columns + column + i, packed.value(weight, column + i));
    }
  }
}

template <PackedCodes kCodes>
void unpack_as(const UnpackTask& task, const PackedWeight& weight, const PackedSlabs& slabs, const PackedBlocks& blocks, dim3 grid,
               cudaStream_t stream) {
  constexpr int kThreads = 128;
  grid.x = static_cast<unsigned>(std::min<std::int64_t>(16, (task.columns + 8 * 4 * kThreads - 1) / (8 * 4 * kThreads)));
  switch (task.y_type) {
    case DType::f16:
      unpack_runs<kCodes, __half><<<grid, kThreads, 0, stream>>>(task, weight, slabs, blocks);
      break;
    case DType::bf16:
      unpack_runs<kCodes, __nv_bfloat16><<<grid, kThreads, 0, stream>>>(task, weight, slabs, blocks);
      break;
    default:
      unpack_runs<kCodes, float><<<grid, kThreads, 0, stream>>>(task, weight, slabs, blocks);
  }
}
// Values are rounded once: to y's type. False: not served.
bool unpack_eights(const UnpackTask& task, const PackedWeight& weight, const PackedSlabs& slabs, dim3 grid, cudaStream_t stream) {
  PackedBlocks blocks;
  if (!find_blocks(weight, task.columns, &blocks) || (weight.value != DType::f32 && weight.value != task.y_type)) return false;
  if (reinterpret_cast<std::uintptr_t>(task.y) % 16 != 0) return false;
  switch (weight.code) {
    case DType::i4:
    case DType::u4:
      unpack_as<PackedCodes::nibble>(task, weight, slabs, blocks, grid, stream);
      return true;
    case DType::i8:
    case DType::u8:
      unpack_as<PackedCodes::byte>(task, weight, slabs, blocks, grid, stream);
      return true;
    case DType::f8e4m3fn:
      unpack_as<PackedCodes::e4m3>(task, weight, slabs, blocks, grid, stream);
      return true;
    case DType::f8e5m2:
      unpack_as<PackedCodes::e5m2>(task, weight, slabs, blocks, grid, stream);
      return true;
    default:
      return false;
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
  if (unpack_eights(task, weight, slabs, grid, stream)) return cudaGetLastError();
  unpack<<<grid, 256, 0, stream>>>(task, weight, slabs);
  return cudaGetLastError();
}

}  // namespace forebay::cuda
