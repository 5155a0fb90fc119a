// Invariants: a value's lifetime covers every step that reads it, on whichever branch; values of the two branches of an If never share time with
// each other's outputs; nothing here depends on the budget.
#include "runtime/prepared_pass.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/dynamic_pass.h"
#include "runtime/memory_plan.h"
#include "runtime/plane_reader.h"
#include "runtime/preparer.h"
#include "runtime/transfer_block.h"

namespace forebay {
namespace {

using plan::kNone;
using plan::ValueId;

// A Transpose that moves nothing but dimensions of one element: the bytes stay as they are.
bool still(const plan::Plan& plan, const Step& step, const Operands& o) {
  const plan::Node& node = *step.node;
  if (node.op != "Transpose" || !node.domain.empty() || step.kind != Step::Kind::kernel || !step.weights.empty()) return false;
  if (dtype_bits(o.inputs[0].dtype) < 8) return false;
  const std::vector<std::int64_t>& dims = o.inputs[0].dims;
  const auto given = NodeView(node, plan).integers("perm");
  std::int64_t last = -1;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const auto axis = static_cast<std::int64_t>(given.empty() ? dims.size() - 1 - i : static_cast<std::size_t>(given[i]));
    if (dims[static_cast<std::size_t>(axis)] == 1) continue;
    if (axis < last) return false;
    last = axis;
  }
  return true;
}

std::string dim_text(const plan::Dim& dim) { return dim.size >= 0 ? std::to_string(dim.size) : dim.name.empty() ? "?" : dim.name; }

}  // namespace

Preparer::Preparer(std::shared_ptr<const CompiledPlan> compiled, ThreadPool& pool, Device* device)
    : compiled_(std::move(compiled)),
      plan_(*compiled_->plan),
      pool_(pool),
      device_(device),
      pass_(std::make_unique<PreparedPass>()),
      replays_(dynamic_cast<ReplayDevice*>(device) != nullptr) {}

Result<std::unique_ptr<PreparedPass>> Preparer::run(const std::vector<std::pair<std::string, Shape>>& inputs,
                                                    std::span<const StateBinding> states) {
  FB_TRY(check_input_shapes(plan_, inputs));
  states_ = states;
  pass_->states.assign(states.size(), StateResult::copied);
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
  if (Status status = prepare_graph(0, pass_->main); !status.ok() || data_dependent_) {
    if (data_dependent_) return prepare_dynamic(compiled_, inputs, pool_, device_, states.size());
    return status;
  }
  for (const ValueId id : plan_.graphs[0].outputs) {
    if (pass_->places[id].dtype == DType::none) return Status(Code::invalid_model, "output '" + plan_.values[id].name + "' is never computed");
    touch(id);
  }
  place_states();
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
  // What a launch reads must not be written over by one that shares it: small values stay some steps longer.
  constexpr std::uint32_t kLonger = 16;
  constexpr std::uint64_t kSmall = 64 << 10;
  lives_[root].first = std::min(lives_[root].first, tick_);
  lives_[root].last = std::max(lives_[root].last, tick_ + (replays_ && lives_[root].bytes <= kSmall ? kLonger : 0));
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

Status Preparer::depends_on_data(const plan::Node& node, std::string message) {
  data_dependent_ = true;
  return NodeView(node, plan_).unsupported(std::move(message));
}

Status Preparer::infer(const Step& step, Operands& o) {
  const plan::Node& node = *step.node;
  FB_TRY(read_operands(plan_, node, pass_->places, o));
  InferContext context(NodeView(node, plan_), o.inputs, o.values, o.outputs);
  FB_TRY(step.spec->infer(context));
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) {
      o.outputs[i] = TypeShape();  // a kernel must not take it for wanted
      continue;
    }
    if (!o.outputs[i].known()) return depends_on_data(node, "the shape of output '" + plan_.values[node.outputs[i]].name + "' depends on data");
    FB_TRY(check_output(plan_, node, o.outputs[i]));
  }
  return {};
}

Status Preparer::prepare_node(const Step& step, PreparedGraph& out) {
  const plan::Node& node = *step.node;
  Operands o;
  FB_TRY(infer(step, o));
  const NodeView view(node, plan_);
  bool known = (step.spec->flags & kOpRandom) == 0 && small_outputs(o);
  if ((step.spec->flags & kOpShapeOnly) == 0) {
    for (std::size_t i = 0; i < node.inputs.size(); ++i) known = known && (node.inputs[i] == kNone || o.values[i] != nullptr);
  }
  if (known) return evaluate(step, o);
  if (step.kind == Step::Kind::view || still(plan_, step, o)) {
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
      return depends_on_data(node, "input " + std::to_string(i) + " ('" + plan_.values[node.inputs[i]].name + "') must follow from shapes and constants, but depends on data");
    }
  }
  return prepare_kernel(step, o, out);
}

// The node's outputs follow from shapes and constants: computed now, once.
Status Preparer::evaluate(const Step& step, Operands& o) {
  const plan::Node& node = *step.node;
  FB_ASSIGN(std::vector<HostTensor> results, evaluate_operands(plan_, step, o, pool_));
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNone) set_host(node.outputs[i], std::move(results[i]));
  }
  return {};
}

