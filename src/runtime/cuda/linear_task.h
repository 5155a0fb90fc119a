// activation(x * W' + bias) on tensor cores, W in slabs of rows: [columns, depth], or turned, [depth, columns].
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

struct LinearTask {
  DType type = DType::f16;  // f16 or bf16, of everything
  const void *x = nullptr, *bias = nullptr;
  SlabTable w;
  void* y = nullptr;
  bool turned = false, first_part = true, last_part = true;  // turned: a call may hold a part of the depth; sums carry from call to call
  float* sums = nullptr;                 // [split, row, column of the call] where there are several splits and no clusters
  int rows = 0, columns = 0, depth = 0;  // columns: of the call; depth is a multiple of 8
  int first = 0, all_columns = 0;        // where the call's columns begin in y
  int begin = 0, all_depth = 0;          // turned: where the call's depth begins
  int x_row = 0;                         // elements from row to row of x
  int splits = 1;                        // a power of two, at most 8; 1 where a block makes 128 x 128
  bool constant = false;                 // W is a weight: no kernel writes it
  bool clusters = false;                 // the blocks of a sum's splits are a cluster, sm_90 and up
  Activation activation = Activation::none;
  float alpha = 0, beta = 0;
};
inline constexpr int kLinearDepth = 32;  // of a step of the sum
// 128 x 128 outputs a block, else 64 x 64: the same bits.
cudaError_t launch_linear_mma(const LinearTask& task, bool large, cudaStream_t stream);

// On GPUs of compute capability 9.0, by what a block makes at once: rows x columns. sums: as above, and where a turned call is not all of
// the depth. The bits depend on splits alone.
enum class LinearTile : int {
  t64x64,
  t128x128,
  t128x192,
  t192x192,
  t128x256,
  p96x64,  // pairs of blocks, linear_pairs.cu
  p144x64,
  p144x256,
  p192x128
};
struct LinearShape {
  int rows, columns;
  int at_once;  // blocks of a multiprocessor
  bool bulk;    // the tensor copy engine fetches where it can
  bool pair = false;
};
constexpr LinearShape linear_shape(LinearTile tile) {
  constexpr LinearShape kShapes[] = {{64, 64, 2, false},       {128, 128, 1, true},       {128, 192, 1, true},
                                     {192, 192, 1, true},      {128, 256, 1, true},       {96, 64, 1, true, true},
                                     {144, 64, 1, true, true}, {144, 256, 1, true, true}, {192, 128, 1, true, true}};
  return kShapes[static_cast<int>(tile)];
}
// Products of the same x, or of one: types, rows, depth, orientation and splits are the same; none is empty.
struct LinearGroup {
  static constexpr int kMost = 3;
  LinearTask tasks[kMost];
  int count = 0;
  int ends[kMost] = {};  // blocks, set by the launch
};
// Threads copy, where the engine cannot: slower, the same bits.
cudaError_t launch_linear_hopper(LinearGroup& group, LinearTile tile, cudaStream_t stream);
bool has_linear_hopper(int capability);

}  // namespace forebay::cuda
