// From a dtype at run time to a C++ type at compile time, so that a kernel is written once over types.
#pragma once

#include <cstdint>
#include <type_traits>

#include "forebay/types.h"

namespace forebay::ops {

template <typename T>
struct Tag {
  using type = T;
};

// Calls f(Tag<T>{}) for the C++ type of `dtype`; false (and no call) when the dtype is not in the list. f16 and bf16 have no arithmetic
// of their own: their kernels convert blocks to float.
template <typename F>
bool dispatch_integer(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i8: f(Tag<std::int8_t>{}); return true;
    case DType::i16: f(Tag<std::int16_t>{}); return true;
    case DType::i32: f(Tag<std::int32_t>{}); return true;
    case DType::i64: f(Tag<std::int64_t>{}); return true;
    case DType::u8: f(Tag<std::uint8_t>{}); return true;
    case DType::u16: f(Tag<std::uint16_t>{}); return true;
    case DType::u32: f(Tag<std::uint32_t>{}); return true;
    case DType::u64: f(Tag<std::uint64_t>{}); return true;
    default: return false;
  }
}
template <typename F>
bool dispatch_number(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(Tag<float>{}), true;
  if (dtype == DType::f64) return f(Tag<double>{}), true;
  return dispatch_integer(dtype, f);
}
// By element size alone, for kernels that only move data: 1, 2, 4, 8.
template <typename F>
bool dispatch_bytes(int bytes, F&& f) {
  switch (bytes) {
    case 1: f(Tag<std::uint8_t>{}); return true;
    case 2: f(Tag<std::uint16_t>{}); return true;
    case 4: f(Tag<std::uint32_t>{}); return true;
    case 8: f(Tag<std::uint64_t>{}); return true;
    default: return false;
  }
}

// Unsigned type in which integer arithmetic wraps without undefined behaviour (and without promotion to int).
template <typename T>
using Wrapping = std::conditional_t<(sizeof(T) <= 4), std::uint32_t, std::uint64_t>;

inline int element_bytes(DType dtype) { return dtype_bits(dtype) / 8; }  // 0 for sub-byte types
inline bool is_half(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

}  // namespace forebay::ops
