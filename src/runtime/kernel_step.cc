// One node made ready to run: what prepared passes and passes that settle their shapes as they go have in common.
#include <algorithm>

#include "base/check.h"
#include "runtime/preparer.h"

namespace forebay {

using plan::kNone;
using plan::ValueId;

namespace {

constexpr std::int64_t kMaxHostElements = 64 * 1024;

const plan::Part& part_of(const plan::Plan& plan, const Step& step, std::uint32_t call) {
  return plan.parts[plan.weights[step.weights.front().weight].first_part + call];
}

void bind_call(const plan::Plan& plan, const std::vector<ValuePlace>& places, PreparedStep& step, std::uint32_t call, std::size_t arity) {
  for (std::size_t i = 0; i < arity; ++i) {
    const ValueId id = step.input_values[i];
    if (id == kNone) continue;
    ConstTensorView& view = step.call_inputs[call * arity + i];
    view.dtype = places[id].dtype;
    view.shape = places[id].shape;
    if (i == step.step->sliced_input) view.shape[0] = static_cast<std::int64_t>(part_of(plan, *step.step, call).row_count);
  }
}

// The kernel sees no data: its outputs follow from the shapes of its inputs.
Result<std::vector<HostTensor>> run_on_shapes(const NodeView& view, const Step& step, const Operands& o, ThreadPool& pool) {
  FB_ASSIGN(auto kernel, step.spec->create(view, o.inputs, o.outputs));
  FB_TRY(kernel->prepare(PrepareContext{view, o.inputs, o.values, o.outputs, &pool, kNone, plan::Consumption::whole, {}}));
  std::vector<ConstTensorView> inputs;
  for (const TypeShape& t : o.inputs) inputs.emplace_back(nullptr, t.dtype, t.present() ? t.shape() : Shape());
  std::vector<HostTensor> results;
  std::vector<TensorView> outputs;
  for (const TypeShape& t : o.outputs) {
    results.emplace_back(t.dtype, t.shape());
    outputs.push_back({results.back().data(), t.dtype, t.shape()});
  }
  KernelCall call;
  call.inputs = inputs;
  call.outputs = outputs;
  call.pool = &pool;
  FB_TRY(kernel->run(call));
  return results;
}

}  // namespace

bool small_outputs(const Operands& o) {
  return std::all_of(o.outputs.begin(), o.outputs.end(),
                     [](const TypeShape& t) { return !t.present() || (t.known() && t.shape().elements() <= kMaxHostElements); });
}

Status read_operands(const plan::Plan& plan, const plan::Node& node, const std::vector<ValuePlace>& places, Operands& o) {
  for (const ValueId id : node.inputs) {
    TypeShape type;
    if (id != kNone) {
      const ValuePlace& place = places[id];
      if (place.dtype == DType::none) {
        return Status(Code::invalid_model, "node '" + node.name + "' reads '" + plan.values[id].name + "' before it is computed");
      }
      type.dtype = place.dtype;
      type.has_rank = true;
      type.dims.assign(place.shape.dims().begin(), place.shape.dims().end());
    }
    o.inputs.push_back(std::move(type));
    o.values.push_back(id == kNone ? nullptr : places[id].host);
  }
  o.outputs.resize(node.outputs.size());
  return {};
}

Status check_output(const plan::Plan& plan, const plan::Node& node, const TypeShape& output) {
  if (output.dims.size() <= static_cast<std::size_t>(kMaxRank) && checked_bytes(output.dtype, output.dims)) return {};
  return NodeView(node, plan).invalid("an output is too large");
}

Result<std::vector<HostTensor>> evaluate_operands(const plan::Plan& plan, const Step& step, const Operands& o, ThreadPool& pool) {
  const NodeView view(*step.node, plan);
  if ((step.spec->flags & kOpShapeOnly) != 0) return run_on_shapes(view, step, o, pool);
  return evaluate_node(view, o.values, pool);
}

Result<PreparedStep> make_kernel_step(const plan::Plan& plan, const Step& step, const Operands& o, ThreadPool& pool) {
  const plan::Node& node = *step.node;
  const NodeView view(node, plan);
  PreparedStep prepared;
  prepared.step = &step;
  prepared.name = node.name;
  prepared.input_values = node.inputs;
  prepared.output_values = node.outputs;
  prepared.calls = std::max<std::uint32_t>(1, step.substep_count);
  if (step.kind == Step::Kind::gather_rows) {
    prepared.calls = 1;
    prepared.rows.resize(static_cast<std::size_t>(o.inputs[1].shape().elements()));
    return prepared;
  }
  FB_ASSIGN(prepared.kernel, step.spec->create(view, o.inputs, o.outputs));
  std::vector<std::int64_t> slab_rows;
  PrepareContext context{view, o.inputs, o.values, o.outputs, &pool, step.sliced_input, plan::Consumption::whole, {}};
  if (step.sliced_input != kNone) {
    const plan::Weight& weight = plan.weights[step.weights.front().weight];
    for (std::uint32_t p = 0; p < weight.part_count; ++p) {
      slab_rows.push_back(static_cast<std::int64_t>(plan.parts[weight.first_part + p].row_count));
    }
    context.consumption = weight.consumption;
    context.slab_rows = slab_rows;
  }
  FB_TRY(prepared.kernel->prepare(context));
  prepared.workspace_bytes = prepared.kernel->workspace_bytes();
  return prepared;
}

void bind_step(const plan::Plan& plan, const std::vector<ValuePlace>& places, ThreadPool& pool, PreparedStep& step) {
  for (const ValueId id : step.output_values) {
    step.outputs.push_back(id == kNone ? TensorView{} : TensorView{nullptr, places[id].dtype, places[id].shape});
  }
  if (!step.kernel) return;
  const std::size_t arity = step.input_values.size();
  step.call_inputs.resize(arity * step.calls);
  for (std::uint32_t c = 0; c < step.calls; ++c) bind_call(plan, places, step, c, arity);
  step.kernel_calls.resize(step.calls);
  step.launches.resize(step.calls);
  for (std::uint32_t c = 0; c < step.calls; ++c) {
    KernelCall& call = step.kernel_calls[c];
    call.inputs = std::span(step.call_inputs).subspan(c * arity, arity);
    call.outputs = step.outputs;
    call.workspace_bytes = step.workspace_bytes;
    call.pool = &pool;
    call.slab = c;
    call.slab_count = step.calls;
    step.launches[c] = {step.kernel.get(), &call, &step, nullptr};
    if (step.step->sliced_input != kNone) call.row_begin = static_cast<std::int64_t>(part_of(plan, *step.step, c).row_begin);
  }
}

}  // namespace forebay
