#include "runtime/dynamic_pass.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/pass_runner.h"
#include "runtime/shape_bounds.h"

namespace forebay {

using plan::kNone;
using plan::ValueId;

DynamicPass::DynamicPass(std::shared_ptr<const CompiledPlan> compiled, PreparedPass& pass, ThreadPool& pool, Device* device)
    : compiled_(std::move(compiled)), plan_(*compiled_->plan), pass_(pass), pool_(pool), device_(device), bounds_(declared_bounds(plan_)) {
  const std::size_t values = plan_.values.size(), graphs = plan_.graphs.size();
  pass_.places.resize(values);
  hosts_.resize(values);
  blocks_.assign(values, ActivationHeap::kNoBlock);
  steps_.resize(graphs);
  releases_.resize(graphs);
  owned_.resize(graphs);
  for (std::size_t g = 0; g < graphs; ++g) steps_[g].resize(compiled_->graphs[g].steps.size());
  plan_releases();
  declared_ = std::any_of(bounds_.begin(), bounds_.end(), [](const auto& bounds) { return !bounds.empty(); });
  for (ValueId id = 0; id < values; ++id) {
    const plan::Value& value = plan_.values[id];
    ValuePlace& place = pass_.places[id];
    place.root = id;
    if (value.kind == plan::ValueKind::weight) {
      place.dtype = plan_.weights[value.index].dtype;
      place.shape = plan_.weights[value.index].shape;
    } else if (value.kind == plan::ValueKind::constant) {
      const plan::Constant& constant = plan_.constants[value.index];
      auto tensor = std::make_shared<HostTensor>(constant.dtype, constant.shape);
      if (!constant.data.empty()) std::memcpy(tensor->data(), constant.data.data(), constant.data.size());
      set_host(id, std::move(tensor));
    }
  }
}

// Every value but weights and constants is gone; those have no place yet.
void DynamicPass::reset() {
  for (ValueId id = 0; id < plan_.values.size(); ++id) {
    const plan::ValueKind kind = plan_.values[id].kind;
    if (kind == plan::ValueKind::constant) {
      blocks_[id] = ActivationHeap::kNoBlock;
      pass_.places[id].stored = false;
      continue;
    }
    drop(id);
    if (kind != plan::ValueKind::weight) pass_.places[id].dtype = DType::none;
  }
  heap_.reset();
  uploading_.clear();
  outgrown_ = 0;
}

std::uint64_t DynamicPass::estimate() {
  runner_ = nullptr;
  // What stops the walk (a size that depends on data alone, operands that do not fit at their bounds) shows when the pass runs.
  bounded_ = true;
  Status status = begin(UINT64_MAX);
  if (status.ok()) status = run_graph(0);
  bounded_ = bounded_ && status.ok();
  return heap_.peak();
}

Status DynamicPass::begin(std::uint64_t capacity) {
  reset();
  capacity_ = capacity;
  for (std::size_t i = 0; i < pass_.input_shapes.size(); ++i) {
    const ValueId id = plan_.graphs[0].inputs[i];
    FB_TRY(store(id, plan_.values[id].dtype, pass_.input_shapes[i].second));
  }
  return {};
}

Status DynamicPass::run(PassRunner& runner) {
  runner_ = &runner;
  Status status = run_graph(0);
  for (const ValueId id : plan_.graphs[0].outputs) {
    if (!status.ok()) break;
    if (pass_.places[id].dtype == DType::none) {
      status = Status(Code::invalid_model, "output '" + plan_.values[id].name + "' is never computed");
    } else {
      status = ensure_stored(id);
    }
  }
  runner_ = nullptr;
  return status;
}

void DynamicPass::each_step(const std::function<void(PreparedStep&)>& visit) {
  for (auto& graph : steps_) {
    for (DynamicStep& step : graph) {
      if (step.prepared.kernel) visit(step.prepared);
    }
  }
}

Status DynamicPass::run_graph(std::uint32_t index) {
  if (!dry()) runner_->leave_segment();
  const std::vector<Step>& steps = compiled_->graphs[index].steps;
  for (std::size_t s = 0; s < steps.size(); ++s) {
    FB_TRY(run_step(steps[s], steps_[index][s]));
    for (const ValueId id : releases_[index][s]) drop(id);
  }
  return {};
}

Status DynamicPass::run_step(const Step& step, DynamicStep& dynamic) {
  if (step.kind == Step::Kind::load_weight) return run_load(step, dynamic);
  if (step.kind != Step::Kind::control) return run_node(step, dynamic);
  const plan::Node& node = *step.node;
  Status status;
  if (node.op == "If") {
    status = run_if(node);
  } else if (node.op == "Loop") {
    status = run_loop(node);
  } else if (node.op == "Scan") {
    status = run_scan(node);
  } else {
    status = NodeView(node, plan_).unsupported("no executor for this control operator");
  }
  if (!dry()) runner_->leave_segment();
  return status;
}

Status DynamicPass::run_load(const Step& step, DynamicStep& dynamic) {
  const plan::Weight& weight = plan_.weights[plan_.values[step.loaded].index];
  FB_TRY(store(step.loaded, weight.dtype, weight.shape));
  if (!dynamic.settled) {
    dynamic.prepared.step = &step;
    dynamic.prepared.name = weight.name;
    dynamic.prepared.output_values = {step.loaded};
    dynamic.prepared.calls = step.substep_count;
    dynamic.settled = true;
  }
  return dry() ? Status() : runner_->run_load(dynamic.prepared);
}

bool DynamicPass::as_before(const plan::Node& node, const DynamicStep& dynamic) const {
  if (!dynamic.settled) return false;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const ValueId id = node.inputs[i];
    if (id == kNone) continue;
    const Seen& seen = dynamic.seen[i];
    const ValuePlace& place = pass_.places[id];
    if (place.dtype != seen.dtype || !(place.shape == seen.shape) || (place.host == nullptr) != (seen.host == nullptr)) return false;
    if (place.host == nullptr || place.host == seen.host.get() || place.host->bytes() == 0) continue;
    if (std::memcmp(place.host->data(), seen.host->data(), place.host->bytes()) != 0) return false;
  }
  return true;
}

