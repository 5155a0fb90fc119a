// Parameters of quantised integers, in kernels.
#pragma once

#include "runtime/cuda/integer_task.h"
#include "runtime/cuda/packed_numbers.cuh"

namespace forebay::cuda {

__device__ inline int integer_at(DType type, const void* data, std::int64_t i) {
  switch (type) {
    case DType::i8:
      return static_cast<const std::int8_t*>(data)[i];
    case DType::u8:
      return static_cast<const std::uint8_t*>(data)[i];
    case DType::i16:
      return static_cast<const std::int16_t*>(data)[i];
    case DType::u16:
      return static_cast<const std::uint16_t*>(data)[i];
    default:
      return static_cast<const std::int32_t*>(data)[i];
  }
}
__device__ inline int zero_of(const Parameter& p, std::int64_t i) {
  return p.data == nullptr ? 0 : integer_at(p.type, p.data, p.each ? i : 0);
}
__device__ inline float scale_of(const Parameter& p, std::int64_t i) {
  return read_number(p.type, p.data, p.each ? i : 0);
}

// NaN becomes the smallest, as on the CPU.
__device__ inline float limited(float value, float low, float high) {
  return value > low ? (value < high ? value : high) : low;
}

// Sums of 16 rows and 8 columns over 32 signed codes. Of left, a lane has rows lane / 4 and 8 more, words lane % 4 and 4 more (of four
// codes); of right, column lane / 4 and the same words; of sums, those rows and columns lane % 4 * 2 and the next.
__device__ inline void multiply_codes(int (&sums)[4], const std::uint32_t (&left)[4], const std::uint32_t (&right)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
               : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
// 32 x 16 sums of a warp over the words that lie in [word][row] tiles, from word `first` on.
template <int kRow>
__device__ inline void multiply_tiles(int (&sums)[2][2][4], const std::uint32_t (*left)[kRow], const std::uint32_t (*right)[kRow],
                                      int first, int left_row, int right_row, int lane) {
  const int word = first + lane % 4, row = lane / 4;
  std::uint32_t l[2][4], r[2][2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    l[i][0] = left[word][left_row + i * 16 + row];
    l[i][1] = left[word][left_row + i * 16 + row + 8];
    l[i][2] = left[word + 4][left_row + i * 16 + row];
    l[i][3] = left[word + 4][left_row + i * 16 + row + 8];
    r[i][0] = right[word][right_row + i * 8 + row];
    r[i][1] = right[word + 4][right_row + i * 8 + row];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) multiply_codes(sums[i][j], l[i], r[j]);
  }
}

}  // namespace forebay::cuda
