// Every op family, one file each: the list that OpRegistry::builtin() is made of. A new family adds its declaration and its line.
#pragma once

#include <span>

#include "runtime/op.h"

namespace forebay::ops {

std::span<const OpSpec> shape_ops();

using Family = std::span<const OpSpec> (*)();
inline constexpr Family kFamilies[] = {
    shape_ops,
};

}  // namespace forebay::ops
