// Register tile of 6 x 16 with AVX2 and FMA.
#include <immintrin.h>

#include "runtime/cpu/gemm_blocked.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace forebay::cpu {
namespace {

template <int Rows>
void tile_rows(const GemmTile& tile) {
  __m256 acc[Rows][2];
  for (int i = 0; i < Rows; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  const float* a = tile.a;
  const float* b = tile.b;
  for (std::int64_t k = 0; k < tile.kc; ++k, ++a, b += tile.b_stride) {
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
      const __m256 value = _mm256_broadcast_ss(a + i * kGemmRow);
      acc[i][0] = _mm256_fmadd_ps(value, b0, acc[i][0]);
      acc[i][1] = _mm256_fmadd_ps(value, b1, acc[i][1]);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    alignas(32) float row[16];
    _mm256_store_ps(row, acc[i][0]);
    _mm256_store_ps(row + 8, acc[i][1]);
    float* c = tile.c + i * tile.c_stride;
    for (int j = 0; j < tile.columns; ++j) {
      const float sum = tile.add ? c[j] + row[j] : row[j];
      c[j] = tile.bias != nullptr ? sum + tile.bias[i] : sum;
    }
  }
}

}  // namespace

void gemm_tile_avx2(const GemmTile& tile) {
  switch (tile.rows) {
    case 1: return tile_rows<1>(tile);
    case 2: return tile_rows<2>(tile);
    case 3: return tile_rows<3>(tile);
    case 4: return tile_rows<4>(tile);
    case 5: return tile_rows<5>(tile);
    default: return tile_rows<6>(tile);
  }
}

}  // namespace forebay::cpu
#pragma GCC pop_options
