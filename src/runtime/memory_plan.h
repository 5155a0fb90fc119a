// Offsets for values by their lifetimes: pure. Greedy by size, best fit among the gaps left by values that live at the same time.
#pragma once

#include <cstdint>
#include <span>

namespace forebay {

struct Lifetime {
  std::uint32_t first = 0, last = 0;  // steps, inclusive
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;  // result, a multiple of 64
};

// Sets every offset; returns the bytes needed in all.
std::uint64_t plan_memory(std::span<Lifetime> values);

}  // namespace forebay
