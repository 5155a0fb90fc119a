// From a DType to the type of a kernel's numbers.
#pragma once

#include <utility>

#include "runtime/cuda/cuda_numbers.cuh"

namespace forebay::cuda {

template <typename T>
inline constexpr DType kTypeOf = DType::none;
template <>
inline constexpr DType kTypeOf<float> = DType::f32;
template <>
inline constexpr DType kTypeOf<__half> = DType::f16;
template <>
inline constexpr DType kTypeOf<__nv_bfloat16> = DType::bf16;
template <>
inline constexpr DType kTypeOf<std::int32_t> = DType::i32;
template <>
inline constexpr DType kTypeOf<std::int64_t> = DType::i64;
template <>
inline constexpr DType kTypeOf<std::int8_t> = DType::i8;
template <>
inline constexpr DType kTypeOf<std::uint8_t> = DType::u8;
template <>
inline constexpr DType kTypeOf<std::uint16_t> = DType::u16;
template <>
inline constexpr DType kTypeOf<std::uint32_t> = DType::u32;
template <>
inline constexpr DType kTypeOf<std::uint64_t> = DType::u64;
template <>
inline constexpr DType kTypeOf<bool> = DType::boolean;

// start(T()) for the one of Ts that `type` names: the error that it returns, else that of what it launched. cudaErrorInvalidValue for other
// types.
template <typename... Ts, typename F>
cudaError_t by_types(DType type, F&& start) {
  cudaError_t error = cudaErrorInvalidValue;
  const auto take = [&](auto t) {
    if constexpr (std::is_void_v<decltype(start(t))>) {
      start(t);
      error = cudaGetLastError();
    } else {
      error = start(t);
    }
    return true;
  };
  static_cast<void>(((type == kTypeOf<Ts> && take(Ts())) || ...));
  return error;
}
inline bool is_float(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16;
}
template <typename F>
cudaError_t by_float(DType type, F&& start) {
  return by_types<float, __half, __nv_bfloat16>(type, std::forward<F>(start));
}
// start(T()) for the unsigned integer of so many bytes.
template <typename F>
cudaError_t by_bytes(int bytes, F&& start) {
  const DType type = bytes == 1 ? DType::u8 : bytes == 2 ? DType::u16 : bytes == 4 ? DType::u32 : bytes == 8 ? DType::u64 : DType::none;
  return by_types<std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t>(type, std::forward<F>(start));
}

}  // namespace forebay::cuda
