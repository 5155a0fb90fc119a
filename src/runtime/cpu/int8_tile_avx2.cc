#include <immintrin.h>

#include <cstring>

#include "runtime/cpu/int8_gemm.h"

#pragma GCC push_options
#pragma GCC target("avx2")  // no FMA: product and sum of a requantisation are rounded apart

namespace forebay::cpu {
namespace {

// Sixteen columns of the panel from `first` on.
template <int kRows>
void half_tile(const Int8Tile& tile, int first) {
  __m256i acc[kRows][2];
  for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
  for (std::int64_t p = 0; p < tile.pairs; ++p) {
    const auto* b = reinterpret_cast<const __m256i*>(tile.b + p * kInt8Columns * 2 + first * 2);
    const __m256i b0 = _mm256_loadu_si256(b), b1 = _mm256_loadu_si256(b + 1);
    for (int i = 0; i < kRows; ++i) {
      std::int32_t pair = 0;
      std::memcpy(&pair, tile.a + i * tile.a_stride + 2 * p, sizeof pair);
      const __m256i a = _mm256_set1_epi32(pair);
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(a, b0));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(a, b1));
    }
  }
  for (int i = 0; i < kRows; ++i) {
    alignas(32) std::int32_t sums[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums), acc[i][0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + 8), acc[i][1]);
    std::int32_t* c = tile.c + i * tile.c_stride + first;
    for (int j = 0; j < 16 && first + j < tile.columns; ++j) {
      c[j] = tile.add ? static_cast<std::int32_t>(static_cast<std::uint32_t>(c[j]) +
                                                  static_cast<std::uint32_t>(sums[j]))
                      : sums[j];
    }
  }
}

using Tile = void (*)(const Int8Tile&, int);
constexpr Tile kTiles[] = {half_tile<1>, half_tile<2>, half_tile<3>, half_tile<4>};

}  // namespace

void int8_tile_avx2(const Int8Tile& tile) {
  for (int first = 0; first < tile.columns; first += 16) kTiles[tile.rows - 1](tile, first);
}

std::int64_t int8_requantize_avx2(const std::int32_t* sums, std::int64_t count, const float* scales,
                                  std::int64_t scale_stride, float offset, std::int32_t zero,
                                  DType dtype, std::byte* to) {
  const __m256 low = _mm256_set1_ps(dtype == DType::i8 ? -128.0f : 0.0f),
               high = _mm256_set1_ps(dtype == DType::i8 ? 127.0f : 255.0f);
  const __m256 shift = _mm256_set1_ps(static_cast<float>(zero));
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 scale = scale_stride == 0 ? _mm256_set1_ps(*scales) : _mm256_loadu_ps(scales + i);
    const __m256 scaled = _mm256_mul_ps(
        _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i))), scale);
    const __m256 moved = _mm256_add_ps(scaled, _mm256_set1_ps(offset));
    const __m256 value =
        _mm256_add_ps(_mm256_round_ps(moved, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), shift);
    const __m256i whole = _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(value, low), high));  // max gives `low` for NaN
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i), dtype == DType::i8
                                                             ? _mm_packs_epi16(words, words)
                                                             : _mm_packus_epi16(words, words));
  }
  return i;
}

}  // namespace forebay::cpu
#pragma GCC pop_options
