// One row of Softmax, for kernels that hold one inside (Attention).
#pragma once

#include <cstdint>

namespace forebay::ops {

// y may be x. A row of -inf alone gives NaN.
void softmax_row(const float* x, std::int64_t count, float* y);
void softmax_row(const double* x, std::int64_t count, double* y);

}  // namespace forebay::ops
