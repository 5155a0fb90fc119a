// Long sums of few outputs: several blocks share a sum.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

// A full turn of a large device. Fixed: what depends on the device would give other bits on another.
inline constexpr std::int64_t kFullBlocks = 128;

// Of a sum of `steps` where there would be `blocks` blocks without: a power of two, four steps or more each.
inline int split_count(std::int64_t blocks, std::int64_t steps) {
  int splits = 1;
  while (splits < 8 && blocks * splits < kFullBlocks && steps / (splits * 2) >= 4) splits *= 2;
  return splits;
}

// Clusters of blocks, which read each other's shared memory. By compute capability, ten times.
inline bool has_clusters(int capability) { return capability >= 90; }

}  // namespace forebay::cuda
