// The product of one row of activations with packed rows: values are made in registers. 4-bit codes
// index a table of the sixteen values that they can have in their block, so that a byte costs a
// widening, a shift, two permutes and two FMAs.
#include <immintrin.h>

#include "runtime/cpu/quant_rows.h"

// GCC 12 reports its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

namespace forebay::cpu::quant_avx512 {
namespace {

constexpr int kAhead = 2048;  // bytes; one stream alone does not fill the memory queue

struct KeepF32 {
  static __m512 round(__m512 v) { return v; }
};
struct RoundF16 {
  static __m512 round(__m512 v) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};
struct RoundBf16 {
  static __m512 round(__m512 v) {
    const __m512i bits = _mm512_castps_si512(v), high = _mm512_srli_epi32(bits, 16);
    const __m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
    return _mm512_castsi512_ps(_mm512_slli_epi32(kept, 16));
  }
};

template <typename Value>
__m512 value_of(__m512 codes, float zero, float scale) {
  return Value::round(
      _mm512_mul_ps(_mm512_sub_ps(codes, _mm512_set1_ps(zero)), _mm512_set1_ps(scale)));
}

__m512 codes_of(DType dtype) {
  if (dtype == DType::f4e2m1)
    return _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
  if (dtype == DType::i4)
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// acc[2g] sums the even elements of group g of 32, acc[2g + 1] the odd ones.
void store_interleaved(const __m512* acc, float* sums) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    _mm512_store_ps(sums + g * 32, _mm512_permutex2var_ps(acc[2 * g], first, acc[2 * g + 1]));
    _mm512_store_ps(sums + g * 32 + 16, _mm512_permutex2var_ps(acc[2 * g], second, acc[2 * g + 1]));
  }
}

template <typename Value>
void dot_nibbles(const RowDot& task) {
  const __m512 codes = codes_of(task.dtype);
  __m512 acc[16];
  for (int i = 0; i < 16; ++i) acc[i] = _mm512_setzero_ps();
  __m512 table = _mm512_setzero_ps();
  const float *scale = task.scales, *zero = task.zeros;
  std::int64_t left = 0;  // elements that the table still serves
  const std::byte* from = task.codes;
  const float* x = task.x;
  for (std::int64_t b = 0; b < task.blocks; ++b, from += 128, x += 256) {
    _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead + 64, _MM_HINT_T0);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
      if (left == 0) {
        table = value_of<Value>(codes, *zero++, *scale++);
        left = task.block;
      }
      left -= 32;
      const __m512i bytes =
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + g * 16)));
      // A permute reads the low four bits of each index.
      const __m512 even = _mm512_permutexvar_ps(bytes, table),
                   odd = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
      acc[2 * g] = _mm512_fmadd_ps(even, _mm512_loadu_ps(x + g * 32), acc[2 * g]);
      acc[2 * g + 1] = _mm512_fmadd_ps(odd, _mm512_loadu_ps(x + g * 32 + 16), acc[2 * g + 1]);
    }
  }
  store_interleaved(acc, task.sums);
}

template <typename Value, bool kSigned>
void dot_bytes(const RowDot& task) {
  __m512 acc[16];
  for (int i = 0; i < 16; ++i) acc[i] = _mm512_setzero_ps();
  const float *scale = task.scales, *zero = task.zeros;
  float z = 0, s = 0;
  std::int64_t left = 0;
  const std::byte* from = task.codes;
  const float* x = task.x;
  for (std::int64_t b = 0; b < task.blocks; ++b, from += 256, x += 256) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i % 4 == 0)
        _mm_prefetch(reinterpret_cast<const char*>(from + i * 16) + kAhead, _MM_HINT_T0);
      if (i % 2 == 0) {
        if (left == 0) {
          z = *zero++;
          s = *scale++;
          left = task.block;
        }
        left -= 32;
      }
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * 16));
      const __m512 codes =
          _mm512_cvtepi32_ps(kSigned ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
      acc[i] = _mm512_fmadd_ps(value_of<Value>(codes, z, s), _mm512_loadu_ps(x + i * 16), acc[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_ps(task.sums + i * 16, acc[i]);
}

template <typename Value>
void dot(const RowDot& task) {
  if (task.dtype == DType::i8) return dot_bytes<Value, true>(task);
  if (task.dtype == DType::u8) return dot_bytes<Value, false>(task);
  dot_nibbles<Value>(task);
}

}  // namespace

bool row_dot_serves(DType dtype) {
  return dtype == DType::i8 || dtype == DType::u8 || dtype == DType::i4 || dtype == DType::u4 ||
         dtype == DType::f4e2m1;
}

bool row_dot_splits(DType dtype) {
  return dtype_bits(dtype) == 4;
}

void row_dot(const RowDot& task) {
  if (task.value == DType::f16) return dot<RoundF16>(task);
  if (task.value == DType::bf16) return dot<RoundBf16>(task);
  dot<KeepF32>(task);
}

}  // namespace forebay::cpu::quant_avx512
#pragma GCC pop_options
