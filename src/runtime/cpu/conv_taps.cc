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
void conv_tap_row_avx512(const TapRow& row) {
  std::int64_t i = 0;
  for (; i + 64 <= row.count; i += 64) {
    __m512 a0 = _mm512_set1_ps(row.bias), a1 = a0, a2 = a0, a3 = a0;
    for (int t = 0; t < row.taps; ++t) {
      const __m512 weight = _mm512_set1_ps(row.weights[t]);
      const float* from = row.rows[t] + i;
      a0 = _mm512_fmadd_ps(weight, _mm512_loadu_ps(from), a0);
      a1 = _mm512_fmadd_ps(weight, _mm512_loadu_ps(from + 16), a1);
      a2 = _mm512_fmadd_ps(weight, _mm512_loadu_ps(from + 32), a2);
      a3 = _mm512_fmadd_ps(weight, _mm512_loadu_ps(from + 48), a3);
    }
    _mm512_storeu_ps(row.out + i, a0);
    _mm512_storeu_ps(row.out + i + 16, a1);
    _mm512_storeu_ps(row.out + i + 32, a2);
    _mm512_storeu_ps(row.out + i + 48, a3);
  }
  for (; i < row.count; i += 16) {
    const std::int64_t left = row.count - i;
    const __mmask16 mask = left >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << left) - 1u);
    __m512 sum = _mm512_set1_ps(row.bias);
    for (int t = 0; t < row.taps; ++t) sum = _mm512_fmadd_ps(_mm512_set1_ps(row.weights[t]), _mm512_maskz_loadu_ps(mask, row.rows[t] + i), sum);
    _mm512_mask_storeu_ps(row.out + i, mask, sum);
  }
}
#pragma GCC pop_options

}  // namespace forebay::cpu
