// Checked 64-bit arithmetic for sizes and offsets that come from outside.
#pragma once

#include <cstdint>
#include <optional>

namespace forebay {

inline std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t r = 0;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}
inline std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) {
  std::uint64_t r = 0;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}
// Whether [offset, offset + bytes) lies within [0, size).
inline bool range_within(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) {
  return offset <= size && bytes <= size - offset;
}
// `align` is a power of two. Wraps for values within `align` of 2^64: check untrusted sizes first.
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t align) {
  return (value + align - 1) & ~(align - 1);
}
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t align) {
  return value & ~(align - 1);
}
// The unit of direct reads: every chunk in a shard or plan starts at a multiple of it, and every arena slot too.
inline constexpr std::uint64_t kBlockBytes = 4096;

}  // namespace forebay
