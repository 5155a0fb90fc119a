// AVX-512 holds all 256 sums in 16 registers: a row is one stream of loads. More rows of x reread the row from the first cache.
#include "runtime/cpu/gemv.h"

#include <cstring>
#include <immintrin.h>

// GCC 12 reports its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#include "runtime/cpu/gemv_fold.h"

namespace forebay::cpu::gemv_avx512 {
namespace {

struct LoadF32 {
  using Element = float;
  static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static __m512 load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
};
struct LoadF16 {
  using Element = std::uint16_t;
  static __m512 load(const std::uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m512 load(const std::uint16_t* p, __mmask16 mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p)); }
};
struct LoadBf16 {
  using Element = std::uint16_t;
  static __m512 widen(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
  static __m512 load(const std::uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static __m512 load(const std::uint16_t* p, __mmask16 mask) { return widen(_mm256_maskz_loadu_epi16(mask, p)); }
};

constexpr int kAhead = 4096;  // bytes; one stream alone does not fill the memory queue

inline __mmask16 first_lanes(std::int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }

template <typename L>
float dot(const typename L::Element* w, const float* x, std::int64_t k) {
  __m512 acc[16];
  for (int i = 0; i < 16; ++i) acc[i] = _mm512_setzero_ps();
  std::int64_t at = 0;
  for (; at + 256 <= k; at += 256) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i * 16 * sizeof(*w) % 64 == 0) _mm_prefetch(reinterpret_cast<const char*>(w + at + i * 16) + kAhead, _MM_HINT_T0);
      acc[i] = _mm512_fmadd_ps(L::load(w + at + i * 16), _mm512_loadu_ps(x + at + i * 16), acc[i]);
    }
  }
  if (at < k) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const std::int64_t left = k - at - i * 16;
      if (left <= 0) continue;
      const __mmask16 mask = left >= 16 ? static_cast<__mmask16>(0xffff) : first_lanes(left);
      const __m512 weights = L::load(w + at + i * 16, mask);
      acc[i] = _mm512_mask3_fmadd_ps(weights, _mm512_maskz_loadu_ps(mask, x + at + i * 16), acc[i], mask);
    }
  }
  alignas(64) float sums[256];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_ps(sums + i * 16, acc[i]);
  return fold_sums(sums);
}

template <typename L>
void dot_rows(const GemvTask& task, std::int64_t begin, std::int64_t end) {
  const auto* w = reinterpret_cast<const typename L::Element*>(task.weights);
  for (std::int64_t n = begin; n < end; ++n) {
    for (std::int64_t m = 0; m < task.m; ++m) task.y[m * task.y_stride + n] = dot<L>(w + n * task.k, task.x + m * task.x_stride, task.k);
  }
}

template <typename L, int Rows>
void axpy_rows(const GemvTask& task, std::int64_t k, std::int64_t begin, std::int64_t end) {
  const auto* w = reinterpret_cast<const typename L::Element*>(task.weights) + k * task.n;
  for (std::int64_t n = begin; n < end; n += 16) {
    const __mmask16 mask = end - n >= 16 ? static_cast<__mmask16>(0xffff) : first_lanes(end - n);
    for (std::int64_t m = 0; m < task.m; ++m) {
      const float* x = task.x + m * task.x_stride + k;
      float* y = task.y + m * task.y_stride + n;
      __m512 acc = _mm512_maskz_loadu_ps(mask, y);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) acc = _mm512_fmadd_ps(L::load(w + r * task.n + n, mask), _mm512_set1_ps(x[r]), acc);
      _mm512_mask_storeu_ps(y, mask, acc);
    }
  }
}

template <typename L>
void axpy_all(const GemvTask& task, std::int64_t begin, std::int64_t end) {
  std::int64_t k = 0;
  for (; k + 8 <= task.k; k += 8) axpy_rows<L, 8>(task, k, begin, end);
  for (; k < task.k; ++k) axpy_rows<L, 1>(task, k, begin, end);
}

}  // namespace

void row_dot(const GemvTask& task, std::int64_t begin, std::int64_t end) {
  if (task.dtype == DType::f32) return dot_rows<LoadF32>(task, begin, end);
  if (task.dtype == DType::f16) return dot_rows<LoadF16>(task, begin, end);
  dot_rows<LoadBf16>(task, begin, end);
}

void axpy(const GemvTask& task, std::int64_t begin, std::int64_t end) {
  if (task.dtype == DType::f32) return axpy_all<LoadF32>(task, begin, end);
  if (task.dtype == DType::f16) return axpy_all<LoadF16>(task, begin, end);
  axpy_all<LoadBf16>(task, begin, end);
}

}  // namespace forebay::cpu::gemv_avx512
#pragma GCC pop_options
