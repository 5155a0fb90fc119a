#include "runtime/cpu/int8_gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace forebay::cpu {
namespace {

template <typename T>
void pack_rows(const T* row, const T* next, const std::int16_t* zeros, std::int64_t count,
               std::int16_t* to) {
  if (next == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) {
      to[2 * i] = static_cast<std::int16_t>(row[i] - zeros[i]);
      to[2 * i + 1] = 0;
    }
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    to[2 * i] = static_cast<std::int16_t>(row[i] - zeros[i]);
    to[2 * i + 1] = static_cast<std::int16_t>(next[i] - zeros[i]);
  }
}

void tile_baseline(const Int8Tile& tile) {
  for (int i = 0; i < tile.rows; ++i) {
    std::int32_t sums[kInt8Columns] = {};
    for (std::int64_t p = 0; p < tile.pairs; ++p) {
      const std::int16_t* b = tile.b + p * kInt8Columns * 2;
      const std::int32_t a0 = tile.a[i * tile.a_stride + 2 * p],
                         a1 = tile.a[i * tile.a_stride + 2 * p + 1];
      for (std::int64_t j = 0; j < kInt8Columns; ++j) {
        const std::uint32_t product =
            static_cast<std::uint32_t>(a0 * b[2 * j] + a1 * b[2 * j + 1]);  // at most 2 * 255 * 255
        sums[j] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[j]) + product);
      }
    }
    std::int32_t* c = tile.c + i * tile.c_stride;
    for (int j = 0; j < tile.columns; ++j) {
      c[j] = tile.add ? static_cast<std::int32_t>(static_cast<std::uint32_t>(c[j]) +
                                                  static_cast<std::uint32_t>(sums[j]))
                      : sums[j];
    }
  }
}

void run_tile(InstructionSet set, const Int8Tile& tile) {
  switch (set) {
    case InstructionSet::avx512:
      return int8_tile_avx512(tile);
    case InstructionSet::avx2:
      return int8_tile_avx2(tile);
    case InstructionSet::baseline:
      return tile_baseline(tile);
  }
}

}  // namespace

void Int8Matrix::pack(std::int64_t k, std::int64_t kc, std::int64_t n, std::int64_t count,
                      std::int16_t* to) const {
  if (count < kInt8Columns)
    std::memset(to, 0, static_cast<std::size_t>((kc + 1) / 2 * kInt8Columns * 2) * sizeof *to);
  for (std::int64_t i = 0; i < kc; i += 2, to += kInt8Columns * 2) {
    const std::byte* row = data_ + (k + i) * row_stride_ + n;
    const std::byte* next = i + 1 < kc ? row + row_stride_ : nullptr;
    if (dtype_ == DType::i8) {
      pack_rows(reinterpret_cast<const std::int8_t*>(row),
                reinterpret_cast<const std::int8_t*>(next), zeros_ + n, count, to);
    } else {
      pack_rows(reinterpret_cast<const std::uint8_t*>(row),
                reinterpret_cast<const std::uint8_t*>(next), zeros_ + n, count, to);
    }
  }
}

void int8_gemm(InstructionSet set, const Int8Task& task, std::int64_t n0, std::int64_t n1,
               std::int16_t* scratch) {
  for (std::int64_t n = n0; n < n1; n += kInt8Columns) {
    const std::int64_t count = std::min(kInt8Columns, n1 - n);
    if (task.k == 0 && !task.accumulate) {
      for (std::int64_t m = 0; m < task.m; ++m)
        std::fill_n(task.c + m * task.c_stride + n, count, 0);
    }
    for (std::int64_t k = 0; k < task.k; k += kInt8Depth) {
      const std::int64_t kc = std::min(kInt8Depth, task.k - k);
      task.b->pack(k, kc, n, count, scratch);
      for (std::int64_t m = 0; m < task.m; m += kInt8Rows) {
        Int8Tile tile;
        tile.a = task.a + m * task.a_stride + k;
        tile.a_stride = task.a_stride;
        tile.pairs = (kc + 1) / 2;
        tile.b = scratch;
        tile.c = task.c + m * task.c_stride + n;
        tile.c_stride = task.c_stride;
        tile.rows = static_cast<int>(std::min<std::int64_t>(kInt8Rows, task.m - m));
        tile.columns = static_cast<int>(count);
        tile.add = task.accumulate || k > 0;
        run_tile(set, tile);
      }
    }
  }
}

void int8_widen(DType dtype, const std::byte* from, std::int64_t count, std::int32_t zero,
                std::int16_t* to) {
  if (dtype == DType::i8) {
    const auto* codes = reinterpret_cast<const std::int8_t*>(from);
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<std::int16_t>(codes[i] - zero);
  } else {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(from);
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<std::int16_t>(codes[i] - zero);
  }
}

void int8_requantize(InstructionSet set, const std::int32_t* sums, std::int64_t count,
                     const float* scales, std::int64_t scale_stride, float offset,
                     std::int32_t zero, DType dtype, std::byte* to) {
  const float low = dtype == DType::i8 ? -128.0f : 0.0f,
              high = dtype == DType::i8 ? 127.0f : 255.0f;
  std::int64_t i =
      set == InstructionSet::baseline
          ? 0
          : int8_requantize_avx2(sums, count, scales, scale_stride, offset, zero, dtype, to);
  for (; i < count; ++i) {
    const float scaled =
        std::nearbyint(static_cast<float>(sums[i]) * scales[i * scale_stride] + offset) +
        static_cast<float>(zero);
    const float value = scaled > low ? scaled < high ? scaled : high : low;  // NaN: low
    to[i] = static_cast<std::byte>(static_cast<int>(value));
  }
}

}  // namespace forebay::cpu
