// Eight neighbouring codes of a row and their values, for kernels that ask for codes as they go.
#pragma once

#include "runtime/cuda/packed_numbers.cuh"

namespace forebay::cuda {

enum class PackedCodes { nibble, byte, e4m3, e5m2 };

// Eight neighbouring codes of a row, and their values: (code - zero) * scale. `exact`: the scale has at most 11 bits and the zero point is
// a code, so that the value has a place in f32 and may be made by one FMA, without being rounded before (scales below 2^116).
template <PackedCodes kCodes>
struct EightCodes;

template <>
struct EightCodes<PackedCodes::nibble> {
  std::uint32_t word;
  static constexpr unsigned kBytes = 4;
  __device__ void load(const std::uint8_t* codes) { word = __ldcs(reinterpret_cast<const std::uint32_t*>(codes)); }
  template <bool exact>
  __device__ void values(bool is_signed, float scale, float zero, float (&w)[8]) const {
    const std::uint32_t bits = word ^ (is_signed ? 0x88888888u : 0u);
    const float from = zero + (is_signed ? 8.0f : 0.0f);
    if constexpr (exact) {
      // Behind a leading one at bits 12 to 15 or 16 to 19 a code counts 2^-11 or 2^-7.
      const float low = scale * 2048.0f, high = scale * 128.0f, low_from = -(2048.0f + from) * scale, high_from = -(128.0f + from) * scale;
      const std::uint32_t turned[4] = {(bits << 16) | (bits >> 16), bits << 8, bits, bits >> 8};
      constexpr int kLow[4] = {7, 1, 3, 5}, kHigh[4] = {0, 2, 4, 6};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        w[kLow[i]] = __fmaf_rn(__uint_as_float((turned[i] & 0xf000u) | 0x3f800000u), low, low_from);
        w[kHigh[i]] = __fmaf_rn(__uint_as_float((turned[i] & 0xf0000u) | 0x3f800000u), high, high_from);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float code = __uint_as_float(((bits >> (4 * i)) & 0xfu) | 0x4B000000u) - (is_signed ? 8388616.0f : 8388608.0f);
        w[i] = (code - zero) * scale;
      }
    }
  }
};
template <>
struct EightCodes<PackedCodes::byte> {
  uint2 words;
  static constexpr unsigned kBytes = 8;
  __device__ void load(const std::uint8_t* codes) { words = __ldcs(reinterpret_cast<const uint2*>(codes)); }
  template <bool exact>
  __device__ void values(bool is_signed, float scale, float zero, float (&w)[8]) const {
    const std::uint32_t flip = is_signed ? 0x80808080u : 0u, low = words.x ^ flip, high = words.y ^ flip;
    const float base = is_signed ? 8388736.0f : 8388608.0f, from = exact ? base + zero : base, rest = exact ? 0.0f : zero;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float code = __uint_as_float(__byte_perm(i < 4 ? low : high, 0x4B000000u, 0x7440u | static_cast<unsigned>(i % 4))) - from;
      w[i] = (exact ? code : code - rest) * scale;
    }
  }
};
template <__nv_fp8_interpretation_t kFormat>
struct EightFloats {
  uint2 words;
  static constexpr unsigned kBytes = 8;
  __device__ void load(const std::uint8_t* codes) { words = __ldcs(reinterpret_cast<const uint2*>(codes)); }
  template <bool exact>
  __device__ void values(bool, float scale, float zero, float (&w)[8]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto pair = static_cast<__nv_fp8x2_storage_t>((i < 2 ? words.x : words.y) >> (16 * (i % 2)));
      const float2 both = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, kFormat)));
      w[2 * i] = (both.x - zero) * scale;
      w[2 * i + 1] = (both.y - zero) * scale;
    }
  }
};
template <>
struct EightCodes<PackedCodes::e4m3> : EightFloats<__NV_E4M3> {};
template <>
struct EightCodes<PackedCodes::e5m2> : EightFloats<__NV_E5M2> {};

struct PackedBlocks {
  int shift = 0;  // of the columns to their block; below 0: blocks are no power of two
  bool wide_scale = false, has_zero = false, exact = false;
  bool each = false;  // a scale, and a zero point, for each column
  __device__ std::uint32_t of(std::uint32_t k, std::uint32_t block) const { return shift >= 0 ? k >> shift : k / block; }
};

// Whether eight neighbours of a row lie at a multiple of their bytes and have one scale and one zero point, or one each.
inline bool find_blocks(const PackedWeight& weight, std::int64_t columns, PackedBlocks* blocks) {
  const bool blocked = weight.scale.col != 0 || weight.zero.col != 0;
  if (columns % 8 != 0 || weight.stride % 8 != 0 || (blocked && weight.col_block != 1 && weight.col_block % 8 != 0) || columns > 0x7fffffff)
    return false;
  const auto number = [](DType type) { return type == DType::f32 || type == DType::f16 || type == DType::bf16; };
  blocks->wide_scale = weight.scale.type == DType::f32;
  blocks->has_zero = weight.zero.type != DType::none;
  blocks->exact = !blocks->wide_scale && !(blocks->has_zero && number(weight.zero.type));
  blocks->each = blocked && weight.col_block == 1;
  blocks->shift = 31;
  if (blocked) {
    blocks->shift = -1;
    for (int shift = 3; shift < 31; ++shift) {
      if (weight.col_block == std::int64_t{1} << shift) blocks->shift = shift;
    }
  }
  return true;
}

}  // namespace forebay::cuda
