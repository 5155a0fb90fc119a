// Element by element: the functions that few models use; and copies whose places come from a table an axis (Pad, Tile, Resize).
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

enum class MapOp : int {
  sign,
  round,
  tan,
  asin,
  acos,
  atan,
  sinh,
  cosh,
  asinh,
  acosh,
  atanh,
  elu,
  selu,
  celu,
  thresholded_relu,
  softplus,
  softsign,
  shrink,
  clip,
  is_nan,
  is_inf
};
struct MapTask {
  MapOp op = MapOp::sign;
  DType type = DType::f32;
  std::int64_t count = 0;
  float alpha = 0, beta = 0;
  const void *a = nullptr, *low = nullptr, *high = nullptr;  // low and high: one value each, of clip; null: alpha, beta
  void* y = nullptr;                                         // booleans of is_nan and is_inf
};
cudaError_t launch_map(const MapTask& task, cudaStream_t stream);
cudaError_t launch_not(std::int64_t count, void* y, const void* a, cudaStream_t stream);

// Output index i of axis d reads `width[d]` places: tables[first[d] + i * width[d]...], -1 the fill. With weights the terms are added up
// in f32, axis by axis from the outermost; without, width is 1.
struct TableTask {
  DType type = DType::f32;  // with weights
  int rank = 0, element_bytes = 4;
  std::int64_t total = 1;
  int out[kMaxRank] = {}, width[kMaxRank] = {}, first[kMaxRank] = {};
  std::int64_t strides[kMaxRank] = {};  // of a
  const int* tables = nullptr;
  const float* weights = nullptr;            // as tables; null: copies
  const void *a = nullptr, *fill = nullptr;  // fill null: zero
  float fill_value = 0;                      // with weights
  void* y = nullptr;
};
cudaError_t launch_table_copy(const TableTask& task, cudaStream_t stream);
cudaError_t launch_table_mix(const TableTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
