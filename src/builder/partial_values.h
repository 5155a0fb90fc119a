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

// An unknown element is a number far below any size: kUnknownElement, or a symbol that stands for
// one dimension of one value. Equal symbols are equal sizes, so Reshape [B,S,128] to (B, S, -1, 32)
// is known to make four heads.
inline constexpr std::int64_t kUnknownElement = std::numeric_limits<std::int64_t>::min();
inline bool is_unknown(std::int64_t element) {
  return element < kUnknownElement / 2;
}

struct PartialValue {
  std::vector<std::int64_t> elements;  // empty: nothing is known; a scalar has one
  std::set<std::uint32_t> sources;     // that the known ones were made from
  bool complete() const;
};

PartialValue partial_value(const Ir& ir, HostValues& host, ValueId id);
// The dims of a value: numbers, and symbols where they are not known.
std::vector<std::int64_t> symbolic_dims(const Ir& ir, const HostValues& host, ValueId id);
// Which dims of the node's output are those of its inputs; empty when that is not known.
std::vector<std::int64_t> inferred_symbols(const Ir& ir, HostValues& host, const IrNode& node,
                                           const TypeShape& output);
// Fills dims of the output of Reshape, Expand and ConstantOfShape that inference alone could not tell.
void refine_type(const Ir& ir, HostValues& host, const IrNode& node, TypeShape& output);

}  // namespace forebay::builder
