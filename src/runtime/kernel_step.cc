// One node made ready to run: what prepared passes and passes that settle their shapes as they go have in common.
#include <algorithm>

#include "base/check.h"
#include "runtime/host_fallback.h"
#include "runtime/kernel_choice.h"
#include "runtime/merged_kernel.h"
#include "runtime/preparer.h"

namespace forebay {

using plan::kNone;
using plan::ValueId;

namespace {

constexpr std::int64_t kMaxHostElements = 64 * 1024;
constexpr std::uint64_t kMaxWorkspace = std::uint64_t{1} << 40;

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
  }
  for (const WeightOperand& operand : step.step->weights) {
    const plan::Weight& weight = plan.weights[operand.weight];
    if (weight.part_count < 2) continue;
    step.call_inputs[call * arity + operand.input].shape[0] = static_cast<std::int64_t>(plan.parts[weight.first_part + call].row_count);
  }
}

// The node's kernel on what is known on the host; where only shapes decide it sees no data. Shapes have been inferred already.
Result<std::vector<HostTensor>> run_on_host(const NodeView& view, const Step& step, const Operands& o, ThreadPool& pool) {
  FB_ASSIGN(auto kernel, step.spec->create(view, o.inputs, o.outputs));
  FB_TRY(kernel->prepare(PrepareContext{view, o.inputs, o.values, o.outputs, &pool, kNone, plan::Consumption::whole, {}}));
  std::vector<ConstTensorView> inputs;
  for (std::size_t i = 0; i < o.inputs.size(); ++i) {
    const TypeShape& t = o.inputs[i];
    inputs.emplace_back(o.values[i] != nullptr ? o.values[i]->data() : nullptr, t.dtype, t.present() ? t.shape() : Shape());
  }
  std::vector<HostTensor> results;
  std::vector<TensorView> outputs;
  for (const TypeShape& t : o.outputs) {
    results.push_back(t.present() ? HostTensor(t.dtype, t.shape()) : HostTensor());
    outputs.push_back({results.back().data(), t.dtype, t.present() ? t.shape() : Shape()});
  }
  HostTensor workspace(DType::u8, Shape{static_cast<std::int64_t>(std::min<std::uint64_t>(kernel->workspace_bytes(), kMaxWorkspace))});
  if (workspace.bytes() < kernel->workspace_bytes()) return view.invalid("the workspace is too large");
  KernelCall call;
  call.inputs = inputs;
  call.outputs = outputs;
  call.workspace = workspace.data();
  call.workspace_bytes = workspace.bytes();
  call.pool = &pool;
  FB_TRY(kernel->run(call));
  return results;
}

// The device's own kernel, prepared; where it has none for these types, shapes or slabs, the CPU's.
Result<std::unique_ptr<Kernel>> make_kernel(const CompiledPlan& compiled, const Step& step, const Operands& o,
                                            const PrepareContext& context, Device* device) {
  if (device != nullptr) {
    // Shape inference tells of outputs that the node does not have, too: a device that cannot make those need not.
    std::vector<TypeShape> outputs = o.outputs;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (step.node->outputs[i] == kNone) outputs[i] = TypeShape();
    }
    FB_ASSIGN(auto own, device->create_kernel(context.node, o.inputs, outputs));
    if (own != nullptr) {
      PrepareContext wanted = context;
      wanted.outputs = outputs;
      Status prepared = own->prepare(wanted);
      auto* const choosing = prepared.ok() ? dynamic_cast<ChoosingKernel*>(own.get()) : nullptr;
      if (choosing != nullptr) prepared = take_choice(compiled, device->info().kind, *choosing);
      if (prepared.ok() && kernel_excluded(*compiled.plan, own->id())) prepared = Status(Code::unsupported, "excluded");
      if (prepared.ok()) return own;
      if (prepared.code() != Code::unsupported) return prepared;
    }
  }
  FB_ASSIGN(std::unique_ptr<Kernel> kernel, step.spec->create(context.node, o.inputs, o.outputs));
  if (device != nullptr && !device->info().arena_host_addressable) kernel = run_on_host(std::move(kernel), *device);
  FB_TRY(kernel->prepare(context));
  return kernel;
}

}  // namespace

bool small_outputs(const Operands& o) {
  return std::all_of(o.outputs.begin(), o.outputs.end(),
                     [](const TypeShape& t) { return !t.present() || (t.known() && t.shape().elements() <= kMaxHostElements); });
}

Status read_operands(const plan::Plan& plan, const plan::Node& node, const std::vector<ValuePlace>& places, Operands& o) {
  o.inputs.reserve(node.inputs.size());
  o.values.reserve(node.inputs.size());
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
  if (step.spec->create == nullptr) return evaluate_node(view, o.values, pool);  // a view
  return run_on_host(view, step, o, pool);
}

// The device's own Gather of the whole table; null where it has none.
std::unique_ptr<Kernel> make_table_kernel(const NodeView& view, const Operands& o, ThreadPool& pool, Device& device) {
  auto kernel = device.create_kernel(view, o.inputs, o.outputs);
  if (!kernel.ok() || *kernel == nullptr) return nullptr;
  const Status prepared =
      (*kernel)->prepare(PrepareContext{view, o.inputs, o.values, o.outputs, &pool, kNone, plan::Consumption::whole, {}});
  return prepared.ok() && (*kernel)->workspace_bytes() == 0 ? std::move(*kernel) : nullptr;
}

Result<PreparedStep> make_kernel_step(const CompiledPlan& compiled, const Step& step, const Operands& o, ThreadPool& pool, Device* device) {
  const plan::Plan& plan = *compiled.plan;
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
    if (device != nullptr && !device->info().arena_host_addressable) {
      const TypeShape& out = o.outputs[0];
      prepared.row_room = std::max<std::uint64_t>(dtype_bytes(out.dtype, out.shape().elements()).value_or(0), prepared.rows.size() * 8);
      prepared.row_lock = std::make_unique<PageLock>();
      if (node.op == "Gather" && node.domain.empty()) prepared.table_kernel = make_table_kernel(view, o, pool, *device);
    }
    return prepared;
  }
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
  FB_ASSIGN(prepared.kernel, make_kernel(compiled, step, o, context, device));
  // Casts that fail take their time: only where they matter.
  if (auto* const reader = step.weights.empty() ? nullptr : dynamic_cast<WeightReader*>(prepared.kernel.get()); reader != nullptr) {
    for (const WeightOperand& operand : step.weights) reader->reads_weight(operand.input);
  }
  prepared.merged = prepared.calls > 1 ? dynamic_cast<MergedKernel*>(prepared.kernel.get()) : nullptr;
  if (prepared.merged != nullptr && !prepared.merged->merges()) prepared.merged = nullptr;
  prepared.workspace_bytes = prepared.kernel->workspace_bytes();
  return prepared;
}

void bind_step(const plan::Plan& plan, const std::vector<ValuePlace>& places, ThreadPool& pool, PreparedStep& step) {
  step.outputs.reserve(step.output_values.size());
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
