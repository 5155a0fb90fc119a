// Invariants: a value's lifetime covers every step that reads it, on whichever branch; values of the two branches of an If never share time with
// each other's outputs; nothing here depends on the budget.
#include "runtime/prepared_pass.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/host_fallback.h"
#include "runtime/memory_plan.h"
#include "runtime/merged_kernel.h"
#include "runtime/preparer.h"

namespace forebay {
namespace {

using plan::kNone;
using plan::ValueId;

// Shape arithmetic works on small tensors; larger ones that happen to be known stay computed in the pass.
constexpr std::int64_t kMaxHostElements = 64 * 1024;

std::string dim_text(const plan::Dim& dim) { return dim.size >= 0 ? std::to_string(dim.size) : dim.name.empty() ? "?" : dim.name; }

}  // namespace

Preparer::Preparer(std::shared_ptr<const CompiledPlan> compiled, ThreadPool& pool, Device* device)
    : compiled_(std::move(compiled)), plan_(*compiled_->plan), pool_(pool), device_(device), pass_(std::make_unique<PreparedPass>()) {}

Result<std::unique_ptr<PreparedPass>> Preparer::run(const std::vector<std::pair<std::string, Shape>>& inputs) {
  FB_TRY(check_input_shapes(plan_, inputs));
  pass_->compiled = compiled_;
  pass_->input_shapes = inputs;
  pass_->places.resize(plan_.values.size());
  lives_.resize(plan_.values.size());
  upload_.assign(plan_.values.size(), false);
  for (std::size_t v = 0; v < plan_.values.size(); ++v) fixed_value(static_cast<ValueId>(v));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const ValueId id = plan_.graphs[0].inputs[i];
    set_stored(id, plan_.values[id].dtype, inputs[i].second);
  }
  FB_TRY(prepare_graph(0, pass_->main));
  for (const ValueId id : plan_.graphs[0].outputs) {
    if (pass_->places[id].dtype == DType::none) return Status(Code::invalid_model, "output '" + plan_.values[id].name + "' is never computed");
    touch(id);
  }
  place_all();
  bind_graph(pass_->main);
  return std::move(pass_);
}

// Weights and constants: shape and dtype are the plan's.
void Preparer::fixed_value(ValueId id) {
  const plan::Value& value = plan_.values[id];
  ValuePlace& place = pass_->places[id];
  place.root = id;
  if (value.kind == plan::ValueKind::weight) {
    place.dtype = plan_.weights[value.index].dtype;
    place.shape = plan_.weights[value.index].shape;
  } else if (value.kind == plan::ValueKind::constant) {
    const plan::Constant& constant = plan_.constants[value.index];
    HostTensor tensor(constant.dtype, constant.shape);
    if (!constant.data.empty()) std::memcpy(tensor.data(), constant.data.data(), constant.data.size());
    set_host(id, std::move(tensor));
  }
}

void Preparer::set_host(ValueId id, HostTensor tensor) {
  ValuePlace& place = pass_->places[id];
  place.dtype = tensor.dtype();
  place.shape = tensor.shape();
  place.root = id;
  pass_->host_values.push_back(std::make_unique<HostTensor>(std::move(tensor)));
  place.host = pass_->host_values.back().get();
}

void Preparer::set_stored(ValueId id, DType dtype, const Shape& shape) {
  ValuePlace& place = pass_->places[id];
  place.dtype = dtype;
  place.shape = shape;
  place.root = id;
  place.stored = true;
  lives_[id].bytes = dtype_bytes(dtype, shape.elements()).value_or(0);
  touch(id);
}

// The value is read or written at the current step.
void Preparer::touch(ValueId id) {
  if (id == kNone) return;
  const ValueId root = pass_->places[id].root;
  if (root == kNone) return;
  if (pass_->places[root].host != nullptr) {
    upload_[root] = true;
    return;
  }
  lives_[root].first = std::min(lives_[root].first, tick_);
  lives_[root].last = std::max(lives_[root].last, tick_);
}

