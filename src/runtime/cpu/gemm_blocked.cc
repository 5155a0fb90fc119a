#include "runtime/cpu/gemm_blocked.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"

namespace forebay::cpu {
namespace {

constexpr std::int64_t kMostRows = 16;  // of a register tile

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

// A lane is a row of A or a column of B. Four lanes at a time through registers when k is the contiguous direction.
void scatter_lanes(const float* const* lanes, int count, std::int64_t kc, std::int64_t width, float* to) {
  std::int64_t k = 0;
  if (count == 4) {
    for (; k + 4 <= kc; k += 4) {
      __m128 r0 = _mm_loadu_ps(lanes[0] + k), r1 = _mm_loadu_ps(lanes[1] + k), r2 = _mm_loadu_ps(lanes[2] + k), r3 = _mm_loadu_ps(lanes[3] + k);
      _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
      _mm_storeu_ps(to + k * width, r0);
      _mm_storeu_ps(to + (k + 1) * width, r1);
      _mm_storeu_ps(to + (k + 2) * width, r2);
      _mm_storeu_ps(to + (k + 3) * width, r3);
    }
  }
  for (; k < kc; ++k) {
    for (int i = 0; i < count; ++i) to[k * width + i] = lanes[i][k];
  }
}

struct PanelView {
  const std::byte* data;
  DType dtype;
  std::int64_t lane_stride, k_stride;
};

void pack_k_contiguous(InstructionSet set, const PanelView& view, std::int64_t kc, std::int64_t count, std::int64_t width, float* to) {
  const std::int64_t size = dtype_bits(view.dtype) / 8;
  float converted[4][kGemmDepth];
  for (std::int64_t lane = 0; lane < count; lane += 4) {
    const int group = static_cast<int>(std::min<std::int64_t>(4, count - lane));
    const float* lanes[4] = {};
    for (int i = 0; i < group; ++i) {
      const std::byte* from = view.data + (lane + i) * view.lane_stride * size;
      if (view.dtype == DType::f32) {
        lanes[i] = reinterpret_cast<const float*>(from);
      } else {
        to_f32(view.dtype, from, kc, converted[i], set);
        lanes[i] = converted[i];
      }
    }
    scatter_lanes(lanes, group, kc, width, to + lane);
  }
}

void pack_panel(InstructionSet set, const PanelView& view, std::int64_t kc, std::int64_t count, std::int64_t width, float* to) {
  const std::int64_t size = dtype_bits(view.dtype) / 8;
  if (count < width) std::memset(to, 0, static_cast<std::size_t>(kc * width) * sizeof(float));
  if (view.lane_stride == 1) {
    for (std::int64_t k = 0; k < kc; ++k) to_f32(view.dtype, view.data + k * view.k_stride * size, count, to + k * width, set);
  } else if (view.k_stride == 1) {
    pack_k_contiguous(set, view, kc, count, width, to);
  } else {
    for (std::int64_t k = 0; k < kc; ++k) {
      for (std::int64_t lane = 0; lane < count; ++lane) {
        to_f32(view.dtype, view.data + (k * view.k_stride + lane * view.lane_stride) * size, 1, to + k * width + lane, InstructionSet::baseline);
      }
    }
  }
}

// Rows of A as tiles read them.
void pack_rows(InstructionSet set, const PanelView& view, std::int64_t kc, std::int64_t count, std::int64_t rows, float* to) {
  const std::int64_t size = dtype_bits(view.dtype) / 8;
  for (std::int64_t row = count; row < rows; ++row) std::memset(to + row * kGemmRow, 0, static_cast<std::size_t>(kc) * sizeof(float));
  if (view.k_stride == 1) {
    for (std::int64_t row = 0; row < count; ++row) to_f32(view.dtype, view.data + row * view.lane_stride * size, kc, to + row * kGemmRow, set);
    return;
  }
  float column[kMostRows];
  for (std::int64_t k = 0; k < kc; ++k) {
    const std::byte* from = view.data + k * view.k_stride * size;
    if (view.lane_stride == 1) {
      to_f32(view.dtype, from, count, column, set);
    } else {
      for (std::int64_t row = 0; row < count; ++row) to_f32(view.dtype, from + row * view.lane_stride * size, 1, column + row, InstructionSet::baseline);
    }
    for (std::int64_t row = 0; row < count; ++row) to[row * kGemmRow + k] = column[row];
  }
}

void run_tile(InstructionSet set, const GemmTile& tile) {
  switch (set) {
    case InstructionSet::avx512: return gemm_tile_avx512(tile);
    case InstructionSet::avx2: return gemm_tile_avx2(tile);
    case InstructionSet::baseline: return gemm_tile_baseline(tile);
  }
}

PanelView rows_of(const GemmMatrix& a, std::int64_t row, std::int64_t k) {
  return {a.data + (row * a.row_stride + k * a.col_stride) * (dtype_bits(a.dtype) / 8), a.dtype, a.row_stride, a.col_stride};
}

PanelView columns_of(const GemmMatrix& b, std::int64_t k, std::int64_t column) {
  return {b.data + (k * b.row_stride + column * b.col_stride) * (dtype_bits(b.dtype) / 8), b.dtype, b.col_stride, b.row_stride};
}

struct Block {
  std::int64_t m, mc, n, nc, k, kc;
  bool first, last;
  bool in_place;  // full panels of B are read where they lie
  std::int64_t b_depth;  // rows of a packed panel
};

// Rows of A that the next block packs: they are asked for while this one is multiplied. Weights come from memory, in pieces too short for
// the processor to see ahead by itself.
struct Ahead {
  const std::byte* data = nullptr;
  std::int64_t stride = 0, rows = 0, bytes = 0;

