#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/dynamic_pass.h"
#include "runtime/engine_core.h"
#include "runtime/pass_runner.h"

namespace forebay {
namespace {

using plan::kNone;

std::size_t place_of(const plan::Plan& plan, const std::vector<plan::ValueId>& ids, std::string_view name) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (plan.values[ids[i]].name == name) return i;
  }
  return ids.size();
}

// A node that was fine at build and cannot take these shapes: the caller's inputs do not fit together.
Status blame_shapes(const plan::Plan& plan, Status status, const Result<std::vector<std::pair<std::string, Shape>>>& shapes) {
  const auto open = [&](plan::ValueId id) {
    const auto& dims = plan.values[id].dims;
    return std::any_of(dims.begin(), dims.end(), [](const plan::Dim& dim) { return dim.size < 0; });
  };
  const auto& inputs = plan.graphs[0].inputs;
  if (status.code() != Code::invalid_model || !shapes.ok() || std::none_of(inputs.begin(), inputs.end(), open)) return status;
  std::string given;
  for (const auto& [name, shape] : *shapes) given += (given.empty() ? "" : ", ") + name + " " + shape.to_string();
  Problem problem = status.problems().front();
  problem.message = status.message() + "; the inputs are " + given;
  return Status(Code::invalid_argument, std::move(problem));
}

Status unknown_name(const plan::Plan& plan, const std::vector<plan::ValueId>& ids, std::string_view what, std::string_view name) {
  std::string known;
  for (const plan::ValueId id : ids) known += (known.empty() ? "" : ", ") + plan.values[id].name;
  return Status(Code::invalid_argument, "the plan has no " + std::string(what) + " '" + std::string(name) + "'; it has " + known);
}

}  // namespace

ContextCore::ContextCore(EngineCore& engine)
    : engine_(engine), input_locks_(plan().graphs[0].inputs.size()), output_locks_(plan().graphs[0].outputs.size()) {
  inputs_.resize(plan().graphs[0].inputs.size());
  input_set_.assign(inputs_.size(), false);
  outputs_.resize(plan().graphs[0].outputs.size());
  bound_inputs_.resize(inputs_.size());
  bound_outputs_.resize(outputs_.size());
  debug_values_.assign(plan().values.size(), false);
}

const plan::Plan& ContextCore::plan() const { return engine_.plan(); }
DType ContextCore::input_dtype(std::size_t input) const { return plan().values[plan().graphs[0].inputs[input]].dtype; }

const ContextCore::State* ContextCore::state_of_input(std::size_t input) const {
  for (const State& state : states_) {
    if (state.input == input) return &state;
  }
  return nullptr;
}

std::uint64_t ContextCore::wanted_state_bytes() const {
  std::uint64_t bytes = 0;
  for (const State& state : states_) bytes += state.need.bytes();
  return bytes;
}

std::vector<std::uint64_t> ContextCore::state_offsets(std::uint64_t base) const {
  std::vector<std::uint64_t> offsets;
  for (const State& state : states_) {
    offsets.push_back(base);
    base += state.need.bytes();
  }
  return offsets;
}

Status ContextCore::set_input(std::string_view name, ConstTensorView tensor) {
  const auto& ids = plan().graphs[0].inputs;
  const std::size_t i = place_of(plan(), ids, name);
  if (i == ids.size()) return unknown_name(plan(), ids, "input", name);
  if (tensor.dtype != input_dtype(i)) {
    return Status(Code::invalid_argument, "input '" + std::string(name) + "' is " + std::string(dtype_name(input_dtype(i))) + ", the tensor given is " +
                                              std::string(dtype_name(tensor.dtype)));
  }
  const auto bytes = checked_bytes(tensor.dtype, tensor.shape.dims());
  if (!bytes || (*bytes > 0 && tensor.data == nullptr)) return Status(Code::invalid_argument, "input '" + std::string(name) + "' has no data or an impossible shape");
  const State* bound = state_of_input(i);
  FB_TRY(bound != nullptr ? settle() : wait_inputs());
  bound_inputs_[i] = ConstTensorView();
  HostTensor& to = bound != nullptr ? const_cast<State*>(bound)->seed : inputs_[i];
  if (to.dtype() != tensor.dtype || !(to.shape() == tensor.shape)) {
    input_locks_[i].release();
    to = HostTensor(tensor.dtype, tensor.shape);
  }
  if (*bytes > 0) std::memcpy(to.data(), tensor.data, *bytes);
  input_set_[i] = true;
  if (bound != nullptr) FB_TRY(fetch_state(*const_cast<State*>(bound)));
  if (bound != nullptr) const_cast<State*>(bound)->filled = false;  // starts anew from this value
  return {};
}

