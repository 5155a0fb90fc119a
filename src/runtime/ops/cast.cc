// Cast, CastLike, BitCast between all dtypes. Native types (f32, f64, integers, bool) convert straight into each other; narrow ones
// (f16, bf16, 8-bit floats, 4- and 2-bit types) are exact in float, and a wider source is brought to float by rounding to odd, so that
// the second rounding gives what a single one would.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/half.h"
#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"

namespace forebay::ops {
namespace {

struct Boolean {  // bool in memory: any byte but 0 is true
  std::uint8_t byte;
};

template <typename F>
bool dispatch_native(DType dtype, F&& f) {
  if (dtype == DType::boolean) return f(Tag<Boolean>{}), true;
  return dispatch_number(dtype, f);
}

bool is_native(DType dtype) {
  return dtype == DType::boolean || dtype == DType::f32 || dtype == DType::f64 || in_set(kIntegers, dtype);
}

// Truncates. Out of range (the specification leaves it open): what x86 gives, that is the lowest value for 32 and 64 bits, and the
// low bits of the 32-bit result for narrower integers. NaN likewise.
template <typename I, typename F>
I truncate(F x) {
  if constexpr (std::is_same_v<I, std::int64_t>) {
    return x >= F(-0x1p63) && x < F(0x1p63) ? static_cast<std::int64_t>(x) : INT64_MIN;
  } else if constexpr (std::is_same_v<I, std::uint64_t>) {
    if (x >= F(0x1p63)) return x < F(0x1p64) ? static_cast<std::uint64_t>(x) : UINT64_MAX;
    return static_cast<std::uint64_t>(truncate<std::int64_t>(x));
  } else if constexpr (std::is_same_v<I, std::uint32_t>) {
    return static_cast<std::uint32_t>(truncate<std::int64_t>(x));
  } else if constexpr (std::is_same_v<I, std::int32_t>) {
    // The float just below 2^31 is the last in range; for double the bound is exact either way.
    return x > F(-2147483649.0) && x >= F(-2147483648.0) && x < F(2147483648.0) ? static_cast<std::int32_t>(x) : INT32_MIN;
  } else {
    return static_cast<I>(truncate<std::int32_t>(x));
  }
}

template <typename To, typename From>
To convert(From value) {
  if constexpr (std::is_same_v<From, Boolean>) {
    if constexpr (std::is_same_v<To, Boolean>) {
      return {static_cast<std::uint8_t>(value.byte != 0)};
    } else {
      return static_cast<To>(value.byte != 0 ? 1 : 0);
    }
  } else if constexpr (std::is_same_v<To, Boolean>) {
    return {static_cast<std::uint8_t>(value != From{0})};
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    return truncate<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

template <typename From, typename To>
void convert_loop(const void* from, void* to, std::int64_t n) {
  const From* x = static_cast<const From*>(from);
  To* y = static_cast<To*>(to);
  for (std::int64_t i = 0; i < n; ++i) y[i] = convert<To>(x[i]);
}

using ConvertFn = void (*)(const void* from, void* to, std::int64_t n);
ConvertFn native_converter(DType from, DType to) {
  ConvertFn found = nullptr;
  dispatch_native(from, [&](auto from_tag) {
    dispatch_native(to, [&](auto to_tag) {
      found = convert_loop<typename decltype(from_tag)::type, typename decltype(to_tag)::type>;
    });
  });
  return found;
}

// To float, rounded to odd: a later rounding to fewer bits is then as if from the value itself.
template <typename T>
float odd_float(T value) {
  if constexpr (std::is_same_v<T, double>) {
    const float nearest = static_cast<float>(value);
    if (static_cast<double>(nearest) == value || std::isnan(value) || std::isinf(value)) return nearest;
    std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
    if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;  // toward zero
    return std::bit_cast<float>(bits | 1u);
  } else if constexpr (std::is_same_v<T, Boolean>) {
    return value.byte != 0 ? 1.0f : 0.0f;
  } else if constexpr (std::is_integral_v<T> && sizeof(T) >= 4) {
    bool negative = false;
    if constexpr (std::is_signed_v<T>) negative = value < 0;
    std::uint64_t magnitude = static_cast<std::uint64_t>(value);
    if (negative) magnitude = 0 - static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
    const int surplus = std::max(0, 40 - std::countl_zero(magnitude));  // bits beyond 24
    const std::uint64_t kept = magnitude >> surplus;
    const bool sticky = (kept << surplus) != magnitude;
    const float result = std::ldexp(static_cast<float>(kept | (sticky ? 1u : 0u)), surplus);
    return negative ? -result : result;
  } else {
    return static_cast<float>(value);
  }
}
template <typename T>
void odd_float_loop(const void* from, void* to, std::int64_t n) {
  const T* x = static_cast<const T*>(from);
  float* y = static_cast<float*>(to);
  for (std::int64_t i = 0; i < n; ++i) y[i] = odd_float(x[i]);
}
ConvertFn odd_converter(DType from) {
  ConvertFn found = nullptr;
  dispatch_native(from, [&](auto tag) { found = odd_float_loop<typename decltype(tag)::type>; });
  return found;
}

constexpr float kF4Values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
std::uint8_t to_f4(float value) {
  if (std::isnan(value)) return 8;  // there is no NaN here: minus zero stands for it, as in the backend tests
  const std::uint8_t sign = std::signbit(value) ? 8 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude >= 6.0f) return sign | 7;
  std::uint8_t code = 0;
  while (code < 7 && magnitude >= (kF4Values[code] + kF4Values[code + 1]) / 2) {
    const bool tie = magnitude == (kF4Values[code] + kF4Values[code + 1]) / 2;
    if (tie && (code & 1) == 0) break;  // half to even
    ++code;
  }
  return sign | code;
}

enum class ScaleRounding : std::uint8_t { up, down, nearest };
std::uint8_t to_e8m0(float value, bool saturate, ScaleRounding rounding) {
  if (std::isnan(value) || value < 0.0f) return 0xff;
  if (std::isinf(value)) return saturate ? 0xfe : 0xff;
  if (value == 0.0f) return saturate ? 0x00 : 0xff;
  int exponent = 0;
  const float mantissa = 2.0f * std::frexp(value, &exponent);  // [1, 2)
  --exponent;
  if (rounding == ScaleRounding::up && mantissa > 1.0f) ++exponent;
  if (rounding == ScaleRounding::nearest && mantissa >= 1.5f) ++exponent;
  if (exponent < -127) return saturate ? 0x00 : 0xff;
  if (exponent > 127) return saturate ? 0xfe : 0xff;
  return static_cast<std::uint8_t>(exponent + 127);
}

// Code `i` of a packed row of sub-byte elements.
std::uint8_t unpack(const std::byte* in, std::int64_t i, int bits) {
  const std::int64_t per_byte = 8 / bits;
  return static_cast<std::uint8_t>((std::to_integer<unsigned>(in[i / per_byte]) >> ((i % per_byte) * bits)) & ((1u << bits) - 1));
}
void pack(std::byte* out, std::int64_t i, int bits, std::uint8_t code) {
  const std::int64_t per_byte = 8 / bits;
  const auto shift = static_cast<int>((i % per_byte) * bits);
  const unsigned mask = ((1u << bits) - 1) << shift;
  out[i / per_byte] = static_cast<std::byte>((std::to_integer<unsigned>(out[i / per_byte]) & ~mask) | ((unsigned{code} << shift) & mask));
}

void narrow_to_float(DType from, const std::byte* in, float* out, std::int64_t n) {
  if (is_half(from)) {
    load_half(from, in, out, n);
    return;
  }
  const int bits = dtype_bits(from);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint8_t code = bits == 8 ? std::to_integer<std::uint8_t>(in[i]) : unpack(in, i, bits);
    switch (from) {
      case DType::i4: out[i] = static_cast<float>(code >= 8 ? code - 16 : code); break;
      case DType::i2: out[i] = static_cast<float>(code >= 2 ? code - 4 : code); break;
      case DType::u4:
      case DType::u2: out[i] = static_cast<float>(code); break;
      case DType::f4e2m1: out[i] = (code & 8) != 0 ? -kF4Values[code & 7] : kF4Values[code & 7]; break;
      case DType::f8e8m0: out[i] = code == 0xff ? NAN : std::ldexp(1.0f, int{code} - 127); break;
      default: out[i] = f8_to_f32(float8_of(from), code); break;
    }
  }
}

struct NarrowRules {
  bool saturate = true;
  ScaleRounding rounding = ScaleRounding::up;
};

void float_to_narrow(DType to, const float* in, std::byte* out, std::int64_t n, const NarrowRules& rules) {
  if (is_half(to)) {
    store_half(to, in, out, n);
    return;
  }
  const int bits = dtype_bits(to);
  for (std::int64_t i = 0; i < n; ++i) {
    switch (to) {
      case DType::i4:
      case DType::u4:
      case DType::i2:
      case DType::u2: pack(out, i, bits, static_cast<std::uint8_t>(truncate<std::int32_t>(in[i]))); break;
      case DType::f4e2m1: pack(out, i, bits, to_f4(in[i])); break;
      case DType::f8e8m0: out[i] = std::byte{to_e8m0(in[i], rules.saturate, rules.rounding)}; break;
      default: out[i] = std::byte{f32_to_f8(float8_of(to), in[i], rules.saturate)}; break;
    }
  }
}

class CastKernel final : public NamedKernel {
 public:
  CastKernel(DType from, DType to, const NarrowRules& rules)
      : NamedKernel("cpu.Cast." + std::string(dtype_name(from)) + "." + std::string(dtype_name(to))), from_(from), to_(to), rules_(rules) {
    if (is_native(from_) && is_native(to_)) {
      native_ = native_converter(from_, to_);
    } else if (is_native(from_)) {
      // Integers become 4- and 2-bit ones by their low bits, not by way of float.
      through_integer_ = in_set(kIntegers, from_) && dtype_bits(to_) < 8 && to_ != DType::f4e2m1;
      native_ = through_integer_ ? native_converter(from_, DType::i8) : odd_converter(from_);
    } else if (is_native(to_)) {
      native_ = native_converter(DType::f32, to_);
    }
  }

