// Products by a packed [n,k] matrix for few rows: values are made in registers, from codes read once.
#include "runtime/cuda/packed_numbers.cuh"

namespace forebay::cuda {
namespace {

constexpr int kRowWarps = 8;
constexpr float kMagic = 8388608.0f;  // 2^23: an integer below 256 added to its bits is added to its value

enum class Codes { nibble, byte, e4m3, e5m2 };

// Eight neighbouring codes, and what `bias` must be for value = float(i) - bias to be the code less its zero point.
template <Codes kCodes>
struct Eight;
template <>
struct Eight<Codes::nibble> {
  static constexpr int kAhead = 8;
  static constexpr bool kInteger = true;
  std::uint32_t word;
  __device__ void load(const std::uint8_t* codes, std::int64_t k) { word = __ldcs(reinterpret_cast<const std::uint32_t*>(codes + k / 2)); }
  __device__ void flip(bool is_signed) { word ^= is_signed ? 0x88888888u : 0u; }
  __device__ static float middle() { return 8.0f; }
  __device__ float operator()(int i) const { return __uint_as_float(((word >> (4 * i)) & 0xfu) | 0x4B000000u); }
};
template <>
struct Eight<Codes::byte> {
  static constexpr int kAhead = 4;
  static constexpr bool kInteger = true;
  uint2 words;
  __device__ void load(const std::uint8_t* codes, std::int64_t k) { words = __ldcs(reinterpret_cast<const uint2*>(codes + k)); }
  __device__ void flip(bool is_signed) {
    words.x ^= is_signed ? 0x80808080u : 0u;
    words.y ^= is_signed ? 0x80808080u : 0u;
  }
  __device__ static float middle() { return 128.0f; }
  __device__ float operator()(int i) const { return __uint_as_float(__byte_perm(i < 4 ? words.x : words.y, 0x4B000000u, 0x7440u | static_cast<unsigned>(i % 4))); }
};
template <__nv_fp8_interpretation_t kFormat>
struct EightFloats {
  static constexpr int kAhead = 4;
  static constexpr bool kInteger = false;
  uint2 words;
  __device__ void load(const std::uint8_t* codes, std::int64_t k) { words = __ldcs(reinterpret_cast<const uint2*>(codes + k)); }
  __device__ void flip(bool) {}
  __device__ static float middle() { return 0.0f; }
  __device__ float operator()(int i) const { return fp8_value(((i < 4 ? words.x : words.y) >> (8 * (i % 4))) & 0xffu, kFormat); }
};
template <>
struct Eight<Codes::e4m3> : EightFloats<__NV_E4M3> {};
template <>
struct Eight<Codes::e5m2> : EightFloats<__NV_E5M2> {};

__device__ inline void load_x(DType type, const void* x, std::int64_t at, float (&out)[8]) {
  if (type == DType::f32) {
    const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(x) + at);
    const float4 low = __ldg(from), high = __ldg(from + 1);
    const float all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = all[i];
    return;
  }
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(x) + at));
  const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (type == DType::bf16) {
      out[2 * i] = __uint_as_float(words[i] << 16);
      out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      out[2 * i] = pair.x;
      out[2 * i + 1] = pair.y;
    }
  }
}

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
    if (lane == 0 && m < task.m) put(task, 0, m, n, run);
  }
}

struct Blocks {
  int shift = 0;  // of the columns to their block; below 0: blocks are no power of two
};