// A named dimension takes the size that a set input gives it, a fixed one its size, any other starts empty.
Shape ContextCore::first_state_shape(const State& state) const {
  if (state.seed.dtype() != DType::none) return state.seed.shape();
  const plan::Value& value = plan().values[plan().graphs[0].inputs[state.input]];
  Shape shape;
  for (const plan::Dim& dim : value.dims) {
    std::int64_t size = std::max<std::int64_t>(0, dim.size);
    for (std::size_t i = 0; dim.size < 0 && !dim.name.empty() && i < inputs_.size(); ++i) {
      const plan::Value& other = plan().values[plan().graphs[0].inputs[i]];
      for (std::size_t axis = 0; call_->inputs[i].present() && axis < other.dims.size(); ++axis) {
        if (other.dims[axis].name == dim.name) size = call_->inputs[i].shape[static_cast<int>(axis)];
      }
    }
    shape.push_back(size);
  }
  return shape;
}

Result<std::vector<std::pair<std::string, Shape>>> ContextCore::shapes_now() const {
  std::vector<std::pair<std::string, Shape>> shapes;
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const std::string& name = plan().values[plan().graphs[0].inputs[i]].name;
    const State* state = state_of_input(i);
    shapes.emplace_back(name, state == nullptr ? call_->inputs[i].shape : state->filled ? state->shape : first_state_shape(*state));
  }
  return shapes;
}

Status ContextCore::prepare() {
  FB_ASSIGN(auto shapes, shapes_now());
  if (prepared_ && prepared_->input_shapes == shapes) return {};
  const bool asked_for = !foreseen_;  // prepared_
  std::unique_ptr<PreparedPass> prepared = std::exchange(next_, std::move(after_));
  foreseen_ = prepared != nullptr && prepared->input_shapes == shapes;
  if (foreseen_) {
    usual_.resize(shapes.size());
    for (std::size_t i = 0; i < shapes.size(); ++i) usual_[i] = shapes[i].second;
  } else {
    for (std::unique_ptr<PreparedPass>* wrong : {&prepared, &next_}) {
      if (*wrong != nullptr) spent_.push_back(std::move(*wrong));
    }
    prepared = take_kept(shapes);
    if (prepared == nullptr) {
      FB_ASSIGN(prepared, prepare_pass(engine_.share_compiled(), shapes, engine_.pool(), bindings(), &engine_.device()));
    }
  }
  // Passes whose needs are not known ahead keep what earlier ones took.
  if (prepared->dynamic && !prepared->dynamic->bounded()) prepared->activation_bytes = std::max(prepared->activation_bytes, activation_bytes_);
  Status reserved = engine_.require(*this, prepared->activation_bytes, state_needs(*prepared));
  if (!reserved.ok() && prepared->dynamic && !prepared->dynamic->declared()) {
    // Bounds that follow from shapes may be far above what a pass takes: it is refused when it really does not fit.
    prepared->activation_bytes = 0;
    reserved = engine_.require(*this, 0, state_needs(*prepared));
  }
  FB_TRY(std::move(reserved));
  FB_TRY(ends_.reserve(engine_.device(), prepared->given_bytes + prepared->made_bytes));
  if (!prepared->dynamic) shape_outputs(*prepared);
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (!bound_inputs_[i].present()) input_locks_[i].hold(engine_.device(), {inputs_[i].data(), static_cast<std::size_t>(inputs_[i].bytes())});
  }
  FB_TRY(lay_out_states_again(*prepared));
  if (prepared_ != nullptr) prepared->take_rows(*prepared_);
  std::swap(prepared_, prepared);
  if (prepared != nullptr && asked_for && !prepared->dynamic) {
    keep(std::move(prepared));
  } else {
    worn_ = std::move(prepared);  // to be taken apart while the device works
  }
  return {};
}

