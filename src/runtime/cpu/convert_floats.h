// Bulk conversions between f32 and the narrow floats, round to nearest even: what every kernel that computes in f32 goes through.
#pragma once

#include <cstddef>
#include <cstdint>

#include "forebay/types.h"
#include "runtime/cpu/gemv_isa.h"

namespace forebay::cpu {

// f32, f16, bf16 (and f64, rounded) to f32. `from` and `to` do not overlap.
void to_f32(DType dtype, const std::byte* from, std::int64_t count, float* to, InstructionSet set = cpu_instruction_set());
// f32 to f32, f16, bf16 or f64.
void from_f32(DType dtype, const float* from, std::int64_t count, std::byte* to, InstructionSet set = cpu_instruction_set());

}  // namespace forebay::cpu
