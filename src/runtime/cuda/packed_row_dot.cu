// Products by a packed [n,k] matrix for few rows: values are made in registers, from codes read once.
#include <type_traits>

#include "runtime/cuda/packed_eight.cuh"
#include "runtime/cuda/packed_group.h"

namespace forebay::cuda {
namespace {

constexpr int kRowWarps = 8;
// Eight elements of A: their bits are loaded early and widened late.
template <typename T>
struct EightX {
  uint4 bits;
  __device__ void load(const T* x) { bits = __ldg(reinterpret_cast<const uint4*>(x)); }
  __device__ void values(float (&out)[8]) const {
    const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
      } else {
        const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
        out[2 * i] = pair.x;
        out[2 * i + 1] = pair.y;
      }
    }
  }
};
template <>
struct EightX<float> {
  float4 low, high;
  __device__ void load(const float* x) {
    const auto* from = reinterpret_cast<const float4*>(x);
    low = __ldg(from);
    high = __ldg(from + 1);
  }
  __device__ void values(float (&out)[8]) const {
    const float all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = all[i];
  }
};

__device__ inline void round_eight(DType type, float (&w)[8]) {
  if (type == DType::f32) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (type == DType::bf16) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(w[2 * i], w[2 * i + 1]);
      const std::uint32_t bits = *reinterpret_cast<const std::uint32_t*>(&pair);
      w[2 * i] = __uint_as_float(bits << 16);
      w[2 * i + 1] = __uint_as_float(bits & 0xffff0000u);
    } else {
      const float2 pair = __half22float2(__floats2half2_rn(w[2 * i], w[2 * i + 1]));
      w[2 * i] = pair.x;
      w[2 * i + 1] = pair.y;
    }
  }
}

// The fixed tree of a warp whose lane l holds sums 8l to 8l+7.
template <int M>
__device__ inline void fold_and_put(const ProductTask& task, const float (&sums)[M][8], std::int64_t n) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const float* s = sums[m];
    float run = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
#pragma unroll
    for (int half = 16; half > 0; half /= 2) run = run + __shfl_down_sync(0xffffffffu, run, half);
    if (lane == 0 && m < task.m && n < task.n) put(task, 0, m, n, run);
  }
}

// A warp's rows, and their sums: sum i of a row takes elements i, i + 256, ...; eight neighbours have one scale and one zero point.
template <PackedCodes kCodes, typename T, int kRows, int M>
struct RowSums {
  const ProductTask& task;
  const PackedWeight& weight;
  const PackedBlocks& blocks;
  const std::uint8_t *codes[kRows], *scales[kRows];
  const T* x;
  const void* zeros[kRows];
  std::int64_t zero_at[kRows];
  float sums[kRows][M][8] = {};

