#include <immintrin.h>

#include <cstring>

#include "runtime/cpu/quant_rows.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace forebay::cpu::quant_avx2 {
namespace {

struct Line {
  __m256 zero, scale;
  void put(__m256 codes, float* out) const {
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_sub_ps(codes, zero), scale));
  }
};

__m128i load8(const std::byte* from) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
}

std::int64_t convert_bytes(DType dtype, const std::byte* from, std::int64_t count, const Line& line,
                           float* out) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bytes = load8(from + i);
    line.put(_mm256_cvtepi32_ps(dtype == DType::i8 ? _mm256_cvtepi8_epi32(bytes)
                                                   : _mm256_cvtepu8_epi32(bytes)),
             out + i);
  }
  return i;
}

std::int64_t convert_nibbles(DType dtype, const std::byte* from, std::int64_t count,
                             const Line& line, float* out) {
  const __m128i low = _mm_set1_epi8(15), sign = _mm_set1_epi8(dtype == DType::i4 ? 8 : 0);
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i bytes = load8(from + i / 2);
    __m128i codes =
        _mm_unpacklo_epi8(_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16(bytes, 4), low));
    codes = _mm_sub_epi8(_mm_xor_si128(codes, sign), sign);
    line.put(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), out + i);
    line.put(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes))),
             out + i + 8);
  }
  return i;
}

// e5m2 is the upper half of an f16; e4m3fn with its exponent moved is an f16 of 1/256 of the value,
// but for its NaN.
__m256 float8_codes(bool e5m2, const std::byte* from) {
  const __m128i wide = _mm_cvtepu8_epi16(load8(from)),
                magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7f));
  if (e5m2) return _mm256_cvtph_ps(_mm_slli_epi16(wide, 8));
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
  // The NaN of an f16 is a NaN, whatever it is multiplied by.
  const __m128i nan =
      _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
  const __m128i half = _mm_or_si128(_mm_or_si128(sign, _mm_slli_epi16(magnitude, 7)), nan);
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

std::int64_t convert_float8(DType dtype, const std::byte* from, std::int64_t count,
                            const Line& line, float* out) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) line.put(float8_codes(dtype == DType::f8e5m2, from + i), out + i);
  return i;
}

__m256 rounded(DType value, __m256 v) {
  if (value == DType::f32) return v;
  if (value == DType::f16) return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
  const __m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i near = _mm256_srli_epi32(
      _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), even), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i kept =
      _mm256_blendv_epi8(near, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
  return _mm256_castsi256_ps(_mm256_slli_epi32(kept, 16));
}

// Thirty-two elements as four registers of codes.
template <DType kCode>
void codes32(const std::byte* from, __m256* codes) {
  if constexpr (kCode == DType::i4 || kCode == DType::u4) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)),
                  low = _mm_set1_epi8(15);
    const __m128i even = _mm_and_si128(bytes, low),
                  odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), low);
    __m128i half[2] = {_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd)};
    for (int i = 0; i < 2; ++i) {
      if (kCode == DType::i4)
        half[i] = _mm_sub_epi8(_mm_xor_si128(half[i], _mm_set1_epi8(8)), _mm_set1_epi8(8));
      codes[2 * i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half[i]));
      codes[2 * i + 1] =
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(half[i], half[i])));
    }
  } else {
    for (int i = 0; i < 4; ++i) {
      const __m128i bytes = load8(from + i * 8);
      if constexpr (kCode == DType::i8) codes[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
      if constexpr (kCode == DType::u8) codes[i] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
      if constexpr (kCode == DType::f8e4m3fn || kCode == DType::f8e5m2)
        codes[i] = float8_codes(kCode == DType::f8e5m2, from + i * 8);
    }
  }
}

// The sums stay in the first cache: sixteen registers do not hold them.
template <DType kCode>
void dot(const RowDot& task) {
  constexpr int kBytes = kCode == DType::i4 || kCode == DType::u4 ? 16 : 32;
  std::memset(task.sums, 0, 256 * sizeof(float));
  const float *scale = task.scales, *zero = task.zeros, *x = task.x;
  const std::byte* from = task.codes;
  __m256 s = _mm256_setzero_ps(), z = s;
  std::int64_t left = 0;
  for (std::int64_t b = 0; b < task.blocks; ++b) {
    for (int g = 0; g < 8; ++g, from += kBytes, x += 32) {
      if (g % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(from) + 1024, _MM_HINT_T0);
      if (left == 0) {
        s = _mm256_set1_ps(*scale++);
        z = _mm256_set1_ps(*zero++);
        left = task.block;
      }
      left -= 32;
      __m256 codes[4];
      codes32<kCode>(from, codes);
      for (int i = 0; i < 4; ++i) {
        float* sum = task.sums + g * 32 + i * 8;
        const __m256 value = rounded(task.value, _mm256_mul_ps(_mm256_sub_ps(codes[i], z), s));
        _mm256_store_ps(sum,
                        _mm256_fmadd_ps(value, _mm256_loadu_ps(x + i * 8), _mm256_load_ps(sum)));
      }
    }
  }
}

}  // namespace

std::int64_t convert(DType dtype, const std::byte* data, std::int64_t offset, std::int64_t count,
                     float zero, float scale, float* out) {
  const Line line{_mm256_set1_ps(zero), _mm256_set1_ps(scale)};
  switch (dtype) {
    case DType::i8:
    case DType::u8:
      return convert_bytes(dtype, data + offset, count, line, out);
    case DType::i4:
    case DType::u4:
      return convert_nibbles(dtype, data + offset / 2, count, line, out);
    case DType::f8e4m3fn:
    case DType::f8e5m2:
      return convert_float8(dtype, data + offset, count, line, out);
    default:
      return 0;
  }
}

bool row_dot_serves(DType dtype) {
  switch (dtype) {
    case DType::i8:
    case DType::u8:
    case DType::i4:
    case DType::u4:
    case DType::f8e4m3fn:
    case DType::f8e5m2:
      return true;
    default:
      return false;
  }
}

void row_dot(const RowDot& task) {
  switch (task.dtype) {
    case DType::i8:
      return dot<DType::i8>(task);
    case DType::u8:
      return dot<DType::u8>(task);
    case DType::i4:
      return dot<DType::i4>(task);
    case DType::f8e4m3fn:
      return dot<DType::f8e4m3fn>(task);
    case DType::f8e5m2:
      return dot<DType::f8e5m2>(task);
    default:
      return dot<DType::u4>(task);
  }
}

}  // namespace forebay::cpu::quant_avx2
#pragma GCC pop_options
