#include <immintrin.h>

#include <cstring>

#include "runtime/cpu/int8_gemm.h"

// GCC 12 reports its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

namespace forebay::cpu {
namespace {

template <int kRows>
void tile_rows(const Int8Tile& tile) {
  __m512i acc[kRows][2];
  for (auto& row : acc) row[0] = row[1] = _mm512_setzero_si512();
  for (std::int64_t p = 0; p < tile.pairs; ++p) {
    const std::int16_t* b = tile.b + p * kInt8Columns * 2;
    const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 32);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      std::int32_t pair = 0;
      std::memcpy(&pair, tile.a + i * tile.a_stride + 2 * p, sizeof pair);
      const __m512i a = _mm512_set1_epi32(pair);
      acc[i][0] = _mm512_add_epi32(acc[i][0], _mm512_madd_epi16(a, b0));
      acc[i][1] = _mm512_add_epi32(acc[i][1], _mm512_madd_epi16(a, b1));
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < 2; ++v) {
      const int left = tile.columns - v * 16;
      const __mmask16 mask = left >= 16
                                 ? static_cast<__mmask16>(0xffff)
                                 : static_cast<__mmask16>((1u << (left > 0 ? left : 0)) - 1u);
      std::int32_t* c = tile.c + i * tile.c_stride + v * 16;
      const __m512i sum =
          tile.add ? _mm512_add_epi32(_mm512_maskz_loadu_epi32(mask, c), acc[i][v]) : acc[i][v];
      _mm512_mask_storeu_epi32(c, mask, sum);
    }
  }
}

using Tile = void (*)(const Int8Tile&);
constexpr Tile kTiles[] = {tile_rows<1>, tile_rows<2>, tile_rows<3>, tile_rows<4>};

}  // namespace

void int8_tile_avx512(const Int8Tile& tile) {
  kTiles[tile.rows - 1](tile);
}

}  // namespace forebay::cpu
#pragma GCC pop_options
