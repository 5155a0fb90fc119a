// Integers of shape arithmetic of which only some are known: exporters write a target shape as
// Concat(batch, sequence, 12, 64) even where only batch and sequence depend on the pass. Knowing
// the rest gives types the heads and head sizes that fusions need.
#pragma once

#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "builder/graph_ir.h"
#include "builder/host_values.h"

namespace forebay::builder {

inline constexpr std::int64_t kUnknownElement = std::numeric_limits<std::int64_t>::min();

struct PartialValue {
  std::vector<std::int64_t> elements;  // empty: nothing is known; a scalar has one
  std::set<std::uint32_t> sources;     // that the known ones were made from
  bool complete() const;
};

PartialValue partial_value(const Ir& ir, HostValues& host, ValueId id);
// Fills dims of the output of Reshape and Expand that inference alone could not tell.
void refine_type(const Ir& ir, HostValues& host, const IrNode& node, TypeShape& output);

}  // namespace forebay::builder
