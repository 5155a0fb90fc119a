// Every op family, one file each: the list that OpRegistry::builtin() is made of. A new family adds its declaration and its line.
#pragma once

#include <span>

#include "runtime/op.h"

namespace forebay::ops {

std::span<const OpSpec> shape_ops();
std::span<const OpSpec> matmul_ops();
std::span<const OpSpec> gemm_ops();

using Family = std::span<const OpSpec> (*)();
inline constexpr Family kFamilies[] = {
    shape_ops,
    matmul_ops,
    gemm_ops,
};

}  // namespace forebay::ops