  __device__ RowSums(const ProductTask& t, const PackedWeight& w, const PackedSlabs& slabs, const PackedBlocks& b, std::int64_t first,
                     unsigned lane)
      : task(t), weight(w), blocks(b), x(static_cast<const T*>(t.a) + lane * 8) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const PackedRow row(weight, slabs, first + r < task.n ? first + r : task.n - 1);
      codes[r] = row.codes + lane * EightCodes<kCodes>::kBytes;
      scales[r] = static_cast<const std::uint8_t*>(row.scales) + row.scale_at * (blocks.wide_scale ? 4 : 2);
      zeros[r] = row.zeros;
      zero_at[r] = row.zero_at;
    }
  }

  __device__ std::uint32_t scale_bits(int r, std::uint32_t block) const {
    const std::uint32_t at = block * static_cast<std::uint32_t>(weight.scale.col);
    return blocks.wide_scale ? __ldg(reinterpret_cast<const std::uint32_t*>(scales[r]) + at)
                             : __ldg(reinterpret_cast<const std::uint16_t*>(scales[r]) + at);
  }
  __device__ float scale_value(std::uint32_t bits) const {
    if (weight.scale.type == DType::f32) return __uint_as_float(bits);
    if (weight.scale.type == DType::bf16) return __uint_as_float(bits << 16);
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
  }
  __device__ float zero_value(int r, std::uint32_t block) const {
    if (!blocks.has_zero) return weight.zero_default;
    const std::int64_t at = zero_at[r] + block * weight.zero.col;
    const bool number = weight.zero.type == DType::f32 || weight.zero.type == DType::f16 || weight.zero.type == DType::bf16;
    return number ? read_number(weight.zero.type, zeros[r], at) : code_value(weight.zero.type, zeros[r], at);
  }

  // kSteps x 256 columns: all loads are under way before the first is used. The pointers move on.
  template <int kSteps, bool kExact>
  __device__ void step(std::uint32_t k) {
    const bool is_signed = weight.code == DType::i4 || weight.code == DType::i8;
    EightCodes<kCodes> eight[kSteps][kRows];
    std::uint32_t scale[kSteps][kRows];
    EightX<T> xs[kSteps];
#pragma unroll
    for (int u = 0; u < kSteps; ++u) {
      const std::uint32_t block = blocks.of(k + u * 256, static_cast<std::uint32_t>(weight.col_block));
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        eight[u][r].load(codes[r] + u * 32 * EightCodes<kCodes>::kBytes);
        scale[u][r] = scale_bits(r, block);
      }
      if (M == 1) xs[u].load(x + u * 256);
    }
#pragma unroll
    for (int u = 0; u < kSteps; ++u) {
      const std::uint32_t block = blocks.of(k + u * 256, static_cast<std::uint32_t>(weight.col_block));
      float w[kRows][8];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        eight[u][r].template values<kExact>(is_signed, scale_value(scale[u][r]), zero_value(r, block), w[r]);
        round_eight(weight.value, w[r]);
      }
#pragma unroll
      for (int m = 0; m < M; ++m) {
        float values[8];
        if (M > 1) xs[u].load(x + (m < task.m ? m : 0) * task.a_row + u * 256);
        xs[u].values(values);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int i = 0; i < 8; ++i) sums[r][m][i] = __fmaf_rn(w[r][i], values[i], sums[r][m][i]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) codes[r] += kSteps * 32 * EightCodes<kCodes>::kBytes;
    x += kSteps * 256;
  }
  template <bool kExact>
  __device__ void all(std::uint32_t k) {
    constexpr std::uint32_t kAhead = kCodes == PackedCodes::nibble ? 4 : 2;
    const auto end = static_cast<std::uint32_t>(task.k);
    for (; k + (kAhead - 1) * 256 < end; k += kAhead * 256) step<kAhead, kExact>(k);
    for (; k < end; k += 256) step<1, kExact>(k);
  }
};

template <PackedCodes kCodes, typename T, int kRows, int M>
__global__ void __launch_bounds__(kRowWarps * 32, M == 1 ? 3 : 1)
    packed_rows(const __grid_constant__ ProductTask task, const __grid_constant__ PackedWeight weight,
                const __grid_constant__ PackedSlabs slabs, const __grid_constant__ PackedBlocks blocks) {
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / 32) * kRows;
  if (first >= task.n) return;
  const unsigned lane = threadIdx.x % 32;
  RowSums<kCodes, T, kRows, M> rows(task, weight, slabs, blocks, first, lane);
  if (blocks.exact) {
    rows.template all<true>(lane * 8);
  } else {
    rows.template all<false>(lane * 8);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) fold_and_put<M>(task, rows.sums[r], first + r);
}

// Every other code type, block and size: element by element, the same order.
template <int M>
__global__ void __launch_bounds__(kRowWarps * 32)
    any_rows(const __grid_constant__ ProductTask task, const __grid_constant__ PackedWeight weight,
             const __grid_constant__ PackedSlabs slabs) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (n >= task.n) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const PackedRow row(weight, slabs, n);
  float sums[M][8] = {};
  for (std::int64_t begin = lane * 8; begin < task.k; begin += 256) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const std::int64_t k = begin + i;
      if (k >= task.k) continue;
      const float w = row.value(weight, k);