Status Preparer::prepare_kernel(const Step& step, Operands& o, PreparedGraph& out) {
  const plan::Node& node = *step.node;
  FB_ASSIGN(PreparedStep prepared, make_kernel_step(*compiled_, step, o, pool_, device_));
  prepared.append_planes = append_planes(step, o);
  prepared.appends = prepared.append_planes == 1;
  if (prepared.kernel) {
    pass_->kernel_ids += prepared.kernel->id();
    pass_->kernel_ids += ';';
  }
  for (const ValueId id : node.inputs) touch(id);
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNone) set_stored(node.outputs[i], o.outputs[i].dtype, o.outputs[i].shape());
  }
  // In between they would cut a recording in two.
  prepared.early = step.kind == Step::Kind::gather_rows && &out == &pass_->main && replays_ &&
                   plan_.values[node.inputs[1]].kind == plan::ValueKind::input;
  if (prepared.early) lives_[node.outputs[0]].first = 0;
  if (prepared.workspace_bytes > 0) {
    workspaces_.push_back({tick_, tick_, prepared.workspace_bytes});
    prepared.workspace_offset = workspaces_.size();  // index + 1 until offsets are known
  }
  out.steps.push_back(std::move(prepared));
  return {};
}

// A Concat that continues a bound state. With nothing outside of the axis the new rows lie behind the old ones; with one axis inside of it
// they do in each plane, where planes have room.
std::int64_t Preparer::append_planes(const Step& step, const Operands& o) const {
  const plan::Node& node = *step.node;
  if (node.op != "Concat" || !node.domain.empty() || !step.weights.empty() || dtype_bits(o.outputs[0].dtype) < 8) return 0;
  for (const StateBinding& state : states_) {
    if (plan_.graphs[0].inputs[state.input] != node.inputs[0] || plan_.graphs[0].outputs[state.output] != node.outputs[0]) continue;
    const auto rank = static_cast<std::int64_t>(o.outputs[0].dims.size());
    std::int64_t axis = NodeView(node, plan_).integer("axis", 1), outer = 1;
    if (axis < 0) axis += rank;
    for (std::int64_t d = 0; d < axis; ++d) outer *= o.outputs[0].dims[static_cast<std::size_t>(d)];
    return outer == 1 || axis == rank - 2 ? outer : 0;
  }
  return 0;
}

// The old value is read by the Concat alone; the new one as keys or values by kernels that take planes apart, and is one output.
bool Preparer::readers_take_planes(const PreparedStep& concat) const {
  const ValueId before = concat.input_values[0], after = concat.output_values[0];
  const auto& outputs = plan_.graphs[0].outputs;
  if (std::count(outputs.begin(), outputs.end(), after) != 1 || std::count(outputs.begin(), outputs.end(), before) != 0) return false;
  for (const plan::Graph& graph : plan_.graphs) {
    if (&graph != plan_.graphs.data() && (std::count(graph.outputs.begin(), graph.outputs.end(), after) + std::count(graph.outputs.begin(), graph.outputs.end(), before)) != 0) return false;
    for (const plan::Node& node : graph.nodes) {
      const bool shape_only = node.op == "Shape" && node.domain.empty();
      for (std::size_t i = 0; i < node.inputs.size(); ++i) {
        if (node.inputs[i] == before && !shape_only && (&node != concat.step->node || i != 0)) return false;
        if (node.inputs[i] == after && !shape_only && (node.op != "Attention" || &graph != plan_.graphs.data())) return false;
      }
    }
  }
  return true;
}

// Gives each plane of the state its declared most rows, if every reader can cope.
bool Preparer::spread(PreparedStep& concat) {
  ValuePlace &before = pass_->places[concat.input_values[0]], &after = pass_->places[concat.output_values[0]];
  const int axis = after.shape.rank() - 2;
  std::int64_t most = 0;
  for (const ValueId id : {concat.input_values[0], concat.output_values[0]}) {
    const plan::Value& value = plan_.values[id];
    if (!value.has_rank || value.dims.size() != static_cast<std::size_t>(after.shape.rank())) continue;
    for (const plan::DimRange& range : plan_.dim_ranges) {
      if (!range.name.empty() && range.name == value.dims[static_cast<std::size_t>(axis)].name) most = std::max(most, range.max);
    }
  }
  const bool written =
      device_ == nullptr || device_->info().arena_host_addressable || dynamic_cast<PlaneAppender*>(concat.kernel.get()) != nullptr;
  if (after.shape[axis] > most || !written || !readers_take_planes(concat)) return false;
  const std::int64_t pitch = most * after.shape[axis + 1];
  const auto tell = [&](std::int64_t elements) {
    bool taken = true;
    for (PreparedStep& step : pass_->main.steps) {
      for (std::size_t i = 0; i < step.input_values.size(); ++i) {
        if (step.input_values[i] != concat.output_values[0]) continue;
        auto* reader = dynamic_cast<PlaneReader*>(step.kernel.get());
        taken = reader != nullptr && reader->set_pitch(i, elements) && taken;
      }
    }
    return taken;
  };
  if (!tell(pitch)) {
    tell(0);
    return false;
  }
  before.pitch = after.pitch = pitch;
  return concat.appends = true;
}