Status DynamicPass::within_bounds(ValueId value, const Shape& shape) const {
  const std::vector<std::int64_t>& bounds = bounds_[value];
  for (int axis = 0; axis < shape.rank() && static_cast<std::size_t>(axis) < bounds.size(); ++axis) {
    const std::int64_t most = bounds[static_cast<std::size_t>(axis)];
    if (most < 0 || shape[axis] <= most) continue;
    Problem problem;
    problem.code = "bound_exceeded";
    problem.tensor = plan_.values[value].name;
    problem.message = "'" + problem.tensor + "' has shape " + shape.to_string() + " in this pass; its declared bound is " +
                      std::to_string(most) + " in dimension " + std::to_string(axis);
    problem.hint = "build with a larger --bound";
    return Status(Code::resource_exhausted, std::move(problem));
  }
  return {};
}

// Shape, kernel or result for the operands as they are now.
Status DynamicPass::settle(const Step& step, DynamicStep& dynamic) {
  const plan::Node& node = *step.node;
  dynamic.settled = false;
  Operands o;
  FB_TRY(read_operands(plan_, node, pass_.places, o));
  InferContext context(NodeView(node, plan_), o.inputs, o.values, o.outputs);
  FB_TRY(step.spec->infer(context));
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) {
      o.outputs[i] = TypeShape();  // a kernel must not take it for wanted
      continue;
    }
    if (!o.outputs[i].known())
      return NodeView(node, plan_).unsupported("the shape of output '" + plan_.values[node.outputs[i]].name + "' depends on data");
    FB_TRY(check_output(plan_, node, o.outputs[i]));
    FB_TRY(within_bounds(node.outputs[i], o.outputs[i].shape()));
  }
  dynamic.results.clear();
  bool known = (step.spec->flags & kOpRandom) == 0 && small_outputs(o);
  if ((step.spec->flags & kOpShapeOnly) == 0) {
    for (std::size_t i = 0; i < node.inputs.size(); ++i) known = known && (node.inputs[i] == kNone || o.values[i] != nullptr);
  }
  if (known) {
    FB_ASSIGN(std::vector<HostTensor> results, evaluate_operands(plan_, step, o, pool_));
    for (HostTensor& result : results) dynamic.results.push_back(std::make_shared<HostTensor>(std::move(result)));
    dynamic.prepared = {};
  } else if (step.kind != Step::Kind::view) {
    FB_ASSIGN(dynamic.prepared, make_kernel_step(*compiled_, step, o, pool_, device_));
  }
  dynamic.outputs = std::move(o.outputs);
  dynamic.seen.clear();
  for (const ValueId id : node.inputs) {
    dynamic.seen.push_back(id == kNone ? Seen{} : Seen{pass_.places[id].dtype, pass_.places[id].shape, hosts_[id]});
  }
  dynamic.settled = true;
  return {};
}

