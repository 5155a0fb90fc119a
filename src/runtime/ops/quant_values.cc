#include "runtime/ops/quant_values.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/half.h"

namespace forebay::ops {
namespace {

constexpr float kFloat4[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

unsigned load_bits(const std::byte* data, std::int64_t index, int bits) {
  const int per = 8 / bits;
  const auto byte = std::to_integer<unsigned>(data[index / per]);
  return (byte >> (static_cast<int>(index % per) * bits)) & ((1u << bits) - 1u);
}
void store_bits(std::byte* data, std::int64_t index, int bits, unsigned value) {
  const int per = 8 / bits, shift = static_cast<int>(index % per) * bits;
  const unsigned mask = ((1u << bits) - 1u) << shift;
  data[index / per] = static_cast<std::byte>((std::to_integer<unsigned>(data[index / per]) & ~mask) | ((value << shift) & mask));
}
int signed_bits(unsigned value, int bits) { return static_cast<int>(value) - ((value >> (bits - 1)) != 0 ? 1 << bits : 0); }

// Round to nearest, ties to the even code.
unsigned to_float4(double value) {
  if (std::isnan(value))
    return 8;  // there is no NaN here: minus zero stands for it, as Cast has it
  const double magnitude = std::abs(value);
  unsigned best = 0;
  for (unsigned i = 1; i < 8; ++i) {
    const double now = std::abs(magnitude - static_cast<double>(kFloat4[i])), before = std::abs(magnitude - static_cast<double>(kFloat4[best]));
    if (now < before || (now == before && i % 2 == 0)) best = i;
  }
  return best | (std::signbit(value) ? 8u : 0u);
}

template <typename T>
T element(const std::byte* data, std::int64_t index) {
  return reinterpret_cast<const T*>(data)[index];
}
template <typename T>
void put(std::byte* data, std::int64_t index, double value) {
  const double rounded = std::nearbyint(value), low = static_cast<double>(std::numeric_limits<T>::lowest()), high = static_cast<double>(std::numeric_limits<T>::max());
  reinterpret_cast<T*>(data)[index] = rounded <= low ? std::numeric_limits<T>::lowest() : rounded >= high ? std::numeric_limits<T>::max() : static_cast<T>(rounded);
}

}  // namespace

bool quantized_dtype(DType dtype) {
  switch (dtype) {
    case DType::i8: case DType::u8: case DType::i16: case DType::u16: case DType::i4: case DType::u4: case DType::i2: case DType::u2:
    case DType::f8e4m3fn: case DType::f8e4m3fnuz: case DType::f8e5m2: case DType::f8e5m2fnuz: case DType::f4e2m1:
      return true;
    default: return false;
  }
}

double load_number(DType dtype, const std::byte* data, std::int64_t index) {
  switch (dtype) {
    case DType::f32: return static_cast<double>(element<float>(data, index));
    case DType::f64: return element<double>(data, index);
    case DType::f16: return static_cast<double>(f16_to_f32(element<std::uint16_t>(data, index)));
    case DType::bf16: return static_cast<double>(bf16_to_f32(element<std::uint16_t>(data, index)));
    case DType::i8: return element<std::int8_t>(data, index);
    case DType::u8: return element<std::uint8_t>(data, index);
    case DType::i16: return element<std::int16_t>(data, index);
    case DType::u16: return element<std::uint16_t>(data, index);
    case DType::i32: return element<std::int32_t>(data, index);
    case DType::u32: return element<std::uint32_t>(data, index);
    case DType::i64: return static_cast<double>(element<std::int64_t>(data, index));
    case DType::u64: return static_cast<double>(element<std::uint64_t>(data, index));
    case DType::i4: return signed_bits(load_bits(data, index, 4), 4);
    case DType::u4: return load_bits(data, index, 4);
    case DType::i2: return signed_bits(load_bits(data, index, 2), 2);
    case DType::u2: return load_bits(data, index, 2);
    case DType::f4e2m1: {
      const unsigned bits = load_bits(data, index, 4);
      return static_cast<double>((bits & 8u) != 0 ? -kFloat4[bits & 7u] : kFloat4[bits & 7u]);
    }
    case DType::f8e4m3fn: case DType::f8e4m3fnuz: case DType::f8e5m2: case DType::f8e5m2fnuz:
      return static_cast<double>(f8_to_f32(float8_of(dtype), element<std::uint8_t>(data, index)));
    default: FB_CHECK(dtype == DType::boolean); return element<std::uint8_t>(data, index);
  }
}

void store_number(DType dtype, std::byte* data, std::int64_t index, double value, bool saturate) {
  if (std::isnan(value) && dtype_is_integer(dtype)) value = 0;
  switch (dtype) {
    case DType::f32: reinterpret_cast<float*>(data)[index] = static_cast<float>(value); return;
    case DType::f64: reinterpret_cast<double*>(data)[index] = value; return;
    case DType::f16: reinterpret_cast<std::uint16_t*>(data)[index] = f32_to_f16(static_cast<float>(value)); return;
    case DType::bf16: reinterpret_cast<std::uint16_t*>(data)[index] = f32_to_bf16(static_cast<float>(value)); return;
    case DType::i8: return put<std::int8_t>(data, index, value);
    case DType::u8: return put<std::uint8_t>(data, index, value);
    case DType::i16: return put<std::int16_t>(data, index, value);
    case DType::u16: return put<std::uint16_t>(data, index, value);
    case DType::i32: return put<std::int32_t>(data, index, value);
    case DType::i4: return store_bits(data, index, 4, static_cast<unsigned>(static_cast<int>(std::clamp(std::nearbyint(value), -8.0, 7.0))));
    case DType::u4: return store_bits(data, index, 4, static_cast<unsigned>(std::clamp(std::nearbyint(value), 0.0, 15.0)));
    case DType::i2: return store_bits(data, index, 2, static_cast<unsigned>(static_cast<int>(std::clamp(std::nearbyint(value), -2.0, 1.0))));
    case DType::u2: return store_bits(data, index, 2, static_cast<unsigned>(std::clamp(std::nearbyint(value), 0.0, 3.0)));
    case DType::f4e2m1: return store_bits(data, index, 4, to_float4(value));
    default:
      FB_CHECK(quantized_dtype(dtype));
      reinterpret_cast<std::uint8_t*>(data)[index] = f32_to_f8(float8_of(dtype), static_cast<float>(value), saturate);
  }
}

std::optional<DType> dtype_of_onnx(std::int64_t number) {
  static constexpr DType kMap[] = {DType::none, DType::f32,  DType::u8,   DType::i8,      DType::u16,        DType::i16,    DType::i32,
                                   DType::i64,  DType::none, DType::boolean, DType::f16,  DType::f64,        DType::u32,    DType::u64,
                                   DType::none, DType::none, DType::bf16, DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz,
                                   DType::u4,   DType::i4,   DType::f4e2m1, DType::f8e8m0, DType::u2,         DType::i2};
  if (number < 0 || number >= static_cast<std::int64_t>(std::size(kMap)) || kMap[number] == DType::none) return std::nullopt;
  return kMap[number];
}

}  // namespace forebay::ops
