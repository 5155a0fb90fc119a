// Which values become weights, and the recipe of each: everything computed from tensors of the file alone leaves the graph, unless its
// result is much larger than what it is made from, or it is quantised storage (DequantizeLinear stays in the graph and reads the packed
// weight).
#pragma once

#include <set>
#include <vector>

#include "builder/graph_ir.h"

namespace forebay::builder {

// A node over fixed inputs stays in the graph when its result is above this many times the bytes it is made from.
inline constexpr std::uint64_t kMaxRecipeGrowth = 2;

struct PlannedWeight {
  ValueId value = kNone;
  std::vector<std::uint32_t> sources;  // of Ir::sources, in order of first use by the recipe
  std::vector<const IrNode*> nodes;    // in execution order; empty: the bytes of the one source, maybe under another shape
  std::vector<ValueId> shape_constants;  // constants that gave an identity weight its shape
};

struct WeightPlan {
  std::vector<PlannedWeight> weights;  // by order of first use in a pass
  std::set<const IrNode*> in_graph;    // nodes that stay; the others are part of recipes, or unused
};

// Recipes that do the same to the same sources (two branches that reorder one LSTM's gates) become one weight: readers are redirected to
// it, and the constants of the other are recorded in Ir::decided_by.
WeightPlan plan_weights(Ir& ir, const OpRegistry& registry);

}  // namespace forebay::builder