// A state's value is read where it lies, and the next one is made in its other place, unless another output is that value too.
void Preparer::place_states() {
  const plan::Graph& main = plan_.graphs[0];
  for (std::uint32_t s = 0; s < states_.size(); ++s) {
    ValuePlace& place = pass_->places[main.inputs[states_[s].input]];
    place.home = ValuePlace::Home::state_now;
    place.state = s;
  }
  for (std::uint32_t s = 0; s < states_.size(); ++s) {
    ValueId root = main.outputs[states_[s].output];
    while (pass_->places[root].root != root) root = pass_->places[root].root;
    ValuePlace& place = pass_->places[root];
    const bool own = place.stored && place.host == nullptr && plan_.values[root].kind != plan::ValueKind::input;
    if (!own || place.home != ValuePlace::Home::activations) continue;
    bool appended = false;
    for (PreparedStep& step : pass_->main.steps) {
      if (step.append_planes == 0 || step.output_values[0] != main.outputs[states_[s].output] || !(step.appends || spread(step))) continue;
      appended = true;
      auto* const appender = dynamic_cast<PlaneAppender*>(step.kernel.get());
      if (appender == nullptr) continue;
      appender->append_in_place(pass_->places[step.output_values[0]].pitch);
      step.appends = false;  // a launch like any other
    }
    place.home = appended ? ValuePlace::Home::state_now : ValuePlace::Home::state_next;
    place.state = s;
    pass_->states[s] = appended ? StateResult::appended : StateResult::computed;
  }
}

// Small inputs and outputs side by side, in memory of their own. Only where copies are made at all.
void Preparer::pack_ends(std::uint64_t* used) {
  constexpr std::uint64_t kMost = 8 << 20;
  if (device_ == nullptr || device_->info().arena_host_addressable || *used > kMost) return;
  const plan::Graph& main = plan_.graphs[0];
  const auto pack = [&](ValueId id, std::uint64_t limit) {
    while (pass_->places[id].root != kNone && pass_->places[id].root != id) id = pass_->places[id].root;
    ValuePlace& place = pass_->places[id];
    const std::uint64_t bytes = lives_[id].bytes;
    if (!place.stored || place.packed || place.host != nullptr || place.home != ValuePlace::Home::activations) return;
    if (bytes == 0 || bytes >= PageLock::kLeast || *used + bytes > limit) return;
    place.packed = true;
    place.offset = *used;
    *used += align_up(bytes, 64);
  };
  for (const ValueId id : main.inputs) pack(id, kMost);
  pass_->given_bytes = pass_->made_offset = *used;
  for (const ValueId id : main.outputs) pack(id, pass_->made_offset + kMost);
  pass_->made_bytes = *used - pass_->made_offset;
}

void Preparer::place_all() {
  std::uint64_t constants = 0;
  for (std::size_t v = 0; v < upload_.size(); ++v) {
    if (!upload_[v]) continue;
    pass_->uploads.push_back({static_cast<ValueId>(v), constants});
    pass_->places[v].offset = constants;
    constants += align_up(std::max<std::uint64_t>(1, pass_->places[v].host->bytes()), 64);
  }
  pack_ends(&constants);
  std::vector<Lifetime> lifetimes;
  std::vector<ValueId> owners;
  for (std::size_t v = 0; v < lives_.size(); ++v) {
    const ValuePlace& place = pass_->places[v];
    if (!place.stored || place.packed || place.root != v || place.home != ValuePlace::Home::activations) continue;
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
      place.packed = pass_->places[place.root].packed;
      place.home = pass_->places[place.root].home;
      place.state = pass_->places[place.root].state;
    }
  }
}

void Preparer::bind_graph(PreparedGraph& graph) {
  for (PreparedStep& step : graph.steps) {
    if (step.workspace_offset > 0) step.workspace_offset = workspace_offsets_[step.workspace_offset - 1];
    for (auto& body : step.bodies) {
      if (body) bind_graph(*body);
    }
    bind_step(plan_, pass_->places, pool_, step);
  }
}

void PreparedPass::take_rows(PreparedPass& before) {
  for (PreparedStep& step : main.steps) {
    if (step.row_room == 0) continue;
    const auto same = std::find_if(before.main.steps.begin(), before.main.steps.end(),
                                   [&](const PreparedStep& other) { return other.step == step.step; });
    if (same == before.main.steps.end() || same->row_lock == nullptr || same->row_bytes.empty()) continue;
    step.row_lock = std::move(same->row_lock);  // first: it lets go of what it holds of the bytes that go
    step.row_bytes = std::move(same->row_bytes);
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

Result<std::unique_ptr<PreparedPass>> prepare_pass(std::shared_ptr<const CompiledPlan> compiled,
                                                   const std::vector<std::pair<std::string, Shape>>& inputs, ThreadPool& pool,
                                                   std::span<const StateBinding> states, Device* device) {
  return Preparer(std::move(compiled), pool, device).run(inputs, states);
}

}  // namespace forebay
