// Products of one row by packed weights that share a launch: queries, keys and values; the halves of a gated layer.
#pragma once

#include "runtime/cuda/packed_launch.h"

namespace forebay::cuda {

// Of the same activations. With `normed`, the launch makes the norm they come from, too.
struct PackedGroup {
  static constexpr int kMost = 3;
  int count = 0;
  ProductTask tasks[kMost];
  PackedWeight weights[kMost];
  PackedSlabs slabs[kMost];
  bool normed = false;
  NormTask norm;
};
// Where bulk copies serve all of them; false: nothing was launched. task.constant_b: no kernel writes codes, scales or zero points.
bool launch_packed_stream(const PackedGroup& group, cudaStream_t stream, cudaError_t* error);

// Of its kernels: warps of a block, rows of a warp, columns of a stage.
inline constexpr int kPackedWarps = 16, kPackedRows = 2, kPackedColumns = 2048, kLeastPackedBlock = 16;

// What they are given: bytes from row to row, and of a stage.
struct PackedMember {
  ProductTask task;
  int end = 0;                             // pairs of rows up to its last one
  int slab = 0, slabs = 1, slab_rows = 1;  // its first place among the slabs
  int first_row = 0;                       // in the whole matrix, by which scales that are not cut are found
  int code_row = 0, scale_row = 0, zero_row = 0;
  bool scale_cut = false, zero_cut = false;
};
struct PackedStage {
  int codes = 0, scales = 0, zeros = 0;
};
struct PackedStream {
  static constexpr int kMostSlabs = PackedSlabs::kMost;
  PackedMember members[PackedGroup::kMost];
  int count = 0;
  const void *codes[kMostSlabs] = {}, *scales[kMostSlabs] = {}, *zeros[kMostSlabs] = {};
  DType code = DType::none, scale_type = DType::none, zero_type = DType::none;
  int bits = 8, shift = 0, stages = 0;  // of a code; of columns to their block; of the ring
  int scale_bits = 0, zero_bits = 0;    // of one; zero points that are absent have none
  PackedStage whole, last;              // of a row: each stage, and the last
  bool row_scales = false;              // one for each row
  bool pieces = false;                  // scales and zero points come in words of 4 bytes
  // Signed codes are counted from the least one: what turns a word of them, and one of 4 bits behind a leading one at bit 12 or 16.
  std::uint32_t flip = 0, low = 0x45000000u, high = 0x43000000u;
  float from = 0;  // what goes off them where zero points are no codes
  bool normed = false;
  NormTask norm;
};
// By what values are rounded to: A's type, or nothing. `there`: whether the kernel can run here.
cudaError_t launch_packed_rounded(PackedStream& work, cudaStream_t stream, bool* there);
cudaError_t launch_packed_unrounded(PackedStream& work, cudaStream_t stream, bool* there);

}  // namespace forebay::cuda
