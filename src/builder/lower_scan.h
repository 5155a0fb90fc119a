// Forms of Scan that the executor does not know, rewritten into the one it knows: all axes 0, no batch.
#pragma once

#include "builder/passes.h"

namespace forebay::builder {

// Scan of opset 8 runs over the batch first: a Scan without state whose body is the Scan of one sequence. Before types are inferred. One
// with sequence_lens stays and is refused by type inference.
void lower_batched_scans(Ir& ir);
// Scan axes other than 0 become transposes around the node; type inference has refused those of unknown rank.
Status lower_scan_axes(PassContext& context);

}  // namespace forebay::builder
