#include "runtime/pass_runner.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "runtime/dynamic_pass.h"
#include "runtime/merged_kernel.h"

namespace forebay {
namespace {

using plan::kNone;
using plan::ValueId;

std::uint64_t bytes_of(const ValuePlace& place) { return dtype_bytes(place.dtype, place.shape.elements()).value_or(0); }

}  // namespace

PassRunner::PassRunner(EngineCore& engine, ContextCore& context, Slot& slot, PassLease& lease, Queue& queue)
    : engine_(engine), context_(context), slot_(slot), lease_(lease), queue_(queue), pass_(*context.prepared_) {
  const ArenaLayout& layout = engine.layout_;
  const std::uint64_t per_pass = layout.activation_bytes / engine.slots_.size();
  capacity_ = per_pass;
  activations_ = engine.arena().base() + layout.activation_offset + per_pass * slot.index;
}

std::byte* PassRunner::address(ValueId value) const {
  const ValuePlace& place = pass_.places[value];
  if (place.home == ValuePlace::Home::activations) return activations_ + place.offset;
  const ContextCore::State& state = context_.states_[place.state];
  return engine_.arena().base() + (place.home == ValuePlace::Home::state_now ? state.offset : state.spare);
}

Status PassRunner::run() {
  DynamicPass* dynamic = pass_.dynamic.get();
  if (dynamic != nullptr) FB_TRY(dynamic->begin(capacity_));
  ContextCore::Call* const call = context_.call_;
  if (call->tie != nullptr) queue_.launch([](void* c) { return static_cast<ContextCore::Call*>(c)->tie->begin(static_cast<ContextCore::Call*>(c)->ticket); }, call);
  FB_TRY(upload());
  // A pass of which shapes are not known ahead may run again, from its inputs on.
  if (dynamic == nullptr) tell_consumed();
  Status status = dynamic != nullptr ? dynamic->run(*this) : run_graph(pass_.main);
  if (status.ok() && dynamic != nullptr) status = context_.fit_results();
  if (status.ok()) status = download();
  if (status.ok() && dynamic != nullptr) tell_consumed();
  if (status.ok() && call->tie != nullptr)
    queue_.launch([](void* c) { return static_cast<ContextCore::Call*>(c)->tie->finish(static_cast<ContextCore::Call*>(c)->ticket); }, call);
  // Also after a failure: nothing of this pass may still run when its lease ends.
  Status finished = queue_.synchronize();
  if (status.ok()) status = std::move(finished);
  if (!status.ok()) return status;
  for (std::size_t s = 0; s < context_.states_.size(); ++s) {
    ContextCore::State& state = context_.states_[s];
    state.shape = pass_.places[engine_.plan().graphs[0].outputs[state.output]].shape;
    state.filled = true;
    if (pass_.states[s] != StateResult::appended) std::swap(state.offset, state.spare);
  }
  return {};
}

void PassRunner::tell_consumed() {
  ContextCore::Call* const call = context_.call_;
  if (call->tie != nullptr) queue_.launch([](void* c) { return static_cast<ContextCore::Call*>(c)->tie->consume(static_cast<ContextCore::Call*>(c)->ticket); }, call);
  if (call->number != 0) queue_.signal({context_.consumed_.get(), call->number});
}

Status PassRunner::record(const std::function<Status()>& inputs_read) {
  FB_TRY(upload());
  FB_TRY(inputs_read());
  FB_TRY(run_graph(pass_.main));
  return download();
}

Status PassRunner::upload() {
  const plan::Graph& main = engine_.plan().graphs[0];
  for (const PreparedPass::Upload& u : pass_.uploads) {
    const HostTensor& tensor = *pass_.places[u.value].host;
    if (tensor.bytes() > 0) queue_.copy(activations_ + u.offset, tensor.data(), tensor.bytes());
  }
  for (std::size_t i = 0; i < main.inputs.size(); ++i) {
    const ValuePlace& place = pass_.places[main.inputs[i]];
    const std::uint64_t bytes = bytes_of(place);
    if (bytes == 0) continue;
    const ContextCore::State* state = context_.state_of_input(i);
    if (state != nullptr && state->filled) {
      if (place.home == ValuePlace::Home::activations) queue_.copy(address(main.inputs[i]), engine_.arena().base() + state->offset, bytes);
    } else if (state != nullptr && state->seed.dtype() != DType::none && state->seed.bytes() == bytes) {
      queue_.copy(address(main.inputs[i]), state->seed.data(), bytes);
    } else if (state != nullptr) {
      queue_.zero(address(main.inputs[i]), bytes);
    } else {
      queue_.copy(address(main.inputs[i]), context_.call_->inputs[i].data, bytes);
    }
    debug(main.inputs[i]);
  }
  return {};
}

const HostTensor* PassRunner::given_input(ValueId value) const {
  const auto& inputs = engine_.plan().graphs[0].inputs;
  const auto at = std::find(inputs.begin(), inputs.end(), value);
  const auto i = static_cast<std::size_t>(at - inputs.begin());
  if (at == inputs.end() || context_.state_of_input(i) != nullptr || context_.call_->inputs[i].data != context_.inputs_[i].data()) return nullptr;
  return &context_.inputs_[i];
}

Status PassRunner::run_graph(PreparedGraph& graph) {
  segment_ = kNone;
  for (PreparedStep& step : graph.steps) FB_TRY(run_step(step));
  return {};
}

Status PassRunner::run_step(PreparedStep& step) {
  switch (step.step->kind) {
    case Step::Kind::control: return step.step->node->op == "If" ? run_if(step) : run_iterated(step);
    case Step::Kind::load_weight: return run_load(step);
    case Step::Kind::gather_rows: return run_gather_step(step);
    case Step::Kind::view: return {};
    case Step::Kind::kernel: return run_kernel(step);
  }
  return {};
}

Status PassRunner::enter_segment(const Step& step) {
  if (step.segment == segment_) return {};
  segment_ = step.segment;
  return lease_.begin_segment(segment_);
}

// The first input lies where the output does.
Status PassRunner::run_append(PreparedStep& step) {
  std::byte* to = address(step.output_values[0]) + bytes_of(pass_.places[step.input_values[0]]);
  for (std::size_t i = 1; i < step.input_values.size(); ++i) {
    const std::uint64_t bytes = bytes_of(pass_.places[step.input_values[i]]);
    if (bytes > 0) queue_.copy(to, address(step.input_values[i]), bytes);
    to += bytes;
  }
  debug(step.output_values[0]);
  return {};
}

Status PassRunner::run_kernel(PreparedStep& step) {
  if (step.appends) return run_append(step);
  const std::size_t arity = step.input_values.size();
  for (std::size_t o = 0; o < step.outputs.size(); ++o) {
    if (step.output_values[o] != kNone) step.outputs[o].data = address(step.output_values[o]);
  }
  if (step.step->substep_count > 0) FB_TRY(enter_segment(*step.step));
  std::array<ChunkAddress, kMaxUses> chunks;
  std::uint32_t first = 0;  // calls from here to c wait for nothing and are still to be launched
  for (std::uint32_t c = 0; c < step.calls; ++c) {
    KernelCall& call = step.kernel_calls[c];
    call.workspace = step.workspace_bytes > 0 ? activations_ + step.workspace_offset : nullptr;
    for (std::size_t i = 0; i < arity; ++i) {
      const ValueId id = step.input_values[i];
      if (id != kNone) step.call_inputs[c * arity + i].data = address(id);
    }
    bool waits = false;
    if (step.step->substep_count > 0) {
      const PassProgram::Substep& substep = engine_.compiled().program.substeps[step.step->first_substep + c];
      if (substep.use_count > kMaxUses) return Status(Code::unsupported, "node '" + step.name + "' takes more than 64 weights");
      FB_TRY(lease_.acquire(step.step->first_substep + c, std::span(chunks.data(), substep.use_count)));
      for (std::uint32_t u = 0; u < substep.use_count; ++u) waits = waits || chunks[u].ready.timeline != nullptr;
      // What is resident does not wait for what comes behind it.
      if (waits && first < c) launch(step, std::exchange(first, c), c - first);
      for (std::uint32_t u = 0; u < substep.use_count; ++u) queue_.wait(chunks[u].ready);
      for (const WeightOperand& operand : step.step->weights) {
        const plan::Weight& weight = engine_.plan().weights[operand.weight];
        const plan::Part& part = engine_.plan().parts[weight.first_part + (weight.part_count > 1 ? c : 0)];
        step.call_inputs[c * arity + operand.input].data = chunks[operand.use].data + part.offset_in_chunk;
      }
    }
    if (step.merged != nullptr && !waits && c + 1 < step.calls && c + 1 - first < kMostMerged) continue;
    launch(step, first, c + 1 - first);
    first = c + 1;
  }
  for (const ValueId id : step.output_values) debug(id);
  return {};
}

void PassRunner::launch(PreparedStep& step, std::uint32_t first, std::uint32_t count) {
  Launch& launch = step.launches[first];
  launch.clock = &context_.clock_;
  launch.merged = count;
  queue_.launch(&PassRunner::run_launch, &launch);
  if (step.step->substep_count == 0) return;
  const TimelinePoint done{slot_.timeline.get(), ++slot_.value};
  queue_.signal(done);
  for (std::uint32_t c = first; c < first + count; ++c) lease_.release(step.step->first_substep + c, done);
}

void PassRunner::release(const Step& step, std::uint32_t call) {
  const TimelinePoint done{slot_.timeline.get(), ++slot_.value};
  queue_.signal(done);
  lease_.release(step.first_substep + call, done);
}

Status PassRunner::run_gather_step(PreparedStep& step) {
  for (std::size_t o = 0; o < step.outputs.size(); ++o) {
    if (step.output_values[o] != kNone) step.outputs[o].data = address(step.output_values[o]);
  }
  gather_calls_.push_back({this, &step});
  queue_.launch(&PassRunner::run_gather, &gather_calls_.back());
  for (const ValueId id : step.output_values) debug(id);
  return {};
}

// On the queue: the indices are computed by then.
Status PassRunner::run_gather(void* argument) {
  const GatherCall& call = *static_cast<GatherCall*>(argument);
  PassRunner& runner = *call.runner;
  PreparedStep& step = *call.step;
  const plan::Weight& weight = runner.engine_.plan().weights[step.step->weights.front().weight];
  const ValuePlace& indices = runner.pass_.places[step.input_values[1]];
  const std::byte* data = runner.address(step.input_values[1]);
  Device& device = runner.engine_.device();
  const bool staged = !device.info().arena_host_addressable;
  if (staged) {
    FB_TRY(device.copy_now(step.row_bytes.data(), data, bytes_of(indices)));
    data = step.row_bytes.data();
  }
  const std::int64_t rows = weight.shape[0];
  for (std::size_t i = 0; i < step.rows.size(); ++i) {
    std::int64_t row = 0;
    if (indices.dtype == DType::i64) {
      std::memcpy(&row, data + i * 8, 8);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, data + i * 4, 4);
      row = narrow;
    }
    if (row < -rows || row >= rows) {
      return Status(Code::invalid_argument, "node '" + step.name + "' (Gather): index " + std::to_string(row) + " at place " + std::to_string(i) +
                                                " is outside of [" + std::to_string(-rows) + ", " + std::to_string(rows) + ")");
    }
    step.rows[i] = row < 0 ? row + rows : row;
  }
  std::byte* const to = staged ? step.row_bytes.data() : step.outputs[0].data;
  Status status = runner.lease_.gather_rows(step.step->weights.front().weight, step.rows, to);
  if (status.ok() && staged) status = device.copy_now(step.outputs[0].data, to, bytes_of(runner.pass_.places[step.output_values[0]]));
  return status.ok() ? Status() : std::move(status).with_context("gathering rows for node '" + step.name + "'");
}

