#include "reference_compare.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/half.h"

namespace forebay::tools {
namespace {

template <typename T>
T load(const std::byte* data, std::int64_t i) {
  T value;
  std::memcpy(&value, data + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

// Sub-byte element i: the low bits first.
unsigned packed(const std::byte* data, std::int64_t i, int bits) {
  const std::int64_t per_byte = 8 / bits;
  const unsigned byte = static_cast<unsigned>(data[i / per_byte]);
  return (byte >> (static_cast<int>(i % per_byte) * bits)) & ((1u << bits) - 1);
}

double signed_packed(const std::byte* data, std::int64_t i, int bits) {
  const int value = static_cast<int>(packed(data, i, bits));
  return value >= (1 << (bits - 1)) ? value - (1 << bits) : value;
}

}  // namespace

double element_as_double(const ConstTensorView& tensor, std::int64_t i) {
  const std::byte* data = tensor.data;
  switch (tensor.dtype) {
    case DType::f32: return static_cast<double>(load<float>(data, i));
    case DType::f64: return load<double>(data, i);
    case DType::f16: return static_cast<double>(f16_to_f32(load<std::uint16_t>(data, i)));
    case DType::bf16: return static_cast<double>(bf16_to_f32(load<std::uint16_t>(data, i)));
    case DType::i8: return load<std::int8_t>(data, i);
    case DType::i16: return load<std::int16_t>(data, i);
    case DType::i32: return load<std::int32_t>(data, i);
    case DType::i64: return static_cast<double>(load<std::int64_t>(data, i));
    case DType::u8:
    case DType::boolean: return load<std::uint8_t>(data, i);
    case DType::u16: return load<std::uint16_t>(data, i);
    case DType::u32: return load<std::uint32_t>(data, i);
    case DType::u64: return static_cast<double>(load<std::uint64_t>(data, i));
    case DType::f8e4m3fn: return static_cast<double>(f8_to_f32(Float8::e4m3fn, load<std::uint8_t>(data, i)));
    case DType::f8e4m3fnuz: return static_cast<double>(f8_to_f32(Float8::e4m3fnuz, load<std::uint8_t>(data, i)));
    case DType::f8e5m2: return static_cast<double>(f8_to_f32(Float8::e5m2, load<std::uint8_t>(data, i)));
    case DType::f8e5m2fnuz: return static_cast<double>(f8_to_f32(Float8::e5m2fnuz, load<std::uint8_t>(data, i)));
    case DType::f8e8m0: {
      const int exponent = load<std::uint8_t>(data, i);
      return exponent == 255 ? std::nan("") : std::ldexp(1.0, exponent - 127);
    }
    case DType::f4e2m1: {
      static constexpr double kValues[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
      const unsigned bits = packed(data, i, 4);
      return (bits & 8u) != 0 ? -kValues[bits & 7u] : kValues[bits & 7u];
    }
    case DType::i4: return signed_packed(data, i, 4);
    case DType::u4: return packed(data, i, 4);
    case DType::i2: return signed_packed(data, i, 2);
    case DType::u2: return packed(data, i, 2);
    case DType::none: break;
  }
  return std::nan("");
}

Difference compare_tensors(const ConstTensorView& actual, const ConstTensorView& expected, double atol, double rtol) {
  Difference difference;
  if (actual.dtype != expected.dtype) {
    difference.mismatch = fmt::format("dtype {} instead of {}", dtype_name(actual.dtype), dtype_name(expected.dtype));
    return difference;
  }
  if (!(actual.shape == expected.shape)) {
    difference.mismatch = fmt::format("shape {} instead of {}", actual.shape.to_string(), expected.shape.to_string());
    return difference;
  }
  const bool exact = !dtype_is_float(actual.dtype);
  const int bits = dtype_bits(actual.dtype);
  difference.count = static_cast<std::uint64_t>(actual.shape.elements());
  for (std::int64_t i = 0; i < actual.shape.elements(); ++i) {
    const double a = element_as_double(actual, i), b = element_as_double(expected, i);
    if (std::isnan(a) && std::isnan(b)) continue;
    bool equal = a == b;
    if (exact && bits == 64 && equal) equal = load<std::uint64_t>(actual.data, i) == load<std::uint64_t>(expected.data, i);
    if (equal) continue;
    const double absolute = std::abs(a - b);  // NaN or infinite where one side is
    const double relative = std::abs(b) > 0 ? absolute / std::abs(b) : INFINITY;
    if (!(absolute <= difference.max_abs)) difference.max_abs = absolute;
    if (!(relative <= difference.max_rel)) difference.max_rel = relative;
    if (!exact && std::isfinite(absolute) && absolute <= atol + rtol * std::abs(b)) continue;
    if (difference.beyond++ == 0) difference.first = i;
  }
  return difference;
}

}  // namespace forebay::tools
