#include "base/check.h"
#include "builder/model_maker.h"
#include "runtime/op.h"

namespace forebay::builder::test {

Result<HostTensor> run_recipe(const Output& built, const plan::Weight& weight) {
  const plan::Plan& plan = built.plan;
  ThreadPool pool(1);
  std::vector<HostTensor> slots, constants;
  for (const std::uint32_t source : weight.recipe.sources) {
    FB_ASSIGN(HostTensor loaded, load_source_tensor(built.sources[source], 1 << 24));
    slots.push_back(std::move(loaded));
  }
  for (const plan::Constant& constant : plan.constants) {
    HostTensor tensor(constant.dtype, constant.shape);
    std::copy(constant.data.begin(), constant.data.end(), tensor.data());
    constants.push_back(std::move(tensor));
  }
  for (const plan::RecipeNode& node : weight.recipe.nodes) {
    std::vector<const HostTensor*> inputs;
    for (const std::uint32_t slot : node.inputs) {
      if (slot == plan::kNone) {
        inputs.push_back(nullptr);
      } else if (slot >= plan::kConstantSlot) {
        inputs.push_back(&constants[slot - plan::kConstantSlot]);
      } else {
        inputs.push_back(&slots[slot]);
      }
    }
    const NodeView view("", node.domain, node.op, node.version, node.attributes, plan, inputs.size(), node.output_count);
    FB_ASSIGN(std::vector<HostTensor> made, evaluate_node(view, inputs, pool));
    for (HostTensor& tensor : made) slots.push_back(std::move(tensor));
  }
  if (slots.back().shape() == weight.shape) return std::move(slots.back());
  HostTensor viewed(weight.dtype, weight.shape);  // its source under another shape
  std::copy_n(slots.back().data(), viewed.bytes(), viewed.data());
  return viewed;
}

}  // namespace forebay::builder::test
