// One engine at many budgets, changed while it lives: every output must have the bits of the fully resident pass.
#pragma once

#include <vector>

#include "forebay/engine.h"
#include "input_maker.h"
#include "session.h"

namespace forebay::tools {

// Two passes at each of `count` budgets from the minimum to full, far ones after each other. gate_failed names the first budget that gave
// other bits or held more than it may. Adds "sweep" to the result and prints a line.
Status sweep_budgets(Session& session, Engine& engine, const std::vector<NamedTensor>& inputs, int count);

}  // namespace forebay::tools