TypeShape Preparer::type_of(ValueId id) const {
  TypeShape t;
  if (id == kNone) return t;
  const ValuePlace& place = pass_->places[id];
  t.dtype = place.dtype;
  t.has_rank = true;
  t.dims.assign(place.shape.dims().begin(), place.shape.dims().end());
  return t;
}

Status Preparer::prepare_graph(std::uint32_t index, PreparedGraph& out) {
  out.outputs = plan_.graphs[index].outputs;
  out.steps.reserve(compiled_->graphs[index].steps.size());
  for (const Step& step : compiled_->graphs[index].steps) {
    ++tick_;
    if (step.kind == Step::Kind::load_weight) {
      load_weight(step, out);
    } else if (step.kind == Step::Kind::control) {
      FB_TRY(prepare_control(step, out));
    } else {
      FB_TRY(prepare_node(step, out));
    }
  }
  return {};
}

void Preparer::load_weight(const Step& step, PreparedGraph& out) {
  const plan::Weight& weight = plan_.weights[plan_.values[step.loaded].index];
  set_stored(step.loaded, weight.dtype, weight.shape);
  PreparedStep prepared;
  prepared.step = &step;
  prepared.name = weight.name;
  prepared.output_values = {step.loaded};
  prepared.calls = step.substep_count;
  out.steps.push_back(std::move(prepared));
}

Status Preparer::infer(const Step& step, Operands& o) {
  const plan::Node& node = *step.node;
  for (const ValueId id : node.inputs) {
    if (id != kNone && pass_->places[id].dtype == DType::none) {
      return Status(Code::invalid_model, "node '" + node.name + "' reads '" + plan_.values[id].name + "' before it is computed");
    }
    o.inputs.push_back(type_of(id));
    o.values.push_back(id == kNone ? nullptr : pass_->places[id].host);
  }
  o.outputs.resize(node.outputs.size());
  InferContext context(NodeView(node, plan_), o.inputs, o.values, o.outputs);
  FB_TRY(step.spec->infer(context));
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) continue;
    if (!o.outputs[i].known()) {
      return NodeView(node, plan_).unsupported("the shape of output '" + plan_.values[node.outputs[i]].name + "' depends on data");
    }
    if (o.outputs[i].dims.size() > static_cast<std::size_t>(kMaxRank) || !checked_bytes(o.outputs[i].dtype, o.outputs[i].dims)) {
      return NodeView(node, plan_).invalid("an output is too large");
    }
  }
  return {};
}

bool Preparer::small(const Operands& o) {
  for (const TypeShape& t : o.outputs) {
    if (t.present() && t.shape().elements() > kMaxHostElements) return false;
  }
  return true;
}

Status Preparer::prepare_node(const Step& step, PreparedGraph& out) {
  const plan::Node& node = *step.node;
  Operands o;
  FB_TRY(infer(step, o));
  const NodeView view(node, plan_);
  bool known = (step.spec->flags & kOpRandom) == 0 && small(o);
  if ((step.spec->flags & kOpShapeOnly) == 0) {
    for (std::size_t i = 0; i < node.inputs.size(); ++i) known = known && (node.inputs[i] == kNone || o.values[i] != nullptr);
  }
  if (known) return evaluate(step, o);
  if (step.kind == Step::Kind::view) {
    for (std::size_t i = 1; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNone) return view.unsupported("a second output of a view");
    }
    touch(node.inputs[0]);
    ValuePlace& place = pass_->places[node.outputs[0]];
    place.dtype = o.outputs[0].dtype;
    place.shape = o.outputs[0].shape();
    place.root = pass_->places[node.inputs[0]].root;
    place.stored = true;
    return {};
  }
  for (std::uint32_t i = 0; i < node.inputs.size() && i < 32; ++i) {
    if ((step.spec->host_inputs >> i & 1u) != 0 && node.inputs[i] != kNone && o.values[i] == nullptr) {
      return view.unsupported("input " + std::to_string(i) + " ('" + plan_.values[node.inputs[i]].name + "') must follow from shapes and constants, but depends on data");
    }
  }
  return prepare_kernel(step, o, out);
}