void ContextCore::keep(std::unique_ptr<PreparedPass> pass) {
  kept_.insert(kept_.begin(), std::move(pass));
  if (kept_.size() > kKept) spent_.push_back(std::move(kept_.back()));
  kept_.resize(std::min(kept_.size(), kKept));
}

// A pass of these shapes from before: the same prompt lengths, or batches, come again.
std::unique_ptr<PreparedPass> ContextCore::take_kept(const std::vector<std::pair<std::string, Shape>>& shapes) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const auto& pass) { return pass->input_shapes == shapes; });
  if (found == kept_.end()) return nullptr;
  std::unique_ptr<PreparedPass> taken = std::move(*found);
  kept_.erase(found);
  return taken;
}

// A state whose planes lie otherwise than these shapes want starts anew from what it holds.
Status ContextCore::lay_out_states_again(const PreparedPass& prepared) {
  for (State& state : states_) {
    if (!state.filled || state.pitch == prepared.places[plan().graphs[0].inputs[state.input]].pitch) continue;
    FB_TRY(fetch_state(state));
    state.seed = outputs_[state.output].clone();
    state.filled = false;
  }
  return {};
}

// States that grow change the shapes of every pass. Other inputs are taken to be of the shapes they have, or behind a prompt of those
// that they had in the last pass that was foreseen, a token: a guess that fails is thrown away.
std::unique_ptr<PreparedPass> ContextCore::prepare_after(const PreparedPass& pass, std::span<const Shape> usual) {
  if (pass.dynamic) return nullptr;
  std::vector<std::pair<std::string, Shape>> shapes = pass.input_shapes;
  for (std::size_t i = 0; i < usual.size(); ++i) shapes[i].second = usual[i];
  bool grows = false;
  for (const State& state : states_) {
    const Shape& next = pass.places[plan().graphs[0].outputs[state.output]].shape;
    grows = grows || !(pass.input_shapes[state.input].second == next);
    shapes[state.input].second = next;
  }
  if (!grows) return nullptr;
  auto prepared = prepare_pass(engine_.share_compiled(), shapes, engine_.pool(), bindings(), &engine_.device());
  return prepared.ok() ? std::move(prepared).value() : nullptr;
}

std::vector<StateBinding> ContextCore::bindings() const {
  std::vector<StateBinding> bindings;
  for (const State& state : states_) bindings.push_back({state.output, state.input});
  return bindings;
}

bool ContextCore::is_state_output(std::size_t output) const {
  return std::any_of(states_.begin(), states_.end(), [&](const State& state) { return state.output == output; });
}

std::vector<EngineCore::StateNeed> ContextCore::state_needs(const PreparedPass& prepared) const {
  const std::vector<StateBinding> bound = bindings();
  std::vector<EngineCore::StateNeed> needs;
  for (std::size_t s = 0; s < states_.size(); ++s) needs.push_back(state_room(plan(), prepared, bound, s));
  return needs;
}

// States are not among them: they stay on the device.
void ContextCore::shape_outputs(const PreparedPass& prepared) {
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const ValuePlace& place = prepared.places[plan().graphs[0].outputs[i]];
    if (is_state_output(i) || (outputs_[i].dtype() == place.dtype && outputs_[i].shape() == place.shape)) continue;
    output_locks_[i].release();
    outputs_[i] = HostTensor(place.dtype, place.shape);
    if (bound_outputs_[i].data == nullptr) output_locks_[i].hold(engine_.device(), {outputs_[i].data(), static_cast<std::size_t>(outputs_[i].bytes())});
  }
}

