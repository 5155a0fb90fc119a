#include <immintrin.h>

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
// but for its NaN: that ends the run.
std::int64_t convert_float8(DType dtype, const std::byte* from, std::int64_t count,
                            const Line& line, float* out) {
  const bool e5m2 = dtype == DType::f8e5m2;
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i wide = _mm_cvtepu8_epi16(load8(from + i)),
                  magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7f));
    const __m128i odd = e5m2 ? _mm_cmpgt_epi16(magnitude, _mm_set1_epi16(0x7c))
                             : _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
    if (_mm_movemask_epi8(odd) != 0) break;
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    const __m128i half =
        e5m2 ? _mm_slli_epi16(wide, 8) : _mm_or_si128(sign, _mm_slli_epi16(magnitude, 7));
    line.put(_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(e5m2 ? 1.0f : 256.0f)), out + i);
  }
  return i;
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

}  // namespace forebay::cpu::quant_avx2
#pragma GCC pop_options