// The node's outputs follow from shapes and constants: computed now, once.
Status Preparer::evaluate(const Step& step, Operands& o) {
  const plan::Node& node = *step.node;
  const NodeView view(node, plan_);
  std::vector<HostTensor> results;
  if ((step.spec->flags & kOpShapeOnly) != 0) {
    FB_ASSIGN(auto kernel, step.spec->create(view, o.inputs, o.outputs));
    FB_TRY(kernel->prepare(PrepareContext{view, o.inputs, o.values, o.outputs, &pool_, kNone, plan::Consumption::whole, {}}));
    std::vector<ConstTensorView> inputs;
    for (const TypeShape& t : o.inputs) inputs.emplace_back(nullptr, t.dtype, t.present() ? t.shape() : Shape());
    std::vector<TensorView> outputs;
    for (const TypeShape& t : o.outputs) {
      results.emplace_back(t.dtype, t.shape());
      outputs.push_back({results.back().data(), t.dtype, t.shape()});
    }
    KernelCall call;
    call.inputs = inputs;
    call.outputs = outputs;
    call.pool = &pool_;
    FB_TRY(kernel->run(call));
  } else {
    FB_ASSIGN(results, evaluate_node(view, o.values, pool_));
  }
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNone) set_host(node.outputs[i], std::move(results[i]));
  }
  return {};
}

// The device's own kernel, prepared; where it has none for these types, shapes or slabs, the CPU's.
Result<std::unique_ptr<Kernel>> Preparer::make_kernel(const Step& step, const Operands& o, const PrepareContext& context) {
  if (device_ != nullptr) {
    FB_ASSIGN(auto own, device_->create_kernel(context.node, o.inputs, o.outputs));
    if (own != nullptr) {
      Status prepared = own->prepare(context);
      if (prepared.ok()) return own;
      if (prepared.code() != Code::unsupported) return prepared;
    }
  }
  FB_ASSIGN(std::unique_ptr<Kernel> kernel, step.spec->create(context.node, o.inputs, o.outputs));
  if (device_ != nullptr && !device_->info().arena_host_addressable) kernel = run_on_host(std::move(kernel), *device_);
  FB_TRY(kernel->prepare(context));
  return kernel;
}

Status Preparer::prepare_kernel(const Step& step, Operands& o, PreparedGraph& out) {
  const plan::Node& node = *step.node;
  const NodeView view(node, plan_);
  PreparedStep prepared;
  prepared.step = &step;
  prepared.name = node.name;
  prepared.input_values = node.inputs;
  prepared.output_values = node.outputs;
  prepared.calls = std::max<std::uint32_t>(1, step.substep_count);
  if (step.kind == Step::Kind::gather_rows) {
    prepared.calls = 1;
    prepared.rows.resize(static_cast<std::size_t>(pass_->places[node.inputs[1]].shape.elements()));
    if (device_ != nullptr && !device_->info().arena_host_addressable) {
      const TypeShape& out_type = o.outputs[0];
      prepared.row_bytes.resize(std::max(dtype_bytes(out_type.dtype, out_type.shape().elements()).value_or(0), prepared.rows.size() * 8));
    }
  } else {
    std::vector<std::int64_t> slab_rows;
    PrepareContext context{view, o.inputs, o.values, o.outputs, &pool_, step.sliced_input, plan::Consumption::whole, {}};
    if (step.sliced_input != kNone) {
      const plan::Weight& weight = plan_.weights[step.weights.front().weight];
      for (std::uint32_t p = 0; p < weight.part_count; ++p) {
        slab_rows.push_back(static_cast<std::int64_t>(plan_.parts[weight.first_part + p].row_count));
      }
      context.consumption = weight.consumption;
      context.slab_rows = slab_rows;
    }
    FB_ASSIGN(prepared.kernel, make_kernel(step, o, context));
    prepared.merged = dynamic_cast<MergedKernel*>(prepared.kernel.get());
    if (prepared.merged != nullptr && !prepared.merged->merges()) prepared.merged = nullptr;
    prepared.workspace_bytes = prepared.kernel->workspace_bytes();
    pass_->kernel_ids += prepared.kernel->id();
    pass_->kernel_ids += ';';
  }
  for (const ValueId id : node.inputs) touch(id);
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNone) set_stored(node.outputs[i], o.outputs[i].dtype, o.outputs[i].shape());
  }
  if (prepared.workspace_bytes > 0) {
    workspaces_.push_back({tick_, tick_, prepared.workspace_bytes});
    prepared.workspace_offset = workspaces_.size();  // index + 1 until offsets are known
  }
  out.steps.push_back(std::move(prepared));
  return {};
}

