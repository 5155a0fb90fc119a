// The fixed tree over 256 partial sums with 8-lane registers. Included after a target pragma by the vector kernels: internal linkage only.
#pragma once

#include <immintrin.h>

namespace forebay::cpu {
namespace {

// Eight runs of eight sums: ((0+1)+(2+3))+((4+5)+(6+7)) of each.
inline __m256 fold_runs(const float* s) {
  const __m256 a = _mm256_hadd_ps(_mm256_load_ps(s), _mm256_load_ps(s + 8));
  const __m256 b = _mm256_hadd_ps(_mm256_load_ps(s + 16), _mm256_load_ps(s + 24));
  const __m256 c = _mm256_hadd_ps(_mm256_load_ps(s + 32), _mm256_load_ps(s + 40));
  const __m256 d = _mm256_hadd_ps(_mm256_load_ps(s + 48), _mm256_load_ps(s + 56));
  const __m256 ab = _mm256_hadd_ps(a, b);  // low lane: first halves of runs 0-3; high lane: second halves
  const __m256 cd = _mm256_hadd_ps(c, d);
  return _mm256_add_ps(_mm256_permute2f128_ps(ab, cd, 0x20), _mm256_permute2f128_ps(ab, cd, 0x31));
}

inline float fold_sums(const float* sums) {  // 32-byte aligned
  const __m256 r0 = fold_runs(sums), r1 = fold_runs(sums + 64), r2 = fold_runs(sums + 128), r3 = fold_runs(sums + 192);
  const __m256 eight = _mm256_add_ps(_mm256_add_ps(r0, r2), _mm256_add_ps(r1, r3));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace
}  // namespace forebay::cpu
