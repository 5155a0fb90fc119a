// Sums in a fixed order that the compiler can vectorise: sixteen lanes, then pairs. The same bits on every machine and for any thread count.
#pragma once

#include <cstdint>

namespace forebay::ops {

template <typename T, typename F>
inline T lane_sum(std::int64_t count, F&& value) {
  T lanes[16] = {};
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (std::int64_t j = 0; j < 16; ++j) lanes[j] += value(i + j);
  }
  for (std::int64_t j = 0; i < count; ++i, ++j) lanes[j] += value(i);
  for (int width = 8; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

}  // namespace forebay::ops
