// Codes of packed weights as f32, in kernels.
#pragma once

#include <cuda_fp8.h>

#include "runtime/cuda/packed_launch.h"
#include "runtime/cuda/product_parts.cuh"

namespace forebay::cuda {

__device__ inline int code_bits(DType code) {
  switch (code) {
    case DType::i4:
    case DType::u4:
    case DType::f4e2m1:
      return 4;
    case DType::i2:
    case DType::u2:
      return 2;
    default:
      return 8;
  }
}

// 8-bit floats whose only special code is 0x80.
__device__ inline float fnuz_value(unsigned bits, int mantissa_bits, int bias) {
  if (bits == 0x80u) return __int_as_float(0x7fc00000);
  const int exponent = static_cast<int>((bits & 0x7fu) >> mantissa_bits);
  const int mantissa = static_cast<int>(bits & ((1u << mantissa_bits) - 1u));
  const int units = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
  const float magnitude = static_cast<float>(units) * exp2f(static_cast<float>((exponent == 0 ? 1 : exponent) - bias - mantissa_bits));
  return (bits & 0x80u) != 0 ? -magnitude : magnitude;
}

__device__ inline float fp8_value(unsigned bits, __nv_fp8_interpretation_t format) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(bits), format)));
}

__device__ inline float code_value(DType code, const void* data, std::int64_t index) {
  const int bits = code_bits(code), per = 8 / bits;
  const unsigned byte = static_cast<const std::uint8_t*>(data)[index / per];
  const unsigned c = (byte >> (static_cast<int>(index % per) * bits)) & ((1u << bits) - 1u);
  switch (code) {
    case DType::u8:
    case DType::u4:
    case DType::u2:
      return static_cast<float>(c);
    case DType::f4e2m1: {
      const unsigned m = c & 7u;
      const float magnitude = m < 5u ? static_cast<float>(m) * 0.5f : m == 5u ? 3.0f : m == 6u ? 4.0f : 6.0f;
      return (c & 8u) != 0 ? -magnitude : magnitude;
    }
    case DType::f8e4m3fn:
      return fp8_value(c, __NV_E4M3);
    case DType::f8e5m2:
      return fp8_value(c, __NV_E5M2);
    case DType::f8e4m3fnuz:
      return fnuz_value(c, 3, 8);
    case DType::f8e5m2fnuz:
      return fnuz_value(c, 2, 16);
    default:
      return static_cast<float>(static_cast<int>(c << (32 - bits)) >> (32 - bits));
  }
}

__device__ inline float round_value(DType type, float value) {
  if (type == DType::f16) return widen(narrow<__half>(value));
  if (type == DType::bf16) return widen(narrow<__nv_bfloat16>(value));
  return value;
}

__device__ inline void write_number(DType type, void* data, std::int64_t at, float value) {
  if (type == DType::f32) {
    static_cast<float*>(data)[at] = value;
  } else if (type == DType::f16) {
    static_cast<__half*>(data)[at] = narrow<__half>(value);
  } else {
    static_cast<__nv_bfloat16*>(data)[at] = narrow<__nv_bfloat16>(value);
  }
}
__device__ inline float sum_so_far(const ProductTask& task, std::int64_t m, std::int64_t n) {
  return task.first ? 0.0f : task.sums[m * task.y_row + n];
}

// One row of a slab with its scales and zero points.
struct PackedRow {
  const std::uint8_t* codes;
  std::int64_t scale_at, zero_at;
  const void *scales, *zeros;

  __device__ PackedRow(const PackedWeight& w, const PackedSlabs& slabs, std::int64_t row) {
    const auto slab = static_cast<std::uint32_t>(row) / static_cast<std::uint32_t>(slabs.rows);
    const std::int64_t local = row - slab * slabs.rows;
    codes = static_cast<const std::uint8_t*>(slabs.codes[slab]) + local * w.stride * code_bits(w.code) / 8;
    offset = local * w.stride % (8 / code_bits(w.code));
    scales = slabs.scales[slab];
    zeros = slabs.zeros[slab];
    std::int64_t whole = w.first_row + row, own = local;
    if (w.row_block != 1) whole /= w.row_block, own /= w.row_block;
    scale_at = (w.scale.cut ? own : whole) * w.scale.row;
    zero_at = (w.zero.cut ? own : whole) * w.zero.row;
  }
  __device__ float scale(const PackedWeight& w, std::int64_t block) const {
    return read_number(w.scale.type, scales, scale_at + block * w.scale.col);
  }
  __device__ float zero(const PackedWeight& w, std::int64_t block) const {
    if (zeros == nullptr) return w.zero_default;
    const std::int64_t at = zero_at + block * w.zero.col;
    const bool number = w.zero.type == DType::f32 || w.zero.type == DType::f16 || w.zero.type == DType::bf16;
    return number ? read_number(w.zero.type, zeros, at) : code_value(w.zero.type, zeros, at);
  }
  // Any column, whatever the blocks.
  __device__ float value(const PackedWeight& w, std::int64_t column) const {
    const std::int64_t block = column / w.col_block;
    return round_value(w.value, (code_value(w.code, codes, offset + column) - zero(w, block)) * scale(w, block));
  }
  std::int64_t offset;  // of the first code in its byte: rows may begin within one
};

}  // namespace forebay::cuda