  void fetch(std::int64_t first, std::int64_t count) const {
    for (std::int64_t row = first; row < std::min(first + count, rows); ++row) {
      for (std::int64_t byte = 0; byte < bytes; byte += 64) _mm_prefetch(reinterpret_cast<const char*>(data + row * stride + byte), _MM_HINT_T1);
    }
  }
};

Ahead ahead_of(const GemmTask& task, const GemmBlocking& blocking, const Block& block, std::int64_t m0, std::int64_t m1) {
  std::int64_t m = block.m + block.mc, k = block.k, kc = block.kc;
  if (m >= m1) {
    m = m0;
    k += kc;
    kc = std::min(blocking.kc, task.k - k);
  }
  if (task.a.col_stride != 1 || kc <= 0) return {};
  const std::int64_t size = dtype_bits(task.a.dtype) / 8;
  return {task.a.data + (m * task.a.row_stride + k) * size, task.a.row_stride * size, std::min(blocking.mc, m1 - m), kc * size};
}

void multiply_block(InstructionSet set, const GemmTask& task, const GemmBlocking& blocking, const Block& block, const Ahead& ahead, const float* a, const float* b) {
  for (std::int64_t n = 0; n < block.nc; n += blocking.nr) {
    for (std::int64_t m = 0; m < block.mc; m += blocking.mr) {
      if (n == 0) ahead.fetch(m, blocking.mr);
      GemmTile tile;
      tile.kc = block.kc;
      tile.a = a + m * kGemmRow;
      const bool in_place = block.in_place && block.nc - n >= blocking.nr;
      tile.b = in_place ? reinterpret_cast<const float*>(task.b.data) + block.k * task.b.row_stride + block.n + n : b + n * block.b_depth;
      tile.b_stride = in_place ? task.b.row_stride : blocking.nr;
      tile.c = task.c + (block.m + m) * task.c_stride + block.n + n;
      tile.c_stride = task.c_stride;
      tile.rows = static_cast<int>(std::min(blocking.mr, block.mc - m));
      tile.columns = static_cast<int>(std::min(blocking.nr, block.nc - n));
      tile.add = !block.first || task.accumulate;
      tile.bias = block.last && task.row_bias != nullptr ? task.row_bias + block.m + m : nullptr;
      run_tile(set, tile);
    }
  }
}

void pack_columns(InstructionSet set, const GemmTask& task, std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count, float* to) {
  const std::int64_t width = gemm_blocking(set).nr;
  if (task.panels != nullptr) return task.panels->pack(k, kc, n, count, width, to);
  pack_panel(set, columns_of(task.b, k, n), kc, count, width, to);
}

// Full panels of rows that lie in one piece: row by row, for a walk down one panel would touch a page for every 128 bytes.
template <std::int64_t Width>
void pack_rows_of_panels(const GemmMatrix& b, std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t panels, std::int64_t depth, float* to) {
  constexpr std::int64_t kRowsAhead = 4;
  const float* from = reinterpret_cast<const float*>(b.data) + k * b.row_stride + n;
  for (std::int64_t row = 0; row < kc; ++row, from += b.row_stride, to += Width) {
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      const float* source = from + panel * Width;
      if (row + kRowsAhead < kc) {
        for (std::int64_t i = 0; i < Width; i += 16) _mm_prefetch(reinterpret_cast<const char*>(source + kRowsAhead * b.row_stride + i), _MM_HINT_T0);
      }
      std::memcpy(to + panel * Width * depth, source, Width * sizeof(float));
    }
  }
}

// Columns [n, n + count) of one block of rows to panels, each `depth` rows long.
void pack_block(InstructionSet set, const GemmTask& task, std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count, std::int64_t depth, float* to) {
  const std::int64_t width = gemm_blocking(set).nr;
  std::int64_t done = 0;
  if (task.panels == nullptr && task.b.dtype == DType::f32 && task.b.col_stride == 1 && width >= 16) {
    done = count / width;
    width == 32 ? pack_rows_of_panels<32>(task.b, k, kc, n, done, depth, to) : pack_rows_of_panels<16>(task.b, k, kc, n, done, depth, to);
  }
  for (std::int64_t at = done * width; at < count; at += width) pack_columns(set, task, k, kc, n + at, std::min(width, count - at), to + at * depth);
}

void no_products(const GemmTask& task, std::int64_t m0, std::int64_t m1, std::int64_t n0, std::int64_t n1) {
  for (std::int64_t m = m0; m < m1; ++m) {
    const float bias = task.row_bias != nullptr ? task.row_bias[m] : 0.0f;
    for (std::int64_t n = n0; n < n1; ++n) {
      float& c = task.c[m * task.c_stride + n];
      c = task.accumulate ? c + bias : bias;
    }
  }
}

}  // namespace

