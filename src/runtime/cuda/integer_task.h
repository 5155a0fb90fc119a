// The seam between kernels on quantised integers and what prepares them.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

struct Parameter {             // one value, or one for each of something
  const void* data = nullptr;  // null: `otherwise`
  DType type = DType::none;
  bool each = false;
};

// Exact 32-bit sums of (A - a zero) * (B - b zero): A [m,k], B [k,n], i8 or u8. With y_scale the sums become i8 or u8 behind the last slab.
struct IntegerProduct {
  DType a_type = DType::i8, b_type = DType::i8, y_type = DType::i32;
  const void *a = nullptr, *b = nullptr;
  std::int32_t* sums = nullptr;
  void* y = nullptr;  // requantised; null: the sums are the result
  std::int64_t m = 0, n = 0, k = 0, a_row = 0, b_row = 0;
  std::int64_t batches = 1, a_batch = 0, b_batch = 0;
  bool first = true, last = true;
  Parameter a_zero, b_zero, a_scale, b_scale, y_scale, y_zero;  // of A and Y a row (all batches), of B a column
};
cudaError_t launch_integer_product(const IntegerProduct& task, cudaStream_t stream);

// Which scale belongs to element i: that of its place on an axis, or of its block.
struct ScalePlaces {
  std::int64_t inner = 1, axis = 1, block = 0, scale_axis = 1;
  bool single = true;
};
struct LinearQuantTask {
  ScalePlaces places;
  DType x_type = DType::none, y_type = DType::none, scale_type = DType::none, zero_type = DType::none;
  const void *x = nullptr, *scale = nullptr, *zero = nullptr;
  void* y = nullptr;
  std::int64_t first = 0, count = 0;  // elements; x begins at the first
  // Of dequantisation: codes that lie in several slabs, all but the last of `each` elements; 0: they lie at x.
  SlabTable slabs;
  std::int64_t each = 0;
};
bool quantizes_to(DType type);      // i8, u8, i16, u16
bool dequantizes_from(DType type);  // these, i32, and what packed weights have
cudaError_t launch_quantize(const LinearQuantTask& task, cudaStream_t stream);
cudaError_t launch_dequantize(const LinearQuantTask& task, cudaStream_t stream);

// DynamicQuantizeLinear; `partial` holds 2 * kRangeBlocks floats.
constexpr int kRangeBlocks = 256;
cudaError_t launch_dynamic_quantize(const float* x, std::int64_t count, std::uint8_t* y, float* scale, std::uint8_t* zero, float* partial,
                                    cudaStream_t stream);

}  // namespace forebay::cuda