Status ContextCore::fit_results() {
  const std::vector<EngineCore::StateNeed> needs = state_needs(*prepared_);
  for (std::size_t i = 0; i < states_.size(); ++i) {
    if (needs[i].capacity <= states_[i].need.capacity) continue;
    const std::string& name = plan().values[plan().graphs[0].inputs[states_[i].input]].name;
    return Status(Code::resource_exhausted, "state '" + name + "' needs " + std::to_string(needs[i].capacity) + " bytes, " +
                                                std::to_string(states_[i].need.capacity) + " are reserved");
  }
  shape_outputs(*prepared_);
  return {};
}

Result<bool> ContextCore::reserve_more() {
  const std::uint64_t outgrown = prepared_->dynamic->outgrown();
  const std::vector<EngineCore::StateNeed> needs = state_needs(*prepared_);
  bool more = outgrown > 0;
  for (std::size_t i = 0; i < states_.size(); ++i) more = more || needs[i].capacity > states_[i].need.capacity;
  if (!more) return false;
  // What comes after is not known yet: some more at once, for fewer runs; exactly what is known where that is refused.
  const std::uint64_t bytes = std::max(prepared_->activation_bytes, outgrown);
  prepared_->activation_bytes = bytes + bytes / 2;
  if (engine_.require(*this, prepared_->activation_bytes, needs).ok()) return true;
  prepared_->activation_bytes = bytes;
  FB_TRY(engine_.require(*this, bytes, needs));
  return true;
}

Status ContextCore::execute() {
  FB_TRY(settle());
  FB_ASSIGN(Call call, next_call());
  return run_call(call);
}

Status ContextCore::run_call(Call& call) {
  call_ = &call;
  Status ready = prepare();
  if (!ready.ok()) return blame_shapes(plan(), std::move(ready), shapes_now());
  while (true) {
    Status status = run_pass();
    if (status.ok() || !prepared_->dynamic || status.code() != Code::resource_exhausted) return status;
    FB_ASSIGN(const bool more, reserve_more());
    if (!more) return status;
  }
}

Status ContextCore::run_pass() {
  const auto start = std::chrono::steady_clock::now();
  FB_ASSIGN(EngineCore::Slot* const taken, engine_.take_slot());
  EngineCore::Slot& slot = *taken;
  auto begun = engine_.source().begin_pass();
  if (!begun.ok()) {
    engine_.give_slot(slot);
    return std::move(begun).status();
  }
  std::unique_ptr<PassLease> lease = std::move(begun).value();
  const auto begin_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
  Status status = start_clock();
  PassRunner runner(engine_, *this, slot, *lease, *slot.queue);
  if (status.ok()) status = runner.run();
  spent_.clear();
  if (!status.ok()) {
    // run() may have stopped before its own wait.
    const Status ignored = slot.queue->synchronize();
    (void)ignored.ok();
  }
  slot.queue->clear_error();
  lease->end(!status.ok());
  const StreamCounters came = status.ok() ? engine_.take_counters() : StreamCounters();
  engine_.give_slot(slot);
  if (!status.ok()) return status;
  for (State& state : states_) state.fetched = false;
  profile_.ops.clear();
  profile_.spans.clear();
  profile_.milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  profile_.disk_bytes = came.disk_bytes;
  profile_.link_bytes = came.link_bytes;
  profile_.gathered_bytes = came.gathered_bytes;
  profile_.stalls = came.stalls;
  profile_.host_waits = runner.host_waits();
  profile_.replayed_launches = runner.replayed_launches();
  return profiling_ ? read_clock(begin_ns) : Status();
}

