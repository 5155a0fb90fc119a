// From the rewritten graph to a plan: weights with recipes and slabs, kept constants with digests, nodes, kernel choices.
#pragma once

#include <vector>

#include "builder/build.h"
#include "builder/graph_ir.h"
#include "builder/shape_ranges.h"
#include "builder/weight_recipes.h"

namespace forebay::builder {

struct EmitInput {
  Ir& ir;
  const OpRegistry& registry;
  const Options& options;
  std::string model_name;
  std::vector<plan::DimRange> ranges;
  std::vector<StateNames> states;
};

// `ir_sources[i]` is the index in Ir::sources of plan.sources[i].
struct EmitOutput {
  plan::Plan plan;
  std::vector<std::uint32_t> ir_sources;
};

// Everything but digests of sources (digest_sources): nothing is read.
Result<EmitOutput> emit_plan(const EmitInput& input);

}  // namespace forebay::builder
