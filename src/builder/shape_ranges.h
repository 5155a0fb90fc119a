// From the shapes that the user gave for inputs to ranges of named dimensions, and the pairs of state outputs and inputs.
#pragma once

#include <vector>

#include "builder/build.h"
#include "builder/graph_ir.h"

namespace forebay::builder {

// Options::input_shapes and Options::ranges joined. An open dimension without a name gets one ("<input>.<axis>"), so that its range can be
// stated. Of min, opt and max those not given are taken from the nearest given one. invalid_argument, naming the inputs, for unknown
// inputs, wrong ranks, sizes that contradict the model or each other, min > opt or opt > max.
Result<std::vector<plan::DimRange>> shape_ranges(Ir& ir, const Options& options);

struct StateNames {
  ValueId output = kNone, input = kNone;
};
// Options::state_pairs by name; without any: outputs present.X (present_X) with inputs past_key_values.X (past.X, past_X).
Result<std::vector<StateNames>> find_state_pairs(const Ir& ir, const Options& options);

}  // namespace forebay::builder