// Layouts change under the layout mutex only, and nobody else uses the queue of a slot that is taken.
Status ContextCore::fetch_state(State& state) {
  if (state.fetched || !state.filled) return {};
  HostTensor& to = outputs_[state.output];
  const DType dtype = input_dtype(state.input);
  if (to.dtype() != dtype || !(to.shape() == state.shape)) to = HostTensor(dtype, state.shape);
  FB_ASSIGN(EngineCore::Slot* const taken, engine_.take_slot());
  EngineCore::Slot& slot = *taken;
  Status status;
  {
    const std::lock_guard lock(engine_.layout_mutex_);
    const std::int64_t planes = state.pitch > 0 ? state.shape.elements(0, state.shape.rank() - 2) : 1;
    const std::uint64_t each = planes > 0 ? to.bytes() / static_cast<std::uint64_t>(planes) : 0;
    const std::uint64_t step = dtype_bytes(dtype, state.pitch).value_or(0);
    for (std::uint64_t p = 0; each > 0 && p < static_cast<std::uint64_t>(planes); ++p) {
      slot.queue->copy(to.data() + p * each, engine_.arena().base() + state.offset + p * step, each);
    }
    status = slot.queue->synchronize();
  }
  engine_.give_slot(slot);
  state.fetched = status.ok();
  return status;
}

Result<const HostTensor*> ContextCore::output(std::string_view name) {
  const auto& ids = plan().graphs[0].outputs;
  const std::size_t i = place_of(plan(), ids, name);
  if (i == ids.size()) return unknown_name(plan(), ids, "output", name);
  FB_TRY(settle());
  if (bound_outputs_[i].data != nullptr) return Status(Code::failed_precondition, "output '" + std::string(name) + "' is in the caller's memory");
  for (State& state : states_) {
    if (state.output == i) FB_TRY(fetch_state(state));
  }
  if (outputs_[i].dtype() == DType::none)
    return Status(Code::failed_precondition, "no pass has run in this context yet, or since its states were reset");
  return &outputs_[i];
}

Status ContextCore::bind_state(std::string_view output, std::string_view input) {
  FB_TRY(settle());
  const plan::Graph& main = plan().graphs[0];
  const std::size_t out = place_of(plan(), main.outputs, output), in = place_of(plan(), main.inputs, input);
  if (out == main.outputs.size()) return unknown_name(plan(), main.outputs, "output", output);
  if (in == main.inputs.size()) return unknown_name(plan(), main.inputs, "input", input);
  if (plan().values[main.outputs[out]].dtype != input_dtype(in)) {
    return Status(Code::invalid_argument, "output '" + std::string(output) + "' and input '" + std::string(input) + "' have different dtypes");
  }
  if (state_of_input(in) != nullptr) return Status(Code::invalid_argument, "input '" + std::string(input) + "' is bound already");
  if (bound_inputs_[in].present() || bound_outputs_[out].data != nullptr)
    return Status(Code::invalid_argument, "a state stays in the engine's memory: '" + std::string(input) + "' or '" + std::string(output) + "' is in the caller's");
  const std::lock_guard lock(engine_.layout_mutex_);
  State state;
  state.output = static_cast<std::uint32_t>(out);
  state.input = static_cast<std::uint32_t>(in);
  input_locks_[in].release();
  output_locks_[out].release();
  if (input_set_[in]) state.seed = std::move(inputs_[in]);
  states_.push_back(std::move(state));
  prepared_.reset();
  next_.reset();
  after_.reset();
  worn_.reset();
  spent_.clear();
  kept_.clear();
  usual_.clear();
  return {};
}

// What the states held is not fetched first: behind 8,000 tokens of an 8B decoder that is a gigabyte.
Status ContextCore::reset_state() {
  FB_TRY(settle());
  for (State& state : states_) {
    state.filled = false;
    state.seed = HostTensor();
    outputs_[state.output] = HostTensor();
  }
  return {};
}

Status ContextCore::set_debug(DebugCallback callback, const std::vector<std::string>& names) {
  FB_TRY(settle());
  std::vector<bool> wanted(plan().values.size(), names.empty());
  for (const std::string& name : names) {
    bool found = false;
    for (std::size_t v = 0; v < plan().values.size(); ++v) {
      if (plan().values[v].name == name && plan().values[v].kind != plan::ValueKind::weight) wanted[v] = found = true;
    }
    if (!found) {
      return Status(Code::invalid_argument, "the plan computes no tensor '" + name + "' (fused or folded away, or never there); `forebay build --no-fuse` keeps more");
    }
  }
  debug_values_ = std::move(wanted);
  debug_ = std::move(callback);
  return {};
}

}  // namespace forebay