void Preparer::place_all() {
  std::uint64_t constants = 0;
  for (std::size_t v = 0; v < upload_.size(); ++v) {
    if (!upload_[v]) continue;
    pass_->uploads.push_back({static_cast<ValueId>(v), constants});
    pass_->places[v].offset = constants;
    constants += align_up(std::max<std::uint64_t>(1, pass_->places[v].host->bytes()), 64);
  }
  std::vector<Lifetime> lifetimes;
  std::vector<ValueId> owners;
  for (std::size_t v = 0; v < lives_.size(); ++v) {
    const ValuePlace& place = pass_->places[v];
    if (!place.stored || place.root != v) continue;
    lifetimes.push_back({lives_[v].first, lives_[v].last, lives_[v].bytes, 0});
    owners.push_back(static_cast<ValueId>(v));
  }
  for (const Life& life : workspaces_) lifetimes.push_back({life.first, life.last, life.bytes, 0});
  pass_->activation_bytes = constants + plan_memory(lifetimes);
  for (std::size_t i = 0; i < owners.size(); ++i) pass_->places[owners[i]].offset = constants + lifetimes[i].offset;
  workspace_offsets_.clear();
  for (std::size_t i = 0; i < workspaces_.size(); ++i) workspace_offsets_.push_back(constants + lifetimes[owners.size() + i].offset);
  for (ValuePlace& place : pass_->places) {
    if (place.root != kNone && pass_->places[place.root].root != kNone) {
      // Views of views end at the value that owns the storage.
      while (pass_->places[place.root].root != place.root) place.root = pass_->places[place.root].root;
      place.offset = pass_->places[place.root].offset;
    }
  }
}

// Call structures, with room for addresses.
void Preparer::bind_graph(PreparedGraph& graph) {
  for (PreparedStep& step : graph.steps) {
    if (step.workspace_offset > 0) step.workspace_offset = workspace_offsets_[step.workspace_offset - 1];
    for (auto& body : step.bodies) {
      if (body) bind_graph(*body);
    }
    for (const ValueId id : step.output_values) {
      step.outputs.push_back(id == kNone ? TensorView{} : TensorView{nullptr, pass_->places[id].dtype, pass_->places[id].shape});
    }
    if (!step.kernel) continue;
    const std::size_t arity = step.input_values.size();
    step.call_inputs.resize(arity * step.calls);
    for (std::uint32_t c = 0; c < step.calls; ++c) bind_call(step, c, arity);
    step.kernel_calls.resize(step.calls);
    step.launches.resize(step.calls);
    for (std::uint32_t c = 0; c < step.calls; ++c) {
      KernelCall& call = step.kernel_calls[c];
      call.inputs = std::span(step.call_inputs).subspan(c * arity, arity);
      call.outputs = step.outputs;
      call.workspace_bytes = step.workspace_bytes;
      call.pool = &pool_;
      call.slab = c;
      call.slab_count = step.calls;
      step.launches[c] = {step.kernel.get(), &call, &step, nullptr};
      if (step.step->sliced_input != kNone) call.row_begin = static_cast<std::int64_t>(part_of(*step.step, c).row_begin);
    }
  }
}

