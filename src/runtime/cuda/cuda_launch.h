// The seam between kernels (.cu) and what prepares them (.cc): plain structs, one launch function a
// family. Every launch is given its stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "forebay/types.h"

namespace forebay::cuda {

// Element i of the walk lies at sum(index_d * stride_d) of each operand. Dims are merged where
// strides allow.
struct Walk {
  int rank = 0;
  std::int64_t total = 1;
  std::int64_t dims[kMaxRank] = {};
  std::int64_t strides[4][kMaxRank] = {};  // elements; the output's first
};

// Of forebay.Linear; alpha and beta as runtime/ops has them.
enum class Activation : int { none, relu, leaky_relu, clip, sigmoid, tanh, hard_sigmoid, hard_swish, swish, mish, gelu, gelu_tanh };

enum class BinaryOp : int {
  add,
  sub,
  mul,
  div,
  pow,
  min,
  max,
  equal,
  less,
  less_equal,
  greater,
  greater_equal,
  logical_and,
  logical_or
};
enum class UnaryOp : int {
  sqrt,
  reciprocal,
  sigmoid,
  cos,
  sin,
  exp,
  log,
  tanh,
  neg,
  abs,
  relu,
  erf,
  floor,
  ceil
};

// Operand 0 is y. Comparisons and logic give booleans. f32, f16, bf16, i32, i64 (arithmetic),
// boolean (logic).
cudaError_t launch_binary(BinaryOp op, DType type, const Walk& walk, void* y, const void* a,
                          const void* b, cudaStream_t stream);
// Large operands that lie alike, 16 bytes at a time; false where there is no such kernel.
bool launch_long_binary(BinaryOp op, DType type, const Walk& walk, void* y, const void* a, const void* b, cudaStream_t stream,
                        cudaError_t* error);
cudaError_t launch_unary(UnaryOp op, DType type, std::int64_t count, void* y, const void* a,
                         cudaStream_t stream);
cudaError_t launch_cast(DType from, DType to, std::int64_t count, void* y, const void* a,
                        cudaStream_t stream);
cudaError_t launch_where(int element_bytes, const Walk& walk, void* y, const void* condition,
                         const void* a, const void* b, cudaStream_t stream);
bool castable(DType from, DType to);

// y[walk] = a[walk], elements of 1, 2, 4, 8 or 16 bytes.
cudaError_t launch_copy(int element_bytes, const Walk& walk, void* y, const void* a,
                        cudaStream_t stream);
// Several at once, none empty.
struct CopyTask {
  static constexpr int kMost = 4;
  struct Part {
    Walk walk;
    void* to = nullptr;
    const void* from = nullptr;
  };
  int count = 0;
  Part parts[kMost];
};
cudaError_t launch_copies(int element_bytes, const CopyTask& task, cudaStream_t stream);
cudaError_t launch_activation(Activation activation, float alpha, float beta, DType type, std::int64_t count, void* y, const void* a, cudaStream_t stream);

// y = (x - mean) / sqrt(variance + epsilon) * scale + shift over rows; without `centred` the mean is 0. With skip, x + skip (+ bias) takes the
// place of x and is given as `sum` when that is wanted. All of one type but for y, which has the scale's.
struct NormTask {
  DType type = DType::f32, scale_type = DType::f32;
  const void *x = nullptr, *skip = nullptr, *bias = nullptr, *scale = nullptr, *shift = nullptr;
  void *y = nullptr, *sum = nullptr;
  std::int64_t rows = 0, length = 0, skip_count = 0;
  float epsilon = 0;
  bool centred = false;
  bool constant_scale = false;  // a weight: no kernel writes it
};
cudaError_t launch_norm(const NormTask& task, cudaStream_t stream);
// forebay.RotateHalf. The walk is over the rows and the half width; operands: y, cos, sin.
struct RotateTask {
  Walk walk;
  std::int64_t half = 0, cos_step = 0, sin_step = 0;  // steps to the tables' second halves; 0: they serve both
};
// As launch_long_binary.
bool launch_long_rotate(DType type, DType table_type, const RotateTask& task, void* y, const void* x, const void* cos, const void* sin,
                        cudaStream_t stream, cudaError_t* error);

// Over rows of `length`; f32 sums in a fixed order.
cudaError_t launch_softmax(DType type, std::int64_t rows, std::int64_t length, void* y,
                           const void* a, cudaStream_t stream);

// Y[batch, m, n] = A * B in f32, then alpha, beta * C and y's dtype when `finish` is set; else f32
// sums are left in `sums`.
struct ProductTask {
  DType a_type = DType::f32, b_type = DType::f32, y_type = DType::f32, c_type = DType::none;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* c = nullptr;
  void* y = nullptr;
  float* sums = nullptr;  // f32, the layout of y; null: nothing is carried over from call to call
  std::int64_t m = 0, n = 0, k = 0;  // of this call
  std::int64_t a_row = 0, a_col = 1, b_row = 0, b_col = 1;
  std::int64_t y_row = 0;  // elements from row to row of y, and of sums but for launch_finish
  std::int64_t sums_row = 0;
  std::int64_t c_row = 0, c_col = 0;
  std::int64_t batches = 1, a_batch = 0, b_batch = 0, y_batch = 0;
  float alpha = 1, beta = 0;
  Activation activation = Activation::none;  // of the finished value, in f32
  float activation_alpha = 0, activation_beta = 0;
  bool first = true, last = true;  // of the sums
  bool constant_b = false;         // a weight: no kernel writes it
};
// At most 8 rows, B as [n, k] rows without gaps: the order of additions of runtime/cpu/gemv.h, the
// same bits.
cudaError_t launch_row_dot(const ProductTask& task, cudaStream_t stream);
// The same for rows that lie in several slabs, all but the last of `rows`: a row's sum does not depend on what else a launch holds.
struct SlabTable {
  static constexpr int kMost = 64;
  const void* slabs[kMost] = {};
  std::int64_t rows = 1;
};
cudaError_t launch_row_dot_slabs(const ProductTask& task, const SlabTable& table, cudaStream_t stream);
// At most 8 rows, B as [k, n]: one FMA chain an output in the order of k, carried over in sums. The
// same bits as the CPU's.
cudaError_t launch_axpy(const ProductTask& task, cudaStream_t stream);
cudaError_t launch_axpy_slabs(const ProductTask& task, const SlabTable& table, cudaStream_t stream);  // of k
// Any number of rows, any strides: one FMA chain an output in the order of k.
cudaError_t launch_tiles(const ProductTask& task, cudaStream_t stream);
// sums to y, when another made the sums; one batch.
cudaError_t launch_finish(const ProductTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