  Status run(const KernelCall& call) override {
    const std::int64_t count = call.inputs[0].shape.elements();
    const std::int64_t blocks = (count + kBlock - 1) / kBlock;  // blocks keep packed elements of one byte in one thread
    call.pool->parallel_for(blocks, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const std::int64_t at = block * kBlock;
        convert_block(call.inputs[0].data + at * dtype_bits(from_) / 8, call.outputs[0].data + at * dtype_bits(to_) / 8,
                      std::min(kBlock, count - at));
      }
    });
    return {};
  }

 private:
  void convert_block(const std::byte* in, std::byte* out, std::int64_t n) const {
    alignas(64) float block[kBlock];
    if (from_ == to_) {
      std::memmove(out, in, static_cast<std::size_t>((n * dtype_bits(to_) + 7) / 8));
    } else if (is_native(from_) && is_native(to_)) {
      native_(in, out, n);
    } else if (through_integer_) {
      auto* low = reinterpret_cast<std::uint8_t*>(block);
      native_(in, low, n);
      for (std::int64_t i = 0; i < n; ++i) pack(out, i, dtype_bits(to_), low[i]);
    } else if (is_native(from_)) {
      if (from_ == DType::f32) {
        float_to_narrow(to_, reinterpret_cast<const float*>(in), out, n, rules_);
        return;
      }
      native_(in, block, n);
      float_to_narrow(to_, block, out, n, rules_);
    } else if (to_ == DType::f32) {
      narrow_to_float(from_, in, reinterpret_cast<float*>(out), n);
    } else {
      narrow_to_float(from_, in, block, n);
      if (is_native(to_)) {
        native_(block, out, n);
      } else {
        float_to_narrow(to_, block, out, n, rules_);
      }
    }
  }

