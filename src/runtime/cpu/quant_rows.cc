#include "runtime/cpu/quant_rows.h"

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "runtime/cpu/convert_floats.h"
#include "runtime/cpu/gemv.h"

namespace forebay::cpu {
namespace {

constexpr std::int64_t kPiece = 256;        // floats of one piece: stays in the first cache
constexpr std::int64_t kTileColumns = 512;  // of a tile of eight rows of a [k,n] weight
constexpr std::int64_t kGroup = 32;         // elements that the register kernel takes at a time
constexpr float kFloat4[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

int code_bits(DType dtype) {
  return dtype_bits(dtype);
}

float code_at(DType dtype, const std::byte* data, std::int64_t index) {
  const int bits = code_bits(dtype), per = 8 / bits;
  const unsigned code =
      (std::to_integer<unsigned>(data[index / per]) >> (static_cast<int>(index % per) * bits)) &
      ((1u << bits) - 1u);
  switch (dtype) {
    case DType::u8:
    case DType::u4:
    case DType::u2:
      return static_cast<float>(code);
    case DType::f4e2m1:
      return (code & 8u) != 0 ? -kFloat4[code & 7u] : kFloat4[code & 7u];
    case DType::f8e4m3fn:
      return f8_to_f32(Float8::e4m3fn, static_cast<std::uint8_t>(code));
    case DType::f8e4m3fnuz:
      return f8_to_f32(Float8::e4m3fnuz, static_cast<std::uint8_t>(code));
    case DType::f8e5m2:
      return f8_to_f32(Float8::e5m2, static_cast<std::uint8_t>(code));
    case DType::f8e5m2fnuz:
      return f8_to_f32(Float8::e5m2fnuz, static_cast<std::uint8_t>(code));
    default:
      return static_cast<float>(static_cast<int>(code) -
                                ((code >> (bits - 1)) != 0 ? 1 << bits : 0));
  }
}

// Codes or floats.
float number_at(DType dtype, const std::byte* data, std::int64_t index) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(data)[index];
  if (dtype == DType::f16) return f16_to_f32(reinterpret_cast<const std::uint16_t*>(data)[index]);
  if (dtype == DType::bf16) return bf16_to_f32(reinterpret_cast<const std::uint16_t*>(data)[index]);
  return code_at(dtype, data, index);
}

void convert(InstructionSet set, DType dtype, const std::byte* data, std::int64_t offset,
             std::int64_t count, float zero, float scale, float* out) {
  std::int64_t i = 0;
  if (set != InstructionSet::baseline) {
    // Vectors begin at whole bytes.
    for (const int per = 8 / code_bits(dtype); i < count && (offset + i) % per != 0; ++i)
      out[i] = (code_at(dtype, data, offset + i) - zero) * scale;
    i += quant_avx2::convert(dtype, data, offset + i, count - i, zero, scale, out + i);
  }
  for (; i < count; ++i) out[i] = (code_at(dtype, data, offset + i) - zero) * scale;
}

// Scales or zero points of columns [begin, begin + count) of a row, one a column block.
struct ScaleRow {
  const QuantScales& from;
  std::int64_t base;
  ScaleRow(const QuantView& view, const QuantScales& scales, std::int64_t row)
      : from(scales),
        base((view.first_row + row) / view.row_block * scales.row_stride - scales.origin) {}
  float at(std::int64_t block) const {
    return number_at(from.dtype, from.data, base + block * from.col_stride);
  }
  void list(InstructionSet set, std::int64_t block, std::int64_t count, float* out) const {
    if (from.col_stride == 0) {
      std::fill(out, out + count, at(0));
    } else if (from.dtype == DType::f32 || from.dtype == DType::f16 || from.dtype == DType::bf16) {
      to_f32(from.dtype, from.data + (base + block) * (dtype_bits(from.dtype) / 8), count, out,
             set);
    } else {
      convert(set, from.dtype, from.data, base + block, count, 0.0f, 1.0f, out);
    }
  }
};

void round_values(InstructionSet set, DType value, float* out, std::int64_t count) {
  if (value == DType::f32) return;
  std::byte narrow[kPiece * 2];
  for (std::int64_t at = 0; at < count; at += kPiece) {
    const std::int64_t n = std::min(kPiece, count - at);
    from_f32(value, out + at, n, narrow, set);
    to_f32(value, narrow, n, out + at, set);
  }
}

// A scale for each column.
void scale_each(InstructionSet set, const QuantView& view, const ScaleRow& scale,
                const ScaleRow& zero, std::int64_t begin, std::int64_t count, float* out) {
  float scales[kPiece], zeros[kPiece];
  for (std::int64_t at = 0; at < count; at += kPiece) {
    const std::int64_t n = std::min(kPiece, count - at);
    scale.list(set, begin + at, n, scales);
    if (zero.from.data != nullptr) {
      zero.list(set, begin + at, n, zeros);
    } else {
      std::fill(zeros, zeros + n, view.zero_default);
    }
    for (std::int64_t i = 0; i < n; ++i) out[at + i] = (out[at + i] - zeros[i]) * scales[i];
  }
}

void add_tail(const QuantView& view, std::int64_t row, std::int64_t k, const float* x,
              float* sums) {
  const std::int64_t done = k / kPiece * kPiece;
  float tail[kPiece];
  dequant_row(InstructionSet::avx2, view, row, done, k - done, tail);
  for (std::int64_t i = 0; i < k - done; ++i) sums[i] = std::fma(tail[i], x[done + i], sums[i]);
}

// Of each group of x the even elements, then the odd ones.
void split_groups(const float* x, std::int64_t count, float* to) {
  for (std::int64_t at = 0; at < count; at += kGroup) {
    for (std::int64_t i = 0; i < kGroup / 2; ++i) {
      to[at + i] = x[at + 2 * i];
      to[at + kGroup / 2 + i] = x[at + 2 * i + 1];
    }
  }
}

// Values never leave the registers; more rows of x make them again from the packed row in the first
// cache.
void row_dot_registers(bool wide, const QuantView& view, const GemvTask& task, std::int64_t begin,
                       std::int64_t end, float* scratch) {
  const bool one_scale = view.scale.col_stride == 0 && view.zero.col_stride == 0;
  RowDot dot;
  dot.dtype = view.dtype;
  dot.value = view.value;
  dot.blocks = task.k / kPiece;
  dot.block = one_scale ? kPiece : view.col_block;
  const std::int64_t whole = dot.blocks * kPiece, count = (whole + dot.block - 1) / dot.block;
  const bool splits = wide && quant_avx512::row_dot_splits(view.dtype);
  for (std::int64_t m = 0; splits && m < task.m; ++m)
    split_groups(task.x + m * task.x_stride, whole, scratch + m * whole);
  float* scales = scratch + task.m * whole;
  float* zeros = scales + whole / kGroup;
  alignas(64) float sums[kPiece];
  dot.sums = sums;
  dot.scales = scales;
  dot.zeros = zeros;
  if (view.zero.data == nullptr) std::fill(zeros, zeros + count, view.zero_default);
  for (std::int64_t n = begin; n < end; ++n) {
    ScaleRow(view, view.scale, n).list(InstructionSet::avx2, 0, count, scales);
    if (view.zero.data != nullptr)
      ScaleRow(view, view.zero, n).list(InstructionSet::avx2, 0, count, zeros);
    dot.codes = view.data + n * view.stride * code_bits(view.dtype) / 8;
    for (std::int64_t m = 0; m < task.m; ++m) {
      const float* x = task.x + m * task.x_stride;
      dot.x = splits ? scratch + m * whole : x;
      wide ? quant_avx512::row_dot(dot) : quant_avx2::row_dot(dot);
      if (task.k > whole) add_tail(view, n, task.k, x, sums);
      task.y[m * task.y_stride + n] = gemv_baseline::fold(sums);
    }
  }
}

}  // namespace

bool quant_code_dtype(DType dtype) {
  switch (dtype) {
    case DType::i8:
    case DType::u8:
    case DType::i4:
    case DType::u4:
    case DType::i2:
    case DType::u2:
    case DType::f4e2m1:
    case DType::f8e4m3fn:
    case DType::f8e4m3fnuz:
    case DType::f8e5m2:
    case DType::f8e5m2fnuz:
      return true;
    default:
      return false;
  }
}

void dequant_row(InstructionSet set, const QuantView& view, std::int64_t row, std::int64_t begin,
                 std::int64_t count, float* out) {
  const ScaleRow scale(view, view.scale, row), zero(view, view.zero, row);
  const std::int64_t offset = row * view.stride + begin;
  const bool has_zero = view.zero.data != nullptr;
  if (view.col_block == 1 && view.scale.col_stride != 0) {
    convert(set, view.dtype, view.data, offset, count, 0.0f, 1.0f, out);
    scale_each(set, view, scale, zero, begin, count, out);
  } else {
    const bool one = view.scale.col_stride == 0 && view.zero.col_stride == 0;
    for (std::int64_t at = 0; at < count;) {
      const std::int64_t block = (begin + at) / view.col_block,
                         end = one ? count : std::min(count, (block + 1) * view.col_block - begin);
      const float z = has_zero ? zero.at(view.zero.col_stride != 0 ? block : 0) : view.zero_default;
      convert(set, view.dtype, view.data, offset + at, end - at, z,
              scale.at(view.scale.col_stride != 0 ? block : 0), out + at);
      at = end;
    }
  }
  round_values(set, view.value, out, count);
}

std::int64_t quant_row_dot_scratch(std::int64_t m, std::int64_t k) {
  return m * k + 2 * (k / kGroup) + 64;
}
std::int64_t quant_axpy_scratch() {
  return 8 * kTileColumns;
}

void quant_row_dot(InstructionSet set, const QuantView& view, const GemvTask& task,
                   std::int64_t begin, std::int64_t end, float* scratch) {
  const bool one_scale = view.scale.col_stride == 0 && view.zero.col_stride == 0;
  const bool aligned =
      (one_scale || view.col_block % kGroup == 0) && view.stride * code_bits(view.dtype) % 8 == 0;
  const bool wide = set == InstructionSet::avx512 && quant_avx512::row_dot_serves(view.dtype);
  if (aligned &&
      (wide || (set != InstructionSet::baseline && quant_avx2::row_dot_serves(view.dtype)))) {
    return row_dot_registers(wide, view, task, begin, end, scratch);
  }
  GemvTask one = task;
  one.dtype = DType::f32;
  one.weights = reinterpret_cast<const std::byte*>(scratch);
  one.n = 1;
  for (std::int64_t n = begin; n < end; ++n) {
    dequant_row(set, view, n, 0, task.k, scratch);
    one.y = task.y + n;
    gemv_row_dot(set, one, 0, 1);
  }
}

void quant_axpy(InstructionSet set, const QuantView& view, const GemvTask& task, std::int64_t begin,
                std::int64_t end, float* scratch) {
  GemvTask tile = task;
  tile.dtype = DType::f32;
  tile.weights = reinterpret_cast<const std::byte*>(scratch);
  tile.n = kTileColumns;
  for (std::int64_t column = begin; column < end; column += kTileColumns) {
    const std::int64_t columns = std::min(kTileColumns, end - column);
    tile.y = task.y + column;
    for (std::int64_t k = 0; k < task.k; k += tile.k) {
      tile.k = std::min<std::int64_t>(8, task.k - k);
      tile.x = task.x + k;
      for (std::int64_t i = 0; i < tile.k; ++i)
        dequant_row(set, view, k + i, column, columns, scratch + i * kTileColumns);
      gemv_axpy(set, tile, 0, columns);
    }
  }
}

}  // namespace forebay::cpu
