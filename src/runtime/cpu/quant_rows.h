// Packed weights: rows of a quantised matrix made into f32, piece by piece, as DequantizeLinear
// would make them in the graph's dtype.
//
// value = round((code - zero point) * scale): difference and product in f32, rounded to the graph's
// dtype and widened again. Every instruction set gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "forebay/types.h"
#include "runtime/cpu/gemv.h"
#include "runtime/cpu/gemv_isa.h"

namespace forebay::cpu {

// One scale (or zero point) for `row_block` x `col_block` elements; strides are in elements, 0
// where one value serves all.
struct QuantScales {
  const std::byte* data = nullptr;  // null: absent
  DType dtype = DType::none;        // scales: f32, f16, bf16; zero points: also codes
  std::int64_t row_stride = 0, col_stride = 0;
  std::int64_t origin = 0;  // of what `data` points to, among all of them
};

struct QuantView {
  const std::byte* data = nullptr;
  DType dtype = DType::none;   // i8, u8, i4, u4, i2, u2, f4e2m1, 8-bit floats
  std::int64_t stride = 0;     // elements from row to row
  std::int64_t first_row = 0;  // of `data` in the whole matrix: scales are found by it
  std::int64_t row_block = 1, col_block = 1;
  QuantScales scale, zero;
  float zero_default = 0.0f;  // where zero points are absent
  DType value = DType::f32;   // what a value is rounded to: f32, f16, bf16
};

bool quant_code_dtype(DType dtype);
// out[i] = value (row, begin + i).
void dequant_row(InstructionSet set, const QuantView& view, std::int64_t row, std::int64_t begin,
                 std::int64_t count, float* out);

// Products with up to kGemvRows rows x; y as in GemvTask, whose weights and dtype are not read.
// `scratch` holds so many floats.
std::int64_t quant_row_dot_scratch(std::int64_t m, std::int64_t k);
std::int64_t quant_axpy_scratch();
// [n,k]: y[:, begin..end) = x * view[begin..end)^T in the order of gemv_row_dot.
void quant_row_dot(InstructionSet set, const QuantView& view, const GemvTask& task,
                   std::int64_t begin, std::int64_t end, float* scratch);
// [k,n]: y[:, begin..end) += x * view[:, begin..end) in the order of gemv_axpy.
void quant_axpy(InstructionSet set, const QuantView& view, const GemvTask& task, std::int64_t begin,
                std::int64_t end, float* scratch);

// One row of x: whole blocks of 256 elements of a row, its scales and zero points given as f32 (one
// each for `block` elements).
struct RowDot {
  const std::byte* codes = nullptr;
  DType dtype = DType::none, value = DType::f32;
  const float* scales = nullptr;
  const float* zeros = nullptr;
  std::int64_t block = 0;   // a multiple of 32
  std::int64_t blocks = 0;  // of 256 elements
  const float* x = nullptr;
  float* sums = nullptr;  // 256, in the order of the row; 64-byte aligned
};

namespace quant_avx2 {
// out[i] = (code(offset + i) - zero) * scale, as many as are taken at once; gives how many were
// made.
std::int64_t convert(DType dtype, const std::byte* data, std::int64_t offset, std::int64_t count,
                     float zero, float scale, float* out);
bool row_dot_serves(DType dtype);
void row_dot(const RowDot& task);
}  // namespace quant_avx2
namespace quant_avx512 {
bool row_dot_serves(DType dtype);
// x is as `row_dot_splits` says.
void row_dot(const RowDot& task);
// Of each 32 elements of x the even ones, then the odd ones.
bool row_dot_splits(DType dtype);
}  // namespace quant_avx512

}  // namespace forebay::cpu
