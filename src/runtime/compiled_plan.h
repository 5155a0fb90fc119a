// A plan joined with the operator registry: steps of every graph and the pass program. A pure function of the plan; immutable, shared.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "forebay/status.h"
#include "plan/plan_data.h"
#include "runtime/op.h"
#include "runtime/weight_source.h"

namespace forebay {

class RecordedChoices;  // kernel_choice.h

struct WeightOperand {
  std::uint32_t input = 0;       // of the node
  plan::WeightId weight = 0;
  std::uint32_t use = 0;         // place of its chunk among the uses of each substep
};

struct Step {
  enum class Kind : std::uint8_t { kernel, view, control, gather_rows, load_weight };
  Kind kind = Kind::kernel;
  const plan::Node* node = nullptr;  // null for load_weight: copies a weight into a value of its own (graph outputs, views of weights)
  const OpSpec* spec = nullptr;
  std::uint32_t sliced_input =
      plan::kNone;  // the operand that comes slab by slab, perhaps with others cut alike
  std::vector<WeightOperand> weights;        // the sliced one first
  std::uint32_t segment = plan::kNone, first_substep = 0, substep_count = 0;
  std::vector<std::uint32_t> bodies;         // graphs of a control node, in attribute order
  plan::ValueId loaded = plan::kNone;        // load_weight: the weight's value
};

struct CompiledGraph {
  std::vector<Step> steps;
};

struct CompiledPlan {
  std::shared_ptr<const plan::Plan> plan;
  std::vector<CompiledGraph> graphs;
  PassProgram program;
  std::vector<bool> gathered;          // per weight: rows are gathered, its chunks are neither resident nor streamed
  std::uint64_t gathered_bytes = 0;
  std::vector<bool> loaded;            // per value: a load_weight step gives it storage
  std::shared_ptr<const RecordedChoices> choices;
};

// A gather-only table of at least this many slabs is neither resident nor streamed.
inline constexpr std::uint64_t kGatherSlabs = 32;

// unsupported naming every operator this build does not have.
Result<std::shared_ptr<const CompiledPlan>> compile_plan(std::shared_ptr<const plan::Plan> plan);

}  // namespace forebay