  DType from_, to_;
  NarrowRules rules_;
  ConvertFn native_ = nullptr;
  bool through_integer_ = false;
};

Status infer_cast(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kAny));
  const DType to = onnx_dtype(ctx.node().integer("to", 0));
  if (to == DType::none)
    return ctx.node().unsupported("'to' is not a dtype served here (" + std::to_string(ctx.node().integer("to", 0)) + ")");
  set_like(ctx, 0, 0, to);
  return {};
}
Status infer_cast_like(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_TRY(need_input(ctx, 1, kAny));
  set_like(ctx, 0, 0, ctx.input(1).dtype);
  return {};
}
Status infer_bit_cast(InferContext& ctx) {
  FB_TRY(infer_cast(ctx));
  const DType to = onnx_dtype(ctx.node().integer("to", 0));
  if (dtype_bits(to) != dtype_bits(ctx.input(0).dtype)) return ctx.node().invalid("the dtypes differ in size");
  return {};
}

Result<std::unique_ptr<Kernel>> create_cast(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  NarrowRules rules;
  rules.saturate = node.integer("saturate", 1) != 0;
  const std::string_view mode = node.text("round_mode", "up");
  if (mode != "up" && mode != "down" && mode != "nearest") return node.invalid("round_mode is none of up, down, nearest");
  rules.rounding = mode == "up" ? ScaleRounding::up : mode == "down" ? ScaleRounding::down : ScaleRounding::nearest;
  return std::unique_ptr<Kernel>(std::make_unique<CastKernel>(inputs[0].dtype, outputs[0].dtype, rules));
}

class BitCastKernel final : public NamedKernel {
 public:
  BitCastKernel() : NamedKernel("cpu.BitCast") {}
  Status run(const KernelCall& call) override {
    const auto bytes = dtype_bytes(call.inputs[0].dtype, call.inputs[0].shape.elements());
    if (bytes.value_or(0) > 0) std::memmove(call.outputs[0].data, call.inputs[0].data, *bytes);
    return {};
  }
};
Result<std::unique_ptr<Kernel>> create_bit_cast(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<BitCastKernel>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "Cast", .since = 6, .flags = kOpElementwise, .infer = infer_cast, .create = create_cast},
    {.name = "CastLike", .since = 15, .flags = kOpElementwise, .infer = infer_cast_like, .create = create_cast},
    {.name = "BitCast", .since = 26, .infer = infer_bit_cast, .create = create_bit_cast},
};

}  // namespace

std::span<const OpSpec> cast_ops() { return kSpecs; }

}  // namespace forebay::ops
