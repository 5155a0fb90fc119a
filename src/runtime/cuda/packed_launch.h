// The seam between the kernels of packed weights and what prepares them. A packed weight is a matrix of codes with scales and zero points,
// as runtime/cpu/quant_rows.h has it: value = round((code - zero point) * scale), in f32 and rounded to the graph's dtype.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

struct PackedScales {
  DType type = DType::none;       // none: absent; zero points may be codes
  std::int64_t row = 0, col = 0;  // steps from block to block, in elements
  bool cut = false;               // each slab has its own, else they lie whole beside the slabs
};
struct PackedWeight {
  DType code = DType::none, value = DType::f32;
  std::int64_t stride = 0;     // elements from row to row
  std::int64_t first_row = 0;  // of the first slab of a launch in the whole matrix
  std::int64_t row_block = 1, col_block = 1;
  PackedScales scale, zero;
  float zero_default = 0;
};
// Slabs of one launch, all but the last of `rows`.
struct PackedSlabs {
  static constexpr int kMost = 64;
  const void *codes[kMost] = {}, *scales[kMost] = {}, *zeros[kMost] = {};
  std::int64_t rows = 1;
};

// [n,k], at most 8 rows of A: the order of additions of runtime/cpu/gemv.h on the values, the same bits.
cudaError_t launch_packed_row_dot(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream);
// [k,n], at most 8 rows of A, one slab: one FMA chain an output in the order of k, carried over in sums. The same bits as the CPU's.
cudaError_t launch_packed_axpy(const ProductTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream);
// The values of one slab's rows, without gaps. With `rows_of`, row i of y is row rows_of[i] of the slab (`each` rows an index).
struct UnpackTask {
  std::int64_t rows = 0, columns = 0;
  void* y = nullptr;
  DType y_type = DType::f32;
  const void* indices = nullptr;  // of 8 bytes when wide, else 4; null: row i is row i
  bool wide = true;
  std::int64_t each = 1, table = 0;  // rows an index stands for; indices below 0 count from the end of the table
};
cudaError_t launch_unpack(const UnpackTask& task, const PackedWeight& weight, const PackedSlabs& slabs, cudaStream_t stream);

}  // namespace forebay::cuda