Status DynamicPass::run_node(const Step& step, DynamicStep& dynamic) {
  const plan::Node& node = *step.node;
  for (std::uint32_t i = 0; i < node.inputs.size() && i < 32; ++i) {
    if ((step.spec->host_inputs >> i & 1u) == 0 || node.inputs[i] == kNone) continue;
    const Status status = fetch(node.inputs[i]);
    if (!status.ok()) return run_unsettled(step, status);
  }
  if (!as_before(node, dynamic)) FB_TRY(settle(step, dynamic));
  if (!dynamic.results.empty()) {
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNone) set_host(node.outputs[i], dynamic.results[i]);
    }
    return {};
  }
  for (const ValueId id : node.inputs) FB_TRY(ensure_stored(id));
  if (step.kind == Step::Kind::view) {
    FB_ASSIGN(Held held, hold(node.inputs[0]));
    held.host.reset();
    held.shape = dynamic.outputs[0].shape();
    set(node.outputs[0], std::move(held));
    return {};
  }
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNone) FB_TRY(store(node.outputs[i], dynamic.outputs[i].dtype, dynamic.outputs[i].shape()));
  }
  if (dynamic.prepared.outputs.empty()) bind_step(plan_, pass_.places, pool_, dynamic.prepared);
  return launch(step, dynamic);
}

Status DynamicPass::launch(const Step& step, DynamicStep& dynamic) {
  std::uint32_t workspace = ActivationHeap::kNoBlock;
  if (dynamic.prepared.workspace_bytes > 0) {
    FB_ASSIGN(workspace, take(dynamic.prepared.workspace_bytes));
    dynamic.prepared.workspace_offset = heap_.offset(workspace);
  }
  Status status;
  if (!dry())
    status = step.kind == Step::Kind::gather_rows ? runner_->run_gather_step(dynamic.prepared) : runner_->run_kernel(dynamic.prepared);
  // The queue is in order: whoever takes this block writes it after the kernel has run.
  if (workspace != ActivationHeap::kNoBlock) heap_.give(workspace);
  return status;
}

// In a walk without data: outputs at their bounds. In a pass, or without a bound: `why`.
Status DynamicPass::run_unsettled(const Step& step, const Status& why) {
  const plan::Node& node = *step.node;
  if (!dry()) return Status(why).with_context("node '" + node.name + "' (" + node.op + ")");
  Operands o;
  FB_TRY(read_operands(plan_, node, pass_.places, o));
  InferContext context(NodeView(node, plan_), o.inputs, o.values, o.outputs);
  FB_TRY(step.spec->infer(context));
  bound_outputs(NodeView(node, plan_), o.inputs, o.values, o.outputs);
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    const ValueId id = node.outputs[i];
    if (id == kNone) {
      o.outputs[i] = TypeShape();
      continue;
    }
    TypeShape& type = o.outputs[i];
    if (!type.has_rank && !bounds_[id].empty()) {
      type.has_rank = true;
      type.dims.assign(bounds_[id].size(), -1);
    }
    for (std::size_t axis = 0; axis < type.dims.size() && axis < bounds_[id].size(); ++axis) {
      const std::int64_t most = bounds_[id][axis];
      if (most >= 0) type.dims[axis] = type.dims[axis] < 0 ? most : std::min(type.dims[axis], most);
    }
    if (!type.known()) return why;
    FB_TRY(check_output(plan_, node, type));
    FB_TRY(store(id, type.dtype, type.shape()));
  }
  return {};
}

Result<std::unique_ptr<PreparedPass>> prepare_dynamic(std::shared_ptr<const CompiledPlan> compiled,
                                                      const std::vector<std::pair<std::string, Shape>>& inputs, ThreadPool& pool,
                                                      Device* device, std::size_t states) {
  auto pass = std::make_unique<PreparedPass>();
  pass->compiled = compiled;
  pass->input_shapes = inputs;
  pass->states.assign(states, StateResult::copied);
  pass->dynamic = std::make_shared<DynamicPass>(std::move(compiled), *pass, pool, device);
  pass->activation_bytes = pass->dynamic->estimate();
  return pass;
}

}  // namespace forebay
