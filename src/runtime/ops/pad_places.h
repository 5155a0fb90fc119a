// Where each index of each axis of a padded tensor comes from; -1: the constant.
#pragma once

#include <vector>

#include "runtime/op.h"

namespace forebay::ops {

// Of a Pad node whose shapes and pads are known.
Result<std::vector<std::vector<std::int64_t>>> pad_places(const PrepareContext& context);

}  // namespace forebay::ops
