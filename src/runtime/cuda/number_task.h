// Element by element over every type of whole numbers and floats, for what the fast kernels leave out: types are read and written by a
// switch, and computed in f64 or 64-bit integers.
#pragma once

#include "runtime/cuda/axis_task.h"

namespace forebay::cuda {

// f64, f32, f16, bf16, integers of 8 to 64 bits, bool.
bool number_type(DType type);
bool whole_number(DType type);  // integers alone

enum class NumberOp : int {
  add,
  sub,
  mul,
  div,
  pow,
  min,
  max,
  mod_floor,
  mod_truncate,
  equal,
  less,
  less_equal,
  greater,
  greater_equal,
  logical_and,
  logical_or,
  logical_xor,
  bit_and,
  bit_or,
  bit_xor,
  shift_left,
  shift_right
};
// Operand 0 is y, of y_type; a and b are of `type`. Integers wrap; by 0 they divide to 0.
cudaError_t launch_numbers(NumberOp op, DType type, DType y_type, const Walk& walk, void* y, const void* a, const void* b,
                           cudaStream_t stream);
// One operation of f64 (all), or of integers (neg, abs, relu).
cudaError_t launch_number_unary(UnaryOp op, DType type, std::int64_t count, void* y, const void* a, cudaStream_t stream);
// As the CPU's: what is out of range becomes what x86 makes of it.
cudaError_t launch_number_cast(DType from, DType to, std::int64_t count, void* y, const void* a, cudaStream_t stream);

// f64: an output a warp, an FMA chain an output. The task's types are not read, and its C, activation and sums are not there.
cudaError_t launch_double_reduce(const AxisReduceTask& task, cudaStream_t stream);
cudaError_t launch_double_product(const ProductTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
