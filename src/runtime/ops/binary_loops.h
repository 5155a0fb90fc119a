// Loops of the arithmetic operators for every dtype: the vectorised ones for floats, plain ones (wrapping) for integers.
#pragma once

#include "forebay/types.h"
#include "runtime/ops/vector_loops.h"

namespace forebay::ops {

// Empty loops when the dtype (as loops see it: loop_dtype) has none. Integers wrap; x / 0 is 0 and x mod 0 is 0, as numpy has it.
BinaryLoops arithmetic_loops(FloatBinary op, DType dtype);

}  // namespace forebay::ops
