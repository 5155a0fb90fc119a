// Register tile of 12 x 32 with AVX-512; narrow tiles use one register a row.
#include <immintrin.h>

#include "runtime/cpu/gemm_blocked.h"

// GCC 12 reports its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

namespace forebay::cpu {
namespace {

template <int Rows, int Vectors>
void tile_rows(const GemmTile& tile) {
  __m512 acc[Rows][Vectors];
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) acc[i][v] = _mm512_setzero_ps();
  }
  const float* a = tile.a;
  const float* b = tile.b;
  for (std::int64_t k = 0; k < tile.kc; ++k, ++a, b += tile.b_stride) {
    __m512 columns[Vectors];
    for (int v = 0; v < Vectors; ++v) columns[v] = _mm512_loadu_ps(b + v * 16);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
      const __m512 value = _mm512_set1_ps(a[i * kGemmRow]);
      for (int v = 0; v < Vectors; ++v) acc[i][v] = _mm512_fmadd_ps(value, columns[v], acc[i][v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) {
      const int left = tile.columns - v * 16;
      const __mmask16 mask = left >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << (left > 0 ? left : 0)) - 1u);
      float* c = tile.c + i * tile.c_stride + v * 16;
      __m512 sum = acc[i][v];
      if (tile.add) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum);
      if (tile.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_set1_ps(tile.bias[i]));
      _mm512_mask_storeu_ps(c, mask, sum);
    }
  }
}

template <int Rows>
void tile_width(const GemmTile& tile) {
  if (tile.columns > 16) {
    tile_rows<Rows, 2>(tile);
  } else {
    tile_rows<Rows, 1>(tile);
  }
}

using Tile = void (*)(const GemmTile&);
constexpr Tile kTiles[] = {tile_width<1>, tile_width<2>, tile_width<3>, tile_width<4>,  tile_width<5>,  tile_width<6>,
                           tile_width<7>, tile_width<8>, tile_width<9>, tile_width<10>, tile_width<11>, tile_width<12>};

}  // namespace

void gemm_tile_avx512(const GemmTile& tile) { kTiles[tile.rows - 1](tile); }

}  // namespace forebay::cpu
#pragma GCC pop_options
