// From the ONNX graph as written (functions inlined) to the typed graph: names to numbers, tensors of the file to sources, bodies to
// graphs. Types of intermediate values are left open: type_inference.h.
#pragma once

#include <vector>

#include "builder/graph_ir.h"
#include "onnx/onnx_model.h"

namespace forebay::builder {

// What cannot be taken (sparse tensors, sequence inputs, ...) is added to `unsupported` and poisoned; a malformed graph (unknown or doubled
// names, no opset for a domain) fails with every problem found, as invalid_model.
Result<Ir> import_model(const onnx::Model& model, std::vector<Problem>& unsupported);

}  // namespace forebay::builder
