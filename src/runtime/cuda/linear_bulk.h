// The seam between the maps that the tensor copy engine goes by (linear_maps.cc) and the kernels that have it fetch their tiles
// (linear_bulk.cu).
#pragma once

#include <cuda.h>

#include "runtime/cuda/linear_task.h"

namespace forebay::cuda {

struct BulkTask {
  const void* bias = nullptr;
  void* y = nullptr;
  int rows = 0, columns = 0, depth = 0;  // of the call
  int first = 0, all_columns = 0;        // where the call's columns begin in y
  int first_map = 0;                     // of W
  int slab_rows = 0, box_rows = 0;       // of W in a map, and of what one copy fetches
  int splits = 1;
  bool constant = false;
  Activation activation = Activation::none;
  float alpha = 0, beta = 0;
};
// As a LinearGroup: x, and each slab of each W, or those that lie behind each other as one.
struct BulkGroup {
  static constexpr int kMaps = 24;
  CUtensorMap x;
  CUtensorMap w[kMaps];
  BulkTask tasks[LinearGroup::kMost];
  int count = 0;
  int ends[LinearGroup::kMost] = {};  // tiles, set by the launch
};
static_assert(sizeof(BulkGroup) <= 4096);

// False where the engine cannot serve the group: parts of the depth, rows that are no multiple of 16 bytes, more slabs than maps.
bool map_linear(const LinearGroup& group, LinearTile tile, BulkGroup* bulk);
cudaError_t launch_linear_bulk(BulkGroup& group, DType type, bool turned, LinearTile tile, cudaStream_t stream);
// Its tiles of pairs, without splits.
cudaError_t launch_linear_pairs(BulkGroup& group, DType type, bool turned, LinearTile tile, int multiprocessors, cudaStream_t stream);

}  // namespace forebay::cuda