// A warp a row. Sum i takes elements i, i + 256, ...; eight neighbours have one scale and one zero point.
template <Codes kCodes, int M>
__global__ void __launch_bounds__(kRowWarps * 32) packed_rows(const __grid_constant__ ProductTask task, const __grid_constant__ PackedWeight weight,
                                                             const __grid_constant__ PackedSlabs slabs, Blocks blocks) {
  using Codes8 = Eight<kCodes>;
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (n >= task.n) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const PackedRow row(weight, slabs, n);
  const bool is_signed = weight.code == DType::i4 || weight.code == DType::i8;
  const bool whole_zero = weight.zero.type != DType::f32 && weight.zero.type != DType::f16 && weight.zero.type != DType::bf16;
  const float base = Codes8::kInteger ? kMagic + (is_signed ? Codes8::middle() : 0.0f) : 0.0f;
  float sums[M][8] = {};
  const auto take = [&](Codes8 codes, std::int64_t k) {
    const std::int64_t block = blocks.shift >= 0 ? k >> blocks.shift : static_cast<std::int64_t>(static_cast<std::uint32_t>(k) / static_cast<std::uint32_t>(weight.col_block));
    const float scale = row.scale(weight, block), zero = row.zero(weight, block);
    float w[8];
    codes.flip(is_signed);
    if (Codes8::kInteger && whole_zero) {  // one exact subtraction
      const float bias = base + zero;
#pragma unroll
      for (int i = 0; i < 8; ++i) w[i] = (codes(i) - bias) * scale;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) w[i] = ((codes(i) - base) - zero) * scale;
    }
    round_eight(weight.value, w);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      float x[8];
      load_x(task.a_type, task.a, (m < task.m ? m : 0) * task.a_row + k, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[m][i] = __fmaf_rn(w[i], x[i], sums[m][i]);
    }
  };
  std::int64_t k = lane * 8;
  for (; k + (Codes8::kAhead - 1) * 256 < task.k; k += Codes8::kAhead * 256) {
    Codes8 codes[Codes8::kAhead];
#pragma unroll
    for (int u = 0; u < Codes8::kAhead; ++u) codes[u].load(row.codes, k + u * 256);
#pragma unroll
    for (int u = 0; u < Codes8::kAhead; ++u) take(codes[u], k + u * 256);
  }
  for (; k < task.k; k += 256) {
    Codes8 codes;
    codes.load(row.codes, k);
    take(codes, k);
  }
  fold_and_put<M>(task, sums, n);
}

// Every other code type, block and size: element by element, the same order.
template <int M>
__global__ void __launch_bounds__(kRowWarps * 32) any_rows(const __grid_constant__ ProductTask task, const __grid_constant__ PackedWeight weight,
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
      for (int m = 0; m < M; ++m) sums[m][i] = __fmaf_rn(w, read_number(task.a_type, task.a, (m < task.m ? m : 0) * task.a_row + k), sums[m][i]);
    }
  }
  fold_and_put<M>(task, sums, n);
}

unsigned grid_of(const ProductTask& task) { return static_cast<unsigned>((task.n + kRowWarps - 1) / kRowWarps); }

template <Codes kCodes>
cudaError_t start(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, Blocks blocks, cudaStream_t stream) {
  if (task.m <= 1) {
    packed_rows<kCodes, 1><<<grid_of(task), kRowWarps * 32, 0, stream>>>(task, weight, slabs, blocks);
  } else if (task.m <= 4) {
    packed_rows<kCodes, 4><<<grid_of(task), kRowWarps * 32, 0, stream>>>(task, weight, slabs, blocks);
  } else {
    packed_rows<kCodes, 8><<<grid_of(task), kRowWarps * 32, 0, stream>>>(task, weight, slabs, blocks);
  }
  return cudaGetLastError();
}

// Rows of A and of codes are read eight elements at a time; slabs begin at multiples of 64 bytes.
bool serves(const ProductTask& task, const PackedWeight& weight, Blocks* blocks) {
  const bool blocked = weight.scale.col != 0 || weight.zero.col != 0;
  if (task.k % 8 != 0 || weight.stride % 8 != 0 || (blocked && weight.col_block % 8 != 0) || task.k > 0x7fffffff) return false;
  const std::int64_t size = task.a_type == DType::f32 ? 4 : 2;
  if (reinterpret_cast<std::uintptr_t>(task.a) % 16 != 0 || task.a_row * size % 16 != 0) return false;
  blocks->shift = 62;
  if (blocked) {
    blocks->shift = -1;
    for (int shift = 3; shift < 31; ++shift) {
      if (weight.col_block == std::int64_t{1} << shift) blocks->shift = shift;
    }
  }
  return true;
}

}  // namespace

cudaError_t launch_packed_row_dot(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream) {
  if (task.m == 0 || task.n == 0) return cudaSuccess;
  Blocks blocks;
  if (serves(task, weight, &blocks)) {
    switch (weight.code) {
      case DType::i4: case DType::u4: return start<Codes::nibble>(task, weight, slabs, blocks, stream);
      case DType::i8: case DType::u8: return start<Codes::byte>(task, weight, slabs, blocks, stream);
      case DType::f8e4m3fn: return start<Codes::e4m3>(task, weight, slabs, blocks, stream);
      case DType::f8e5m2: return start<Codes::e5m2>(task, weight, slabs, blocks, stream);
      default: break;
    }
  }
  if (task.m <= 1) {
    any_rows<1><<<grid_of(task), kRowWarps * 32, 0, stream>>>(task, weight, slabs);
  } else {
    any_rows<8><<<grid_of(task), kRowWarps * 32, 0, stream>>>(task, weight, slabs);
  }
  return cudaGetLastError();
}

}  // namespace forebay::cuda
