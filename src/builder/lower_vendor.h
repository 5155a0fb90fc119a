// Vendor operators that are compositions of others (com.microsoft.EmbedLayerNormalization, Attention, MoE, ...) become those others when
// the model is read. So their weights stream, refit and fuse like everybody's, and there is no kernel to keep.
#pragma once

#include <span>
#include <string_view>

#include "builder/graph_ir.h"
#include "builder/type_inference.h"

namespace forebay::builder {

// Before types are inferred; what cannot be lowered is told there (types.invalid, types.unsupported), once each.
void lower_vendor(Ir& ir, TypeInference& types);
// The names of com.microsoft served this way, sorted, each with what it becomes (docs/operators.md).
struct LoweredOp {
  std::string_view name, becomes;
};
std::span<const LoweredOp> lowered_ops();

}  // namespace forebay::builder