GemmBlocking gemm_blocking(InstructionSet set, bool wide) {
  switch (set) {
    case InstructionSet::avx512: return {12, 32, kGemmDepth, 120, wide ? 768 : 480};
    case InstructionSet::avx2: return {6, 16, kGemmDepth, 96, 480};
    case InstructionSet::baseline: break;
  }
  return {4, 8, kGemmDepth, 64, 240};
}

namespace {

// Rows of A that a block copies: fewer where they are short, for the room they take does not depend on it.
std::int64_t rows_at_once(const GemmBlocking& blocking, std::int64_t k) {
  return std::max(blocking.mr, blocking.mc * std::min(k, blocking.kc) / blocking.kc / blocking.mr * blocking.mr);
}

}  // namespace

std::int64_t gemm_scratch_floats(InstructionSet set, std::int64_t m, std::int64_t n, std::int64_t k, bool wide) {
  const GemmBlocking blocking = gemm_blocking(set, wide);
  const std::int64_t kc = std::min(k, blocking.kc);
  const std::int64_t mc = std::min(round_up(m, blocking.mr), rows_at_once(blocking, k)), nc = std::min(round_up(n, blocking.nr), blocking.nc);
  return round_up(mc * kGemmRow + nc * kc, 16) + 16;
}

void gemm_range(InstructionSet set, const GemmTask& task, std::int64_t m0, std::int64_t m1, std::int64_t n0, std::int64_t n1, float* scratch) {
  if (m0 >= m1 || n0 >= n1) return;
  if (task.k == 0) return no_products(task, m0, m1, n0, n1);
  GemmBlocking blocking = gemm_blocking(set, task.wide);
  blocking.mc = rows_at_once(blocking, task.k);
  const std::int64_t nc_most = std::min(round_up(n1 - n0, blocking.nr), blocking.nc);
  float* packed_b = scratch;
  // With few rows a copy of B costs more than it saves.
  const bool packed = task.packed != nullptr;
  const bool in_place = !packed && task.panels == nullptr && task.b.dtype == DType::f32 && task.b.col_stride == 1 && m1 - m0 <= 4 * blocking.mr;
  float* packed_a = scratch + nc_most * std::min(task.k, blocking.kc);
  for (std::int64_t n = n0; n < n1; n += blocking.nc) {
    for (std::int64_t k = 0; k < task.k; k += blocking.kc) {
      const std::int64_t kc = std::min(blocking.kc, task.k - k);
      Block block{0, 0, n, std::min(blocking.nc, n1 - n), k, kc, k == 0, k + blocking.kc >= task.k, in_place, packed ? task.k : kc};
      const std::int64_t ready = packed ? block.nc : in_place ? block.nc / blocking.nr * blocking.nr : 0;
      pack_block(set, task, k, kc, n + ready, block.nc - ready, kc, packed_b + ready * kc);
      for (block.m = m0; block.m < m1; block.m += blocking.mc) {
        block.mc = std::min(blocking.mc, m1 - block.m);
        for (std::int64_t at = 0; at < block.mc; at += blocking.mr) {
          const std::int64_t count = std::min(blocking.mr, block.mc - at);
          pack_rows(set, rows_of(task.a, block.m + at, k), kc, count, blocking.mr, packed_a + at * kGemmRow);
        }
        const Ahead ahead = ahead_of(task, blocking, block, m0, m1);
        multiply_block(set, task, blocking, block, ahead, packed_a, packed ? task.packed + n * task.k + k * blocking.nr : packed_b);
      }
    }
  }
}

std::int64_t gemm_packed_floats(InstructionSet set, std::int64_t n, std::int64_t k) { return round_up(n, gemm_blocking(set).nr) * k; }

