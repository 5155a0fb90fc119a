// Pooling of one plane (one image, one channel) in up to three axes.
#pragma once

#include "runtime/ops/window.h"

namespace forebay::ops {

enum class PoolKind : std::uint8_t { max, average, lp };

struct PoolTask {
  Window window;
  PoolKind kind = PoolKind::max;
  bool count_pads = false;     // average: padding counts as values
  bool column_major = false;   // indices number the plane by columns
  double p = 2;                // lp
};
struct PoolPlane {
  DType dtype = DType::f32;  // f32, f64; i8 and u8 for max
  const std::byte* in = nullptr;
  std::byte* out = nullptr;
  std::int64_t* indices = nullptr;  // of the maximum, or null
  std::int64_t index_base = 0;      // of this plane's first element
};
void pool_plane(const PoolTask& task, const PoolPlane& plane);

}  // namespace forebay::ops
