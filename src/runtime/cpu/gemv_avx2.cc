// AVX2 has 16 registers, so the 256 sums live in L1 and each visit takes a quarter of them over eight blocks of the row.
#include "runtime/cpu/gemv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <immintrin.h>

#include "base/half.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "runtime/cpu/gemv_fold.h"

namespace forebay::cpu::gemv_avx2 {
namespace {

struct LoadF32 {
  using Element = float;
  static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static float one(float v) { return v; }
};
struct LoadF16 {
  using Element = std::uint16_t;
  static __m256 load(const std::uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static float one(std::uint16_t v) { return f16_to_f32(v); }
};
struct LoadBf16 {
  using Element = std::uint16_t;
  static __m256 load(const std::uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static float one(std::uint16_t v) { return bf16_to_f32(v); }
};

template <typename L>
void add_blocks(const typename L::Element* w, const float* x, std::int64_t blocks, float* sums) {
  for (int quarter = 0; quarter < 4; ++quarter) {
    __m256 acc[8];
    for (int i = 0; i < 8; ++i) acc[i] = _mm256_load_ps(sums + quarter * 64 + i * 8);
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t at = b * 256 + quarter * 64;
      for (int i = 0; i < 8; ++i) acc[i] = _mm256_fmadd_ps(L::load(w + at + i * 8), _mm256_loadu_ps(x + at + i * 8), acc[i]);
    }
    for (int i = 0; i < 8; ++i) _mm256_store_ps(sums + quarter * 64 + i * 8, acc[i]);
  }
}

template <typename L>
float dot(const typename L::Element* w, const float* x, std::int64_t k) {
  alignas(64) float sums[256];
  std::memset(sums, 0, sizeof sums);
  std::int64_t at = 0;
  while (k - at >= 256) {
    const std::int64_t blocks = std::min<std::int64_t>(8, (k - at) / 256);
    add_blocks<L>(w + at, x + at, blocks, sums);
    at += blocks * 256;
  }
  int slot = 0;
  for (; k - at >= 8; at += 8, slot += 8) {
    _mm256_store_ps(sums + slot, _mm256_fmadd_ps(L::load(w + at), _mm256_loadu_ps(x + at), _mm256_load_ps(sums + slot)));
  }
  for (; at < k; ++at, ++slot) sums[slot] = __builtin_fmaf(L::one(w[at]), x[at], sums[slot]);
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
  std::int64_t n = begin;
  for (; n + 8 <= end; n += 8) {
    for (std::int64_t m = 0; m < task.m; ++m) {
      const float* x = task.x + m * task.x_stride + k;
      float* y = task.y + m * task.y_stride + n;
      __m256 acc = _mm256_loadu_ps(y);
      for (int r = 0; r < Rows; ++r) acc = _mm256_fmadd_ps(L::load(w + r * task.n + n), _mm256_set1_ps(x[r]), acc);
      _mm256_storeu_ps(y, acc);
    }
  }
  for (; n < end; ++n) {
    for (std::int64_t m = 0; m < task.m; ++m) {
      const float* x = task.x + m * task.x_stride + k;
      float acc = task.y[m * task.y_stride + n];
      for (int r = 0; r < Rows; ++r) acc = __builtin_fmaf(L::one(w[r * task.n + n]), x[r], acc);
      task.y[m * task.y_stride + n] = acc;
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

}  // namespace forebay::cpu::gemv_avx2
#pragma GCC pop_options