Status PassRunner::run_load(PreparedStep& step) {
  FB_TRY(enter_segment(*step.step));
  std::byte* to = address(step.output_values[0]);
  const plan::Weight& weight = engine_.plan().weights[step.step->weights.front().weight];
  for (std::uint32_t c = 0; c < step.calls; ++c) {
    std::array<ChunkAddress, 1> chunk;
    FB_TRY(lease_.acquire(step.step->first_substep + c, chunk));
    const plan::Part& part = engine_.plan().parts[weight.first_part + c];
    queue_.wait(chunk[0].ready);
    if (part.bytes > 0) queue_.copy(to + part.offset_in_weight, chunk[0].data + part.offset_in_chunk, part.bytes);
    release(*step.step, c);
  }
  debug(step.output_values[0]);
  return {};
}

void PassRunner::debug(ValueId value) {
  if (value == kNone || !context_.debug_ || !context_.debug_values_[value]) return;
  debug_calls_.push_back({this, value, iteration_});
  queue_.launch(&PassRunner::run_debug, &debug_calls_.back());
}

Status PassRunner::run_debug(void* argument) {
  const DebugCall& call = *static_cast<DebugCall*>(argument);
  PassRunner& runner = *call.runner;
  const ValuePlace& place = runner.pass_.places[call.value];
  DebugTensor tensor;
  tensor.name = runner.engine_.plan().values[call.value].name;
  HostTensor copied;
  const std::byte* data = runner.address(call.value);
  if (Device& device = runner.engine_.device(); !device.info().arena_host_addressable) {
    copied = HostTensor(place.dtype, place.shape);
    FB_TRY(device.copy_now(copied.data(), data, copied.bytes()));
    data = copied.data();
  }
  tensor.tensor = ConstTensorView(data, place.dtype, place.shape);
  tensor.iteration = call.iteration;
  runner.context_.debug_(tensor);
  return {};
}

