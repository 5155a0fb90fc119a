// Our own blocked matrix product in f32: C = A * B, packed panels, register tiles per instruction set. Any float dtype comes in, f32 goes out.
// Every element of C is summed in the order of k in blocks of GemmBlocking::kc, so the bits do not depend on how M and N are cut
// nor on the number of threads (they do depend on the instruction set: the baseline has no FMA).
#pragma once

#include <cstddef>
#include <cstdint>

#include "forebay/types.h"
#include "runtime/cpu/gemv_isa.h"
#include "runtime/thread_pool.h"

namespace forebay::cpu {

struct GemmMatrix {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;  // f32, f16, bf16, f64
  std::int64_t row_stride = 0, col_stride = 1;  // elements
};

// Makes panels of B that exist nowhere as a matrix (the patches of a convolution).
class GemmPanels {
 public:
  virtual ~GemmPanels() = default;
  // Rows [k, k + kc) of columns [n, n + count) to to[row * width + column], columns from count to width zeroed.
  virtual void pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count, std::int64_t width, float* to) const = 0;
};

struct GemmTask {
  std::int64_t m = 0, n = 0, k = 0;
  GemmMatrix a, b;
  const GemmPanels* panels = nullptr;  // in place of b
  const float* packed = nullptr;       // in place of both: what gemm_pack made of all of B
  float* c = nullptr;
  std::int64_t c_stride = 0;
  bool accumulate = false;          // C += A * B
  bool wide = false;                // wider blocks of B, which copy A less often: for matrices of weights as B
  const float* row_bias = nullptr;  // added at the end to row i: row_bias[i]
};

struct GemmBlocking {
  std::int64_t mr, nr, kc, mc, nc;
};
GemmBlocking gemm_blocking(InstructionSet set, bool wide = false);

// Floats of packing space that one thread needs for a product of this size.
std::int64_t gemm_scratch_floats(InstructionSet set, std::int64_t m, std::int64_t n, std::int64_t k, bool wide = false);
// Rows [m0, m1) and columns [n0, n1) of C, on this thread.
void gemm_range(InstructionSet set, const GemmTask& task, std::int64_t m0, std::int64_t m1, std::int64_t n0, std::int64_t n1, float* scratch);

// B made ready once for many products (the slabs of a weight as A): columns in panels of GemmBlocking::nr, each with all of its rows.
std::int64_t gemm_packed_floats(InstructionSet set, std::int64_t n, std::int64_t k);
void gemm_pack(InstructionSet set, const GemmTask& task, ThreadPool& pool, float* to);

// How a product is shared: a grid of parts, at most `threads`, fewer when the work is small.
struct GemmGrid {
  std::int64_t rows = 1, columns = 1;
  std::int64_t parts() const { return rows * columns; }
};
GemmGrid gemm_grid(InstructionSet set, std::int64_t m, std::int64_t n, std::int64_t k, int threads);
struct GemmRange {
  std::int64_t m0, m1, n0, n1;
};
GemmRange gemm_range_of(InstructionSet set, const GemmTask& task, GemmGrid grid, std::int64_t part);
// One part of the grid; scratch of one thread.
void gemm_part(InstructionSet set, const GemmTask& task, GemmGrid grid, std::int64_t part, float* scratch);
// All parts on the pool; scratch holds gemm_scratch_floats for each part.
void gemm_parallel(InstructionSet set, const GemmTask& task, GemmGrid grid, ThreadPool& pool, float* scratch);

// Rows of A lie as they are, a block of k long: broadcasts need no other order. The odd number of cache lines between them keeps rows out of
// each other's sets.
inline constexpr std::int64_t kGemmDepth = 192, kGemmRow = kGemmDepth + 16;

// Register tile: rows x columns of C from packed panels; `add` keeps what C holds; bias may be null. Per instruction set.
struct GemmTile {
  std::int64_t kc = 0;
  const float* a = nullptr;  // rows of kc, kGemmRow apart
  const float* b = nullptr;  // [kc][nr], rows b_stride apart
  std::int64_t b_stride = 0;
  float* c = nullptr;
  std::int64_t c_stride = 0;
  int rows = 0, columns = 0;
  bool add = false;
  const float* bias = nullptr;
};
void gemm_tile_baseline(const GemmTile& tile);
void gemm_tile_avx2(const GemmTile& tile);
void gemm_tile_avx512(const GemmTile& tile);

}  // namespace forebay::cpu
