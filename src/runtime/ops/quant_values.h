// Reading and writing single elements of the quantised types, sub-byte and 8-bit floats included.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "forebay/types.h"

namespace forebay::ops {

bool quantized_dtype(DType dtype);  // what QuantizeLinear can give: 8 and 16-bit integers, 2 and 4-bit ones, 8-bit floats, f4e2m1
double load_number(DType dtype, const std::byte* data, std::int64_t index);  // any numeric dtype
// Integers: rounded to even and saturated. Floats: converted; `saturate` for the 8-bit ones. Sub-byte neighbours stay as they are.
void store_number(DType dtype, std::byte* data, std::int64_t index, double value, bool saturate = true);
std::optional<DType> dtype_of_onnx(std::int64_t number);  // TensorProto.DataType

}  // namespace forebay::ops
