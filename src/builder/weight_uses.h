// How the nodes of a plan take its weights: consumption of each weight from all its uses.
#pragma once

#include <vector>

#include "builder/graph_ir.h"
#include "builder/weight_recipes.h"

namespace forebay::builder {

struct WeightUsage {
  plan::Consumption consumption = plan::Consumption::whole;
  bool gather_only = false;
  std::uint32_t use_count = 0;
  bool in_body = false;
  std::uint32_t first_graph = 0;  // of its first use
  std::int64_t row_unit = 1;      // a cut falls on a multiple of so many rows
  std::uint32_t follows = plan::kNone;  // cut where this weight is cut, in proportion: scales and
                                        // zero points of a packed weight
};

// One entry per planned weight. A node takes at most one weight in slabs: `slab_bytes` decides
// which weights are cut at all, and of several at one node the largest stays cut, with what follows
// it.
std::vector<WeightUsage> weight_usage(Ir& ir, const OpRegistry& registry, const WeightPlan& weights, std::uint64_t slab_bytes);

}  // namespace forebay::builder