void gemm_pack(InstructionSet set, const GemmTask& task, ThreadPool& pool, float* to) {
  constexpr std::int64_t kRows = 32;
  const std::int64_t width = gemm_blocking(set).nr;
  pool.parallel_for((task.k + kRows - 1) / kRows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin * kRows; k < std::min(task.k, end * kRows); k += kRows) {
      pack_block(set, task, k, std::min(kRows, task.k - k), 0, task.n, task.k, to + k * width);
    }
  });
}

GemmGrid gemm_grid(InstructionSet set, std::int64_t m, std::int64_t n, std::int64_t k, int threads) {
  const GemmBlocking blocking = gemm_blocking(set);
  const std::int64_t tiles_m = std::max<std::int64_t>(1, (m + blocking.mr - 1) / blocking.mr);
  const std::int64_t tiles_n = std::max<std::int64_t>(1, (n + blocking.nr - 1) / blocking.nr);
  const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(std::max<std::int64_t>(k, 1));
  const auto useful = static_cast<std::int64_t>(std::min(work / 65536.0 + 1.0, static_cast<double>(threads)));
  GemmGrid best;
  double best_cost = -1;
  for (std::int64_t rows = 1; rows <= std::min(useful, tiles_m); ++rows) {
    const std::int64_t columns = std::min(useful / rows, tiles_n);
    const auto part_m = static_cast<double>((tiles_m + rows - 1) / rows * blocking.mr);
    const auto part_n = static_cast<double>((tiles_n + columns - 1) / columns * blocking.nr);
    const double cost = part_m * part_n + 12.0 * (part_m + part_n);  // multiplying, packing: both times k
    if (best_cost < 0 || cost < best_cost) {
      best_cost = cost;
      best = {rows, columns};
    }
  }
  return best;
}

GemmRange gemm_range_of(InstructionSet set, const GemmTask& task, GemmGrid grid, std::int64_t part) {
  const GemmBlocking blocking = gemm_blocking(set);
  const std::int64_t row = part / grid.columns, column = part % grid.columns;
  const std::int64_t tiles_m = (task.m + blocking.mr - 1) / blocking.mr, tiles_n = (task.n + blocking.nr - 1) / blocking.nr;
  const auto edge = [](std::int64_t tiles, std::int64_t at, std::int64_t parts, std::int64_t unit, std::int64_t most) {
    return std::min(most, tiles * at / parts * unit);
  };
  return {edge(tiles_m, row, grid.rows, blocking.mr, task.m), edge(tiles_m, row + 1, grid.rows, blocking.mr, task.m),
          edge(tiles_n, column, grid.columns, blocking.nr, task.n), edge(tiles_n, column + 1, grid.columns, blocking.nr, task.n)};
}

void gemm_part(InstructionSet set, const GemmTask& task, GemmGrid grid, std::int64_t part, float* scratch) {
  const GemmRange range = gemm_range_of(set, task, grid, part);
  gemm_range(set, task, range.m0, range.m1, range.n0, range.n1, scratch);
}

void gemm_parallel(InstructionSet set, const GemmTask& task, GemmGrid grid, ThreadPool& pool, float* scratch) {
  const std::int64_t each = gemm_scratch_floats(set, task.m, task.n, task.k, task.wide);
  pool.parallel_for(grid.parts(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) gemm_part(set, task, grid, part, scratch + part * each);
  });
}

void gemm_tile_baseline(const GemmTile& tile) {
  __m128 acc[4][2];
  for (auto& row : acc) row[0] = row[1] = _mm_setzero_ps();
  for (std::int64_t k = 0; k < tile.kc; ++k) {
    const __m128 b0 = _mm_loadu_ps(tile.b + k * tile.b_stride), b1 = _mm_loadu_ps(tile.b + k * tile.b_stride + 4);
    for (int i = 0; i < 4; ++i) {
      const __m128 a = _mm_set1_ps(tile.a[i * kGemmRow + k]);
      acc[i][0] = _mm_add_ps(acc[i][0], _mm_mul_ps(a, b0));
      acc[i][1] = _mm_add_ps(acc[i][1], _mm_mul_ps(a, b1));
    }
  }
  for (int i = 0; i < tile.rows; ++i) {
    float row[8];
    _mm_storeu_ps(row, acc[i][0]);
    _mm_storeu_ps(row + 4, acc[i][1]);
    float* c = tile.c + i * tile.c_stride;
    for (int j = 0; j < tile.columns; ++j) {
      const float sum = tile.add ? c[j] + row[j] : row[j];
      c[j] = tile.bias != nullptr ? sum + tile.bias[i] : sum;
    }
  }
}

}  // namespace forebay::cpu
