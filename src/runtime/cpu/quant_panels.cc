#include "runtime/cpu/quant_panels.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>

namespace forebay::cpu {
namespace {

constexpr std::int64_t kDepth = 256;  // of a piece of rows that goes through the first cache

// Rows of `depth` floats to columns; four rows at a time through registers.
void put_columns(const float* rows, std::int64_t lanes, std::int64_t depth, std::int64_t width,
                 float* to) {
  std::int64_t lane = 0;
  for (; lane + 4 <= lanes; lane += 4) {
    const float* r = rows + lane * kDepth;
    std::int64_t k = 0;
    for (; k + 4 <= depth; k += 4) {
      __m128 a = _mm_loadu_ps(r + k), b = _mm_loadu_ps(r + kDepth + k),
             c = _mm_loadu_ps(r + 2 * kDepth + k), d = _mm_loadu_ps(r + 3 * kDepth + k);
      _MM_TRANSPOSE4_PS(a, b, c, d);
      _mm_storeu_ps(to + k * width + lane, a);
      _mm_storeu_ps(to + (k + 1) * width + lane, b);
      _mm_storeu_ps(to + (k + 2) * width + lane, c);
      _mm_storeu_ps(to + (k + 3) * width + lane, d);
    }
    for (; k < depth; ++k) {
      for (int i = 0; i < 4; ++i) to[k * width + lane + i] = r[i * kDepth + k];
    }
  }
  for (; lane < lanes; ++lane) {
    for (std::int64_t k = 0; k < depth; ++k) to[k * width + lane] = rows[lane * kDepth + k];
  }
}

}  // namespace

void QuantPanels::pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count,
                       std::int64_t width, float* to) const {
  if (count < width) std::memset(to, 0, static_cast<std::size_t>(kc * width) * sizeof(float));
  if (!transposed_) {
    for (std::int64_t i = 0; i < kc; ++i) dequant_row(set_, view_, k + i, n, count, to + i * width);
    return;
  }
  float rows[4 * kDepth];
  for (std::int64_t at = 0; at < kc; at += kDepth) {
    const std::int64_t depth = std::min(kDepth, kc - at);
    for (std::int64_t lane = 0; lane < count; lane += 4) {
      const std::int64_t lanes = std::min<std::int64_t>(4, count - lane);
      for (std::int64_t i = 0; i < lanes; ++i)
        dequant_row(set_, view_, n + lane + i, k + at, depth, rows + i * kDepth);
      put_columns(rows, lanes, depth, width, to + at * width + lane);
    }
  }
}

}  // namespace forebay::cpu
