// Products of 8-bit integers in 32-bit sums: exact, so that neither blocking nor the instruction
// set changes a bit.
//
// Operands are widened to 16 bits with their zero points taken off, in pairs along k: one
// multiply-add instruction takes a pair.
#pragma once

#include <cstddef>
#include <cstdint>

#include "forebay/types.h"
#include "runtime/cpu/gemv_isa.h"

namespace forebay::cpu {

inline constexpr std::int64_t kInt8Columns = 32,
                              kInt8Depth = 512;  // of a panel of B; the depth is even

// Makes panels of B: rows [k, k + kc) of columns [n, n + count) to to[(row / 2 * kInt8Columns +
// column) * 2 + row % 2], zeros elsewhere; kc is rounded up to a pair.
class Int8Panels {
 public:
  virtual ~Int8Panels() = default;
  virtual void pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count,
                    std::int16_t* to) const = 0;
};

// B as it lies in [k, n] bytes, with a zero point a column (or one).
class Int8Matrix final : public Int8Panels {
 public:
  Int8Matrix(DType dtype, const std::byte* data, std::int64_t row_stride, const std::int16_t* zeros)
      : dtype_(dtype), data_(data), row_stride_(row_stride), zeros_(zeros) {}
  void pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count,
            std::int16_t* to) const override;

 private:
  DType dtype_;
  const std::byte* data_;
  std::int64_t row_stride_;
  const std::int16_t* zeros_;  // one a column
};

struct Int8Task {
  std::int64_t m = 0, n = 0, k = 0;
  const std::int16_t* a = nullptr;  // [m, a_stride], zero beyond k in the last pair
  std::int64_t a_stride = 0;        // even
  const Int8Panels* b = nullptr;
  std::int32_t* c = nullptr;
  std::int64_t c_stride = 0;
  bool accumulate = false;
};

inline std::int64_t int8_a_stride(std::int64_t k) {
  return (k + 1) / 2 * 2;
}
inline constexpr std::int64_t kInt8Scratch =
    kInt8Depth * kInt8Columns;  // 16-bit numbers for each thread
// Columns [n0, n1) of C, n0 a multiple of kInt8Columns, on this thread.
void int8_gemm(InstructionSet set, const Int8Task& task, std::int64_t n0, std::int64_t n1,
               std::int16_t* scratch);
// to[i] = from[i] - zero.
void int8_widen(DType dtype, const std::byte* from, std::int64_t count, std::int32_t zero,
                std::int16_t* to);
// to[i] = saturate(round to even(sums[i] * scales[i * scale_stride] + offset) + zero), i8 or u8.
void int8_requantize(InstructionSet set, const std::int32_t* sums, std::int64_t count,
                     const float* scales, std::int64_t scale_stride, float offset,
                     std::int32_t zero, DType dtype, std::byte* to);

struct Int8Tile {
  const std::int16_t* a = nullptr;
  std::int64_t a_stride = 0, pairs = 0;
  const std::int16_t* b = nullptr;  // [pairs][kInt8Columns][2]
  std::int32_t* c = nullptr;
  std::int64_t c_stride = 0;
  int rows = 0, columns = 0;
  bool add = false;
};
inline constexpr int kInt8Rows = 4;
void int8_tile_avx2(const Int8Tile& tile);
void int8_tile_avx512(const Int8Tile& tile);
std::int64_t int8_requantize_avx2(const std::int32_t* sums, std::int64_t count, const float* scales,
                                  std::int64_t scale_stride, float offset, std::int32_t zero,
                                  DType dtype, std::byte* to);

}  // namespace forebay::cpu