const plan::Part& Preparer::part_of(const Step& step, std::uint32_t call) const {
  const plan::Weight& weight = plan_.weights[step.weights.front().weight];
  return plan_.parts[weight.first_part + call];
}

void Preparer::bind_call(PreparedStep& step, std::uint32_t call, std::size_t arity) {
  for (std::size_t i = 0; i < arity; ++i) {
    const ValueId id = step.input_values[i];
    if (id == kNone) continue;
    ConstTensorView& view = step.call_inputs[call * arity + i];
    view.dtype = pass_->places[id].dtype;
    view.shape = pass_->places[id].shape;
    if (i == step.step->sliced_input) view.shape[0] = static_cast<std::int64_t>(part_of(*step.step, call).row_count);
  }
}

Status check_input_shapes(const plan::Plan& plan, const std::vector<std::pair<std::string, Shape>>& inputs) {
  const auto& ids = plan.graphs[0].inputs;
  if (inputs.size() != ids.size()) return Status(Code::invalid_argument, "the plan has " + std::to_string(ids.size()) + " inputs, " + std::to_string(inputs.size()) + " shapes were given");
  struct Seen {
    std::string input;
    std::int64_t size;
    int axis;
  };
  std::vector<std::pair<std::string, Seen>> names;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const plan::Value& value = plan.values[ids[i]];
    const Shape& shape = inputs[i].second;
    if (!value.has_rank) continue;
    if (static_cast<std::size_t>(shape.rank()) != value.dims.size()) {
      return Status(Code::invalid_argument, "input '" + value.name + "' has rank " + std::to_string(value.dims.size()) + ", the tensor given has shape " + shape.to_string());
    }
    for (int axis = 0; axis < shape.rank(); ++axis) {
      const plan::Dim& dim = value.dims[static_cast<std::size_t>(axis)];
      const std::int64_t size = shape[axis];
      const std::string where = "dimension " + std::to_string(axis) + " of input '" + value.name + "'";
      if (dim.size >= 0 && size != dim.size) {
        return Status(Code::invalid_argument, where + " is fixed at " + dim_text(dim) + ", the tensor given has " + std::to_string(size));
      }
      // Paddle's exporter names every unknown dimension "?".
      if (dim.size >= 0 || dim.name.empty() || dim.name == "?") continue;
      for (const plan::DimRange& range : plan.dim_ranges) {
        if (range.name == dim.name && (size < range.min || size > range.max)) {
          return Status(Code::invalid_argument, where + " ('" + dim.name + "') is " + std::to_string(size) + ", outside of its declared range " +
                                                    std::to_string(range.min) + " to " + std::to_string(range.max));
        }
      }
      const auto found = std::find_if(names.begin(), names.end(), [&](const auto& n) { return n.first == dim.name; });
      if (found == names.end()) {
        names.push_back({dim.name, {value.name, size, axis}});
      } else if (found->second.size != size) {
        return Status(Code::invalid_argument, "'" + dim.name + "' is " + std::to_string(found->second.size) + " in dimension " + std::to_string(found->second.axis) +
                                                  " of input '" + found->second.input + "' but " + std::to_string(size) + " in " + where);
      }
    }
  }
  return {};
}

Result<std::unique_ptr<PreparedPass>> prepare_pass(std::shared_ptr<const CompiledPlan> compiled, const std::vector<std::pair<std::string, Shape>>& inputs, ThreadPool& pool,
                                                   Device* device) {
  return Preparer(std::move(compiled), pool, device).run(inputs);
}

}  // namespace forebay