#pragma unroll
      for (int m = 0; m < M; ++m)
        sums[m][i] = __fmaf_rn(w, read_number(task.a_type, task.a, (m < task.m ? m : 0) * task.a_row + k), sums[m][i]);
    }
  }
  fold_and_put<M>(task, sums, n);
}

unsigned grid_of(const ProductTask& task, int rows) {
  return static_cast<unsigned>((task.n + kRowWarps * rows - 1) / (kRowWarps * rows));
}

template <PackedCodes kCodes, typename T>
cudaError_t start(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, PackedBlocks blocks, cudaStream_t stream) {
  constexpr std::int64_t kManyRows = 16384;  // where two rows a warp still fill the device; a row's sum is the same either way
  if (task.m <= 1 && task.n >= kManyRows) {
    packed_rows<kCodes, T, 2, 1><<<grid_of(task, 2), kRowWarps * 32, 0, stream>>>(task, weight, slabs, blocks);
  } else if (task.m <= 1) {
    packed_rows<kCodes, T, 1, 1><<<grid_of(task, 1), kRowWarps * 32, 0, stream>>>(task, weight, slabs, blocks);
  } else {
    packed_rows<kCodes, T, 1, 8><<<grid_of(task, 1), kRowWarps * 32, 0, stream>>>(task, weight, slabs, blocks);
  }
  return cudaGetLastError();
}
template <PackedCodes kCodes>
cudaError_t by_x(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, PackedBlocks blocks, cudaStream_t stream) {
  if (task.a_type == DType::f32) return start<kCodes, float>(task, weight, slabs, blocks, stream);
  if (task.a_type == DType::f16) return start<kCodes, __half>(task, weight, slabs, blocks, stream);
  return start<kCodes, __nv_bfloat16>(task, weight, slabs, blocks, stream);
}

// Rows of A and of codes are read eight elements at a time; slabs begin at multiples of 64 bytes.
bool serves(const ProductTask& task, const PackedWeight& weight, PackedBlocks* blocks) {
  const std::int64_t size = task.a_type == DType::f32 ? 4 : 2;
  if (reinterpret_cast<std::uintptr_t>(task.a) % 16 != 0 || task.a_row * size % 16 != 0) return false;
  return find_blocks(weight, task.k, blocks) && !blocks->each;
}

}  // namespace

cudaError_t launch_packed_row_dot(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0) return cudaSuccess;
  cudaError_t error = cudaSuccess;
  PackedGroup alone;
  alone.count = 1;
  alone.tasks[0] = task;
  alone.weights[0] = weight;
  alone.slabs[0] = slabs;
  if (launch_packed_stream(alone, stream, &error)) return error;
  PackedBlocks blocks;
  if (serves(task, weight, &blocks)) {
    switch (weight.code) {
      case DType::i4:
      case DType::u4:
        return by_x<PackedCodes::nibble>(task, weight, slabs, blocks, stream);
      case DType::i8:
      case DType::u8:
        return by_x<PackedCodes::byte>(task, weight, slabs, blocks, stream);
      case DType::f8e4m3fn:
        return by_x<PackedCodes::e4m3>(task, weight, slabs, blocks, stream);
      case DType::f8e5m2:
        return by_x<PackedCodes::e5m2>(task, weight, slabs, blocks, stream);
      default:
        break;
    }
  }
  if (task.m <= 1) {
    any_rows<1><<<grid_of(task, 1), kRowWarps * 32, 0, stream>>>(task, weight, slabs);
  } else {
    any_rows<8><<<grid_of(task, 1), kRowWarps * 32, 0, stream>>>(task, weight, slabs);
  }
  return cudaGetLastError();
}

}  // namespace forebay::cuda
