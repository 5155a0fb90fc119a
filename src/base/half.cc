#include "base/half.h"

#include <algorithm>
#include <limits>

namespace forebay {
namespace {

struct Layout {
  int mantissa_bits, bias;
  std::uint8_t max_finite;  // code of the largest finite value, sign off
  bool has_infinity;
  bool fnuz;                // one NaN (0x80), no negative zero
};

Layout layout_of(Float8 format) {
  switch (format) {
    case Float8::e4m3fn: return {3, 7, 0x7e, false, false};
    case Float8::e4m3fnuz: return {3, 8, 0x7f, false, true};
    case Float8::e5m2: return {2, 15, 0x7b, true, false};
    case Float8::e5m2fnuz: return {2, 16, 0x7f, false, true};
  }
  return {};
}

float magnitude_of(const Layout& layout, std::uint8_t code) {
  const int exponent = code >> layout.mantissa_bits;
  const int mantissa = code & ((1 << layout.mantissa_bits) - 1);
  if (exponent == 0) return std::ldexp(static_cast<float>(mantissa), 1 - layout.bias - layout.mantissa_bits);
  return std::ldexp(static_cast<float>((1 << layout.mantissa_bits) + mantissa), exponent - layout.bias - layout.mantissa_bits);
}

}  // namespace

Float8 float8_of(DType dtype) {
  switch (dtype) {
    case DType::f8e4m3fn: return Float8::e4m3fn;
    case DType::f8e4m3fnuz: return Float8::e4m3fnuz;
    case DType::f8e5m2: return Float8::e5m2;
    default: return Float8::e5m2fnuz;
  }
}

float f8_to_f32(Float8 format, std::uint8_t bits) {
  const Layout layout = layout_of(format);
  const std::uint8_t code = bits & 0x7fu;
  const bool negative = (bits & 0x80u) != 0;
  if (layout.fnuz && bits == 0x80u) return std::numeric_limits<float>::quiet_NaN();
  if (code > layout.max_finite) {
    if (layout.has_infinity && code == 0x7c) return negative ? -HUGE_VALF : HUGE_VALF;
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float magnitude = magnitude_of(layout, code);
  return negative ? -magnitude : magnitude;
}

std::uint8_t f32_to_f8(Float8 format, float value, bool saturate) {
  const Layout layout = layout_of(format);
  const std::uint8_t sign = std::signbit(value) ? 0x80u : 0u;
  const std::uint8_t nan = layout.fnuz ? std::uint8_t{0x80} : static_cast<std::uint8_t>(sign | (layout.has_infinity ? 0x7eu : 0x7fu));
  if (std::isnan(value)) return nan;
  const std::uint8_t overflow = saturate              ? static_cast<std::uint8_t>(sign | layout.max_finite)
                                : layout.has_infinity ? static_cast<std::uint8_t>(sign | 0x7cu)
                                                      : nan;
  if (std::isinf(value)) return overflow;
  const float magnitude = std::fabs(value);
  int exponent = 1 - layout.bias;  // zero and subnormal results share the smallest exponent
  if (magnitude != 0.0f) exponent = std::max(exponent, std::ilogb(magnitude));
  // In units of the last place; exact, and at most 2^(mantissa_bits + 1). nearbyint rounds half to even.
  const float units = std::nearbyint(std::ldexp(magnitude, layout.mantissa_bits - exponent));
  // Codes are consecutive over binades, so a carry out of the mantissa needs no care.
  const long code = ((static_cast<long>(exponent + layout.bias) - 1) << layout.mantissa_bits) + static_cast<long>(units);
  if (code > layout.max_finite) return overflow;
  if (code == 0 && layout.fnuz) return 0;
  return static_cast<std::uint8_t>(sign | static_cast<std::uint8_t>(code));
}

}  // namespace forebay