// States stay on the device: what they hold is fetched when it is asked for.
Status PassRunner::download() {
  const plan::Graph& main = engine_.plan().graphs[0];
  for (std::size_t i = 0; i < main.outputs.size(); ++i) {
    const std::uint64_t bytes = bytes_of(pass_.places[main.outputs[i]]);
    if (bytes == 0 || context_.is_state_output(i)) continue;
    const TensorView& bound = context_.call_->outputs[i];
    if (bound.data != nullptr && !(bound.shape == pass_.places[main.outputs[i]].shape)) {
      return Status(Code::invalid_argument, "output '" + engine_.plan().values[main.outputs[i]].name + "' is " + pass_.places[main.outputs[i]].shape.to_string() +
                                                ", the caller's memory is given as " + bound.shape.to_string());
    }
    queue_.copy(bound.data != nullptr ? bound.data : context_.outputs_[i].data(), address(main.outputs[i]), bytes);
  }
  for (std::size_t s = 0; s < context_.states_.size(); ++s) {
    const ContextCore::State& state = context_.states_[s];
    const std::uint64_t bytes = bytes_of(pass_.places[main.outputs[state.output]]);
    if (pass_.states[s] != StateResult::copied || bytes == 0) continue;
    queue_.copy(engine_.arena().base() + state.spare, address(main.outputs[state.output]), bytes);
  }
  return {};
}

}  // namespace forebay
