// Loops over contiguous elements that the compiler vectorises, built once for each instruction set and chosen at run time.
// No operation is contracted or reordered, so every set gives the same bits.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace forebay::ops {

struct LoopParams {
  double alpha = 0, beta = 0, gamma = 0;
};
// b is null for unary loops. `out` may be a or b itself, but may not overlap them otherwise.
using LoopFn = void (*)(const void* a, const void* b, void* out, std::int64_t n, const LoopParams& params);
// v: n elements, s: one element for all.
struct BinaryLoops {
  LoopFn vv = nullptr, vs = nullptr, sv = nullptr;
};

enum class FloatUnary : std::uint8_t {
  neg, abs, sign, sqrt, reciprocal, exp, log, erf, floor, ceil, round, sin, cos, tan, asin, acos, atan, sinh, cosh, asinh, acosh, atanh,
  relu, leaky_relu, elu, selu, celu, thresholded_relu, hard_sigmoid, hard_swish, sigmoid, tanh, softplus, softsign, gelu_erf, gelu_tanh,
  mish, swish, shrink, clip, count
};
enum class FloatBinary : std::uint8_t { add, sub, mul, div, min, max, prelu, count };
inline constexpr int kFloatUnaryCount = static_cast<int>(FloatUnary::count);
inline constexpr int kFloatBinaryCount = static_cast<int>(FloatBinary::count);

struct VectorLoops {
  std::string_view isa;
  LoopFn unary_f32[kFloatUnaryCount], unary_f64[kFloatUnaryCount];
  BinaryLoops binary_f32[kFloatBinaryCount], binary_f64[kFloatBinaryCount];
  void (*f16_to_f32)(const std::uint16_t* in, float* out, std::int64_t n);
  void (*f32_to_f16)(const float* in, std::uint16_t* out, std::int64_t n);
  void (*bf16_to_f32)(const std::uint16_t* in, float* out, std::int64_t n);
  void (*f32_to_bf16)(const float* in, std::uint16_t* out, std::int64_t n);

  LoopFn unary(FloatUnary op, bool f64) const { return (f64 ? unary_f64 : unary_f32)[static_cast<int>(op)]; }
  const BinaryLoops& binary(FloatBinary op, bool f64) const { return (f64 ? binary_f64 : binary_f32)[static_cast<int>(op)]; }
};

// The widest that this processor runs.
const VectorLoops& vector_loops();
// All that this processor runs, narrowest first (tests compare them).
std::span<const VectorLoops* const> available_vector_loops();

}  // namespace forebay::ops
