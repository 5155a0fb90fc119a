// Every op family, one file each: the list that OpRegistry::builtin() is made of. A new family adds its declaration and its line.
#pragma once

#include <span>

#include "runtime/op.h"

namespace forebay::ops {

std::span<const OpSpec> binary_ops();
std::span<const OpSpec> pow_ops();
std::span<const OpSpec> variadic_ops();
std::span<const OpSpec> unary_ops();
std::span<const OpSpec> where_ops();
std::span<const OpSpec> cast_ops();
std::span<const OpSpec> shape_ops();
std::span<const OpSpec> matmul_ops();
std::span<const OpSpec> gemm_ops();
std::span<const OpSpec> conv_ops();
std::span<const OpSpec> pool_ops();

using Family = std::span<const OpSpec> (*)();
inline constexpr Family kFamilies[] = {
    binary_ops,
    pow_ops,
    variadic_ops,
    unary_ops,
    where_ops,
    cast_ops,
    shape_ops,
    matmul_ops,
    gemm_ops,
    conv_ops,
    pool_ops,
};

}  // namespace forebay::ops
