#include "runtime/cpu/conv_taps.h"

#include <immintrin.h>

// GCC 12 reports its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace forebay::cpu {

void conv_tap_row(InstructionSet set, const TapRow& row) {
  if (set == InstructionSet::avx512) return conv_tap_row_avx512(row);
  if (set == InstructionSet::avx2) return conv_tap_row_avx2(row);
  for (std::int64_t i = 0; i < row.count; ++i) row.out[i] = row.bias;
  for (int t = 0; t < row.taps; ++t) {
    const float* from = row.rows[t];
    const float weight = row.weights[t];
    for (std::int64_t i = 0; i < row.count; ++i) row.out[i] += weight * from[i];
  }
}

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
void conv_tap_row_avx2(const TapRow& row) {
  std::int64_t i = 0;
  for (; i + 32 <= row.count; i += 32) {
    __m256 a0 = _mm256_set1_ps(row.bias), a1 = a0, a2 = a0, a3 = a0;
    for (int t = 0; t < row.taps; ++t) {
      const __m256 weight = _mm256_broadcast_ss(row.weights + t);
      const float* from = row.rows[t] + i;
      a0 = _mm256_fmadd_ps(weight, _mm256_loadu_ps(from), a0);
      a1 = _mm256_fmadd_ps(weight, _mm256_loadu_ps(from + 8), a1);
      a2 = _mm256_fmadd_ps(weight, _mm256_loadu_ps(from + 16), a2);
      a3 = _mm256_fmadd_ps(weight, _mm256_loadu_ps(from + 24), a3);
    }
    _mm256_storeu_ps(row.out + i, a0);
    _mm256_storeu_ps(row.out + i + 8, a1);
    _mm256_storeu_ps(row.out + i + 16, a2);
    _mm256_storeu_ps(row.out + i + 24, a3);
  }
  for (; i + 8 <= row.count; i += 8) {
    __m256 sum = _mm256_set1_ps(row.bias);
    for (int t = 0; t < row.taps; ++t) sum = _mm256_fmadd_ps(_mm256_broadcast_ss(row.weights + t), _mm256_loadu_ps(row.rows[t] + i), sum);
    _mm256_storeu_ps(row.out + i, sum);
  }
  for (; i < row.count; ++i) {
    float sum = row.bias;
    for (int t = 0; t < row.taps; ++t) sum = __builtin_fmaf(row.weights[t], row.rows[t][i], sum);
    row.out[i] = sum;
  }
}
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace {

// Vectors columns of 16 together, so that their chains of additions overlap; the last one is masked.
template <int Vectors>
void columns_avx512(const TapRow& row, std::int64_t i, __mmask16 last) {
  __m512 sums[Vectors];
  for (int v = 0; v < Vectors; ++v) sums[v] = _mm512_set1_ps(row.bias);
  for (int t = 0; t < row.taps; ++t) {
    const __m512 weight = _mm512_set1_ps(row.weights[t]);
    const float* from = row.rows[t] + i;
    for (int v = 0; v + 1 < Vectors; ++v) sums[v] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(from + v * 16), sums[v]);
    sums[Vectors - 1] = _mm512_fmadd_ps(weight, _mm512_maskz_loadu_ps(last, from + (Vectors - 1) * 16), sums[Vectors - 1]);
  }
  for (int v = 0; v + 1 < Vectors; ++v) _mm512_storeu_ps(row.out + i + v * 16, sums[v]);
  _mm512_mask_storeu_ps(row.out + i + (Vectors - 1) * 16, last, sums[Vectors - 1]);
}

}  // namespace

void conv_tap_row_avx512(const TapRow& row) {
  constexpr __mmask16 kAll = 0xffff;
  std::int64_t i = 0;
  for (; i + 128 <= row.count; i += 128) columns_avx512<8>(row, i, kAll);
  for (; i < row.count;) {
    const std::int64_t left = row.count - i, vectors = left >= 64 ? 4 : (left + 15) / 16, tail = left - (vectors - 1) * 16;
    const __mmask16 last = tail >= 16 ? kAll : static_cast<__mmask16>((1u << tail) - 1u);
    if (vectors == 4) columns_avx512<4>(row, i, last);
    if (vectors == 3) columns_avx512<3>(row, i, last);
    if (vectors == 2) columns_avx512<2>(row, i, last);
    if (vectors == 1) columns_avx512<1>(row, i, last);
    i += vectors * 16;
  }
}
#pragma GCC pop_options

}  // namespace forebay::cpu
