#include "runtime/pass_runner.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "runtime/dynamic_pass.h"
#include "runtime/merged_kernel.h"
#include "runtime/row_table.h"

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
  replay_ = dynamic_cast<ReplayDevice*>(&engine.device());
}

PassRunner::PassRunner(const PassRunner& now, PreparedPass& next, PreparedPass* worn)
    : engine_(now.engine_),
      context_(now.context_),
      slot_(now.slot_),
      lease_(now.lease_),
      queue_(now.queue_),
      pass_(next),
      like_(&now.pass_),
      worn_(worn),
      activations_(now.activations_),
      capacity_(now.capacity_),
      replay_(now.replay_) {}

// Only recordings are given to the queue. What turns out otherwise runs plainly: a stretch knows the addresses it was recorded with.
void PassRunner::rehearse(PreparedPass& next, PreparedPass* worn) {
  const bool watched = context_.debug_ || context_.clock_.on || context_.clock_.sync;
  if (watched || next.dynamic || next.main.steps.size() != pass_.main.steps.size()) return;
  PassRunner ahead(*this, next, worn);
  static_cast<void>(ahead.run_graph(next.main).ok());
}

std::byte* PassRunner::address(ValueId value) const {
  const ValuePlace& place = pass_.places[value];
  if (place.home == ValuePlace::Home::activations) return activations_ + place.offset;
  const ContextCore::State& state = context_.states_[place.state];
  const bool turned = like_ != nullptr && like_->states[place.state] != StateResult::appended;  // when the pass that runs has ended
  return engine_.arena().base() + ((place.home == ValuePlace::Home::state_now) != turned ? state.offset : state.spare);
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
  if (status.ok() && call->tie != nullptr) queue_.launch(&PassRunner::finish, this);
  if (status.ok()) prepare_next();
  // Also after a failure: nothing of this pass may still run when its lease ends.
  Status finished = queue_.synchronize();
  if (status.ok()) status = std::move(finished);
  if (!status.ok()) return status;
  unpack_outputs();
  for (std::size_t s = 0; s < context_.states_.size(); ++s) {
    ContextCore::State& state = context_.states_[s];
    state.shape = pass_.places[engine_.plan().graphs[0].outputs[state.output]].shape;
    state.pitch = pass_.places[engine_.plan().graphs[0].outputs[state.output]].pitch;
    state.filled = true;
    if (pass_.states[s] != StateResult::appended) std::swap(state.offset, state.spare);
  }
  return {};
}

// While the device works: the next pass is prepared. Where that was right the last time, and nothing streams, the next one is recorded by
// the queue's worker while the one after it is prepared: one after the other takes longer than a pass.
void PassRunner::prepare_next() {
  const std::unique_ptr<PreparedPass> worn = std::move(context_.worn_);
  const auto spent = std::exchange(context_.spent_, {});
  if (replay_ == nullptr) return;  // the CPU device has its hands full
  if (context_.next_ == nullptr)
    context_.next_ = context_.prepare_after(pass_, context_.foreseen_ ? std::span<const Shape>() : context_.usual_);
  if (context_.next_ == nullptr || !collects_ || !context_.foreseen_ || !lease_.shared()) return;
  rehearse(*context_.next_, worn.get());
  context_.after_ = context_.prepare_after(*context_.next_);
}

void PassRunner::tell_consumed() {
  ContextCore::Call* const call = context_.call_;
  if (call->tie != nullptr) queue_.launch([](void* c) { return static_cast<ContextCore::Call*>(c)->tie->consume(static_cast<ContextCore::Call*>(c)->ticket); }, call);
  if (call->number != 0) queue_.signal({context_.consumed_.get(), call->number});
}

// The caller's stream goes on. It waited for this pass all the time, so no recording could be made.
Status PassRunner::finish(void* runner) {
  const PassRunner& self = *static_cast<PassRunner*>(runner);
  const ContextCore::Call& call = *self.context_.call_;
  const auto first = self.pass_.stretches.begin(), last = first + static_cast<std::ptrdiff_t>(self.stretches_);
  std::function<void()> behind;
  if (std::any_of(first, last, [](const Stretch& stretch) { return stretch.wants_recording(); }))
    behind = [&] { std::for_each(first, last, [](Stretch& stretch) { stretch.record_behind(); }); };
  return call.tie->finish(call.ticket, behind);
}

std::uint64_t PassRunner::replayed_launches() const {
  std::uint64_t launches = 0;
  for (std::size_t i = 0; i < stretches_; ++i) launches += pass_.stretches[i].replayed();
  return launches;
}

Status PassRunner::record(const std::function<Status()>& inputs_read) {
  replay_ = nullptr;  // the caller's graph holds the launches themselves
  FB_TRY(upload());
  FB_TRY(inputs_read());
  FB_TRY(run_graph(pass_.main));
  return download();
}

Status PassRunner::upload() {
  const plan::Graph& main = engine_.plan().graphs[0];
  std::byte* const block = pass_.given_bytes > 0 ? context_.ends_.data() : nullptr;
  std::uint64_t used = 0;  // of the block: an input that the caller has bound leaves its place empty
  for (const PreparedPass::Upload& u : pass_.uploads) {
    const HostTensor& tensor = *pass_.places[u.value].host;
    if (tensor.bytes() == 0) continue;
    if (block != nullptr) {
      std::memcpy(block + u.offset, tensor.data(), tensor.bytes());
      used = std::max<std::uint64_t>(used, u.offset + tensor.bytes());
    } else {
      queue_.copy(activations_ + u.offset, tensor.data(), tensor.bytes());
    }
  }
  const auto in_block = [&](std::size_t i) {
    return block != nullptr && pass_.places[main.inputs[i]].packed && own_input(i);
  };
  for (std::size_t i = 0; i < main.inputs.size(); ++i) {
    const ValuePlace& place = pass_.places[main.inputs[i]];
    if (!in_block(i)) continue;
    std::memcpy(block + place.offset, context_.inputs_[i].data(), bytes_of(place));
    used = std::max(used, place.offset + bytes_of(place));
  }
  if (used > 0) queue_.copy(activations_, block, used);
  for (std::size_t i = 0; i < main.inputs.size(); ++i) {
    if (!in_block(i)) upload_input(i);
    debug(main.inputs[i]);
  }
  return {};
}

void PassRunner::upload_planes(const ValuePlace& place, std::byte* to, const HostTensor& seed) {
  const std::int64_t planes = place.planes();
  const std::uint64_t each = bytes_of(place) / static_cast<std::uint64_t>(planes), step = dtype_bytes(place.dtype, place.pitch).value_or(0);
  const bool seeded = seed.dtype() != DType::none && seed.bytes() == bytes_of(place);
  for (std::uint64_t p = 0; p < static_cast<std::uint64_t>(planes); ++p, to += step) {
    seeded ? queue_.copy(to, seed.data() + p * each, each) : queue_.zero(to, each);
  }
}

void PassRunner::upload_input(std::size_t i) {
  const plan::ValueId id = engine_.plan().graphs[0].inputs[i];
  const ValuePlace& place = pass_.places[id];
  const std::uint64_t bytes = bytes_of(place);
  if (bytes == 0) return;
  const ContextCore::State* state = context_.state_of_input(i);
  if (place.pitch > 0 && !state->filled) {
    upload_planes(place, address(id), state->seed);
  } else if (state != nullptr && state->filled) {
    if (place.home == ValuePlace::Home::activations) queue_.copy(address(id), engine_.arena().base() + state->offset, bytes);
  } else if (state != nullptr && state->seed.dtype() != DType::none && state->seed.bytes() == bytes) {
    queue_.copy(address(id), state->seed.data(), bytes);
  } else if (state != nullptr) {
    queue_.zero(address(id), bytes);
  } else {
    queue_.copy(address(id), context_.call_->inputs[i].data, bytes);
  }
}

bool PassRunner::own_input(std::size_t i) const {
  return context_.state_of_input(i) == nullptr && context_.call_->inputs[i].data == context_.inputs_[i].data();
}

const HostTensor* PassRunner::given_input(ValueId value) const {
  const auto& inputs = engine_.plan().graphs[0].inputs;
  const auto i = static_cast<std::size_t>(std::find(inputs.begin(), inputs.end(), value) - inputs.begin());
  return i == inputs.size() || !own_input(i) ? nullptr : &context_.inputs_[i];
}

Status PassRunner::run_graph(PreparedGraph& graph) {
  segment_ = kNone;
  collects_ = &graph == &pass_.main;
  for (PreparedStep& step : graph.steps) {
    if (step.early && like_ == nullptr) FB_TRY(run_gather_step(step));
  }
  for (PreparedStep& step : graph.steps) {
    if (!step.early) FB_TRY(run_step(step));
  }
  end_stretch();
  return {};
}

Status PassRunner::run_step(PreparedStep& step) {
  if (like_ != nullptr && (step.step->kind != Step::Kind::kernel || step.appends)) {
    if (step.step->kind != Step::Kind::view) end_stretch();
    return {};
  }
  if (step.step->kind == Step::Kind::control) {
    end_stretch();
    collects_ = false;
    const Status done = step.step->node->op == "If" ? run_if(step) : run_iterated(step);
    collects_ = &step >= pass_.main.steps.data() && &step < pass_.main.steps.data() + pass_.main.steps.size();
    return done;
  }
  switch (step.step->kind) {
    case Step::Kind::load_weight: return run_load(step);
    case Step::Kind::gather_rows: return run_gather_step(step);
    case Step::Kind::view: return {};
    case Step::Kind::kernel: return run_kernel(step);
    case Step::Kind::control: break;  // above
  }
  return {};
}

Status PassRunner::enter_segment(const Step& step) {
  if (step.segment == segment_) return {};
  end_stretch();
  if (unreleased_ != kNone) release(std::exchange(unreleased_, kNone));
  segment_ = step.segment;
  return lease_.begin_segment(segment_);
}

// Every plane's new rows behind its old ones, on the queue.
Status PassRunner::run_spread(void* argument) {
  const GatherCall& call = *static_cast<GatherCall*>(argument);
  const PassRunner& runner = *call.runner;
  const PreparedStep& step = *call.step;
  const ValuePlace& whole = runner.pass_.places[step.output_values[0]];
  const auto planes = static_cast<std::uint64_t>(whole.planes());
  std::byte* to = runner.address(step.output_values[0]);
  for (std::size_t i = 0; i < step.input_values.size(); ++i) {
    const std::uint64_t bytes = bytes_of(runner.pass_.places[step.input_values[i]]) / std::max<std::uint64_t>(1, planes);
    const std::byte* from = runner.address(step.input_values[i]);
    for (std::uint64_t p = 0; i > 0 && p < planes; ++p) std::memcpy(to + p * *dtype_bytes(whole.dtype, whole.pitch), from + p * bytes, bytes);
    to += bytes;
  }
  return {};
}

// The first input lies where the output does.
Status PassRunner::run_append(PreparedStep& step) {
  end_stretch();
  if (pass_.places[step.output_values[0]].pitch > 0) {
    gather_calls_.push_back({this, &step});
    queue_.launch(&PassRunner::run_spread, &gather_calls_.back());
    debug(step.output_values[0]);
    return {};
  }
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
  const PreparedStep* const like =
      like_ != nullptr ? &like_->main.steps[static_cast<std::size_t>(&step - pass_.main.steps.data())] : nullptr;
  if (like != nullptr && (like->step != step.step || like->calls != step.calls)) return Status(Code::failed_precondition, "another pass");
  if (step.step->substep_count > 0 && like == nullptr) FB_TRY(enter_segment(*step.step));
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
    if (like != nullptr) {
      for (const WeightOperand& operand : step.step->weights)
        step.call_inputs[c * arity + operand.input].data = like->call_inputs[c * arity + operand.input].data;
    } else if (step.step->substep_count > 0) {
      const PassProgram::Substep& substep = engine_.compiled().program.substeps[step.step->first_substep + c];
      if (substep.use_count > kMaxUses) return Status(Code::unsupported, "node '" + step.name + "' takes more than 64 weights");
      FB_TRY(lease_.acquire(step.step->first_substep + c, std::span(chunks.data(), substep.use_count)));
      for (std::uint32_t u = 0; u < substep.use_count; ++u) waits = waits || chunks[u].ready.timeline != nullptr;
      // What is resident does not wait for what comes behind it.
      if (waits && first < c) launch(step, std::exchange(first, c), c - first, false);
      if (waits) end_stretch();
      for (std::uint32_t u = 0; u < substep.use_count; ++u) queue_.wait(chunks[u].ready);
      for (const WeightOperand& operand : step.step->weights) {
        const plan::Weight& weight = engine_.plan().weights[operand.weight];
        const plan::Part& part = engine_.plan().parts[weight.first_part + (weight.part_count > 1 ? c : 0)];
        step.call_inputs[c * arity + operand.input].data = chunks[operand.use].data + part.offset_in_chunk;
      }
    }
    if (step.merged != nullptr && !waits && c + 1 < step.calls && c + 1 - first < kMostMerged) continue;
    launch(step, first, c + 1 - first, waits);
    first = c + 1;
  }
  for (const ValueId id : step.output_values) debug(id);
  return {};
}

// What waited for nothing holds no place of the ring: it is released with what comes behind it.
void PassRunner::launch(PreparedStep& step, std::uint32_t first, std::uint32_t count, bool waited) {
  Launch& launch = step.launches[first];
  launch.clock = &context_.clock_;
  launch.merged = count;
  const bool holds = step.step->substep_count > 0;
  if (collects_ && !waited) {
    if (holds && like_ == nullptr) unreleased_ = step.step->first_substep + first + count - 1;
    if (replay_ != nullptr && !launch.kernel->id().starts_with("host.")) return collect(launch);
  }
  end_stretch();
  if (like_ != nullptr) return;
  queue_.launch(&PassRunner::run_launch, &launch);
  if (!holds || (collects_ && !waited)) return;
  unreleased_ = kNone;
  release(step.step->first_substep + first + count - 1);
}

// The device works on the first launches while the others are collected: a stretch may be some times as long as the one before.
void PassRunner::collect(Launch& launch) {
  constexpr std::size_t kFirst = 8, kGrowth = 4;
  if (stretch_ != nullptr) {
    const std::size_t before = stretches_ > 1 ? pass_.stretches[stretches_ - 2].size() : 0;
    if (stretch_->size() >= std::max(kFirst, kGrowth * before)) end_stretch();
  }
  if (stretch_ == nullptr) {
    if (stretches_ == pass_.stretches.size()) pass_.stretches.emplace_back();
    stretch_ = &pass_.stretches[stretches_++];
    stretch_->begin(replay_);
  }
  stretch_->add(launch);
}

void PassRunner::end_stretch() {
  Stretch* const stretch = std::exchange(stretch_, nullptr);
  if (stretch == nullptr) return;
  if (like_ == nullptr) return queue_.launch(&Stretch::run, stretch);
  Stretch* const worn = worn_ != nullptr && worn_->stretches.size() >= stretches_ ? &worn_->stretches[stretches_ - 1] : nullptr;
  stretch->set_worn(worn != nullptr ? worn->take_recording() : nullptr);
  queue_.launch(&Stretch::record_ahead, stretch);
}

void PassRunner::release(std::uint32_t substep) {
  const TimelinePoint done{slot_.timeline.get(), ++slot_.value};
  queue_.signal(done);
  lease_.release(substep, done);
}

// Indices that the caller gave are known now: the rows are fetched while the device is at what came before, and copied when it is done.
Status PassRunner::run_gather_step(PreparedStep& step) {
  for (std::size_t o = 0; o < step.outputs.size(); ++o) {
    if (step.output_values[o] != kNone) step.outputs[o].data = address(step.output_values[o]);
  }
  end_stretch();
  // Of an enqueued pass they may be overwritten as soon as they are on the device.
  const bool staged = !engine_.device().info().arena_host_addressable && context_.call_->number == 0;
  const HostTensor* const given = staged ? given_input(step.input_values[1]) : nullptr;
  if (given != nullptr) FB_TRY(find_rows(step, given->data()));
  if (step.table_kernel != nullptr && use_table(step, given != nullptr)) {
    for (const ValueId id : step.output_values) debug(id);
    return {};
  }
  if (step.row_bytes.size() < step.row_room) {
    if (step.row_lock == nullptr) step.row_lock = std::make_unique<PageLock>();  // another pass has taken what this one had
    step.row_lock->release();
    step.row_bytes = std::vector<std::byte>(step.row_room);
  }
  if (step.row_lock != nullptr) step.row_lock->hold(engine_.device(), step.row_bytes);
  if (given != nullptr) {
    // The first are on their way to the device while the next ones are fetched.
    constexpr std::uint64_t kAtOnce = 1 << 20;
    const std::uint64_t bytes = step.rows.empty() ? 0 : bytes_of(pass_.places[step.output_values[0]]) / step.rows.size();
    const std::size_t at_once = bytes > 0 ? std::max<std::size_t>(1, kAtOnce / bytes) : 1;
    for (std::size_t first = 0; first < step.rows.size() && bytes > 0; first += at_once) {
      const std::size_t count = std::min(at_once, step.rows.size() - first);
      FB_TRY(fetch_rows(step, first, count, step.row_bytes.data() + first * bytes));
      queue_.copy(step.outputs[0].data + first * bytes, step.row_bytes.data() + first * bytes, count * bytes);
    }
  } else {
    gather_calls_.push_back({this, &step});
    queue_.launch(&PassRunner::run_gather, &gather_calls_.back());
  }
  for (const ValueId id : step.output_values) debug(id);
  return {};
}

// False where the rows come from host memory.
bool PassRunner::use_table(PreparedStep& step, bool checked) {
  const plan::WeightId weight = step.step->weights.front().weight;
  GatheredTables& tables = engine_.tables_;
  const bool fills = tables.asks(weight, lease_.generation(), bytes_of(pass_.places[step.output_values[0]]));
  const std::byte* const table = fills ? nullptr : tables.find(weight, lease_.generation());
  if (!fills && table == nullptr) return false;
  gather_calls_.push_back({this, &step, table, checked});
  queue_.launch(fills ? &PassRunner::run_fill : &PassRunner::run_table, &gather_calls_.back());
  return !fills;
}

Status PassRunner::run_fill(void* argument) {
  const GatherCall& call = *static_cast<GatherCall*>(argument);
  PassRunner& runner = *call.runner;
  Status status = runner.engine_.tables_.fill(call.step->step->weights.front().weight, runner.lease_, runner.engine_.device());
  return status.ok() ? status : std::move(status).with_context("copying the table of node '" + call.step->name + "'");
}

// The kernel checks its indices as the host does, unless that has been done.
Status PassRunner::run_table(void* argument) {
  const GatherCall& call = *static_cast<GatherCall*>(argument);
  const PreparedStep& step = *call.step;
  const PassRunner& runner = *call.runner;
  const plan::Weight& weight = runner.engine_.plan().weights[step.step->weights.front().weight];
  const ValuePlace& indices = runner.pass_.places[step.input_values[1]];
  const std::array<ConstTensorView, 2> inputs{ConstTensorView(call.table, weight.dtype, weight.shape),
                                              ConstTensorView(runner.address(step.input_values[1]), indices.dtype, indices.shape)};
  KernelCall given;
  given.inputs = inputs;
  given.outputs = step.outputs;
  auto* const checked = call.checked ? dynamic_cast<RowTable*>(step.table_kernel.get()) : nullptr;
  return checked != nullptr ? checked->run_checked(given) : step.table_kernel->run(given);
}

// On the queue: the indices are computed by then.
Status PassRunner::run_gather(void* argument) {
  const GatherCall& call = *static_cast<GatherCall*>(argument);
  PassRunner& runner = *call.runner;
  PreparedStep& step = *call.step;
  const std::byte* data = runner.address(step.input_values[1]);
  Device& device = runner.engine_.device();
  if (device.info().arena_host_addressable) return runner.gather(step, data, step.outputs[0].data);
  FB_TRY(device.copy_now(step.row_bytes.data(), data, bytes_of(runner.pass_.places[step.input_values[1]])));
  FB_TRY(runner.gather(step, step.row_bytes.data(), step.row_bytes.data()));
  return device.copy_now(step.outputs[0].data, step.row_bytes.data(), bytes_of(runner.pass_.places[step.output_values[0]]));
}

// The rows that `indices` names; they may lie where the rows go.
Status PassRunner::gather(PreparedStep& step, const std::byte* indices, std::byte* to) {
  FB_TRY(find_rows(step, indices));
  return fetch_rows(step, 0, step.rows.size(), to);
}

Status PassRunner::find_rows(PreparedStep& step, const std::byte* indices) {
  const plan::Weight& weight = engine_.plan().weights[step.step->weights.front().weight];
  const std::int64_t rows = weight.shape[0];
  for (std::size_t i = 0; i < step.rows.size(); ++i) {
    std::int64_t row = 0;
    if (pass_.places[step.input_values[1]].dtype == DType::i64) {
      std::memcpy(&row, indices + i * 8, 8);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, indices + i * 4, 4);
      row = narrow;
    }
    if (row < -rows || row >= rows) {
      return Status(Code::invalid_argument, "node '" + step.name + "' (Gather): index " + std::to_string(row) + " at place " + std::to_string(i) +
                                                " is outside of [" + std::to_string(-rows) + ", " + std::to_string(rows) + ")");
    }
    step.rows[i] = row < 0 ? row + rows : row;
  }
  return {};
}

Status PassRunner::fetch_rows(PreparedStep& step, std::size_t first, std::size_t count, std::byte* to) {
  Status status = lease_.gather_rows(step.step->weights.front().weight, std::span<const std::int64_t>(step.rows).subspan(first, count), to);
  return status.ok() ? Status() : std::move(status).with_context("gathering rows for node '" + step.name + "'");
}

Status PassRunner::run_load(PreparedStep& step) {
  FB_TRY(enter_segment(*step.step));
  end_stretch();
  std::byte* to = address(step.output_values[0]);
  const plan::Weight& weight = engine_.plan().weights[step.step->weights.front().weight];
  for (std::uint32_t c = 0; c < step.calls; ++c) {
    std::array<ChunkAddress, 1> chunk;
    FB_TRY(lease_.acquire(step.step->first_substep + c, chunk));
    const plan::Part& part = engine_.plan().parts[weight.first_part + c];
    queue_.wait(chunk[0].ready);
    if (part.bytes > 0) queue_.copy(to + part.offset_in_weight, chunk[0].data + part.offset_in_chunk, part.bytes);
    release(step.step->first_substep + c);
  }
  debug(step.output_values[0]);
  return {};
}

void PassRunner::debug(ValueId value) {
  if (value == kNone || !context_.debug_ || !context_.debug_values_[value]) return;
  end_stretch();
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
  if (place.pitch > 0) {
    copied = HostTensor(place.dtype, place.shape);
    const auto planes = static_cast<std::uint64_t>(place.planes());
    const std::uint64_t each = copied.bytes() / std::max<std::uint64_t>(1, planes), step = dtype_bytes(place.dtype, place.pitch).value_or(0);
    for (std::uint64_t p = 0; p < planes; ++p) std::memcpy(copied.data() + p * each, data + p * step, each);
    tensor.tensor = ConstTensorView(copied.data(), place.dtype, place.shape);
  }
  runner.context_.debug_(tensor);
  return {};
}

// States stay on the device: what they hold is fetched when it is asked for.
Status PassRunner::download() {
  const plan::Graph& main = engine_.plan().graphs[0];
  bool block = false;
  for (std::size_t i = 0; i < main.outputs.size(); ++i) {
    const ValuePlace& place = pass_.places[main.outputs[i]];
    const std::uint64_t bytes = bytes_of(place);
    if (bytes == 0 || context_.is_state_output(i)) continue;
    const TensorView& bound = context_.call_->outputs[i];
    if (made_in_block(i)) {
      block = true;
      continue;
    }
    if (bound.data != nullptr && !(bound.shape == place.shape)) {
      return Status(Code::invalid_argument, "output '" + engine_.plan().values[main.outputs[i]].name + "' is " + place.shape.to_string() +
                                                ", the caller's memory is given as " + bound.shape.to_string());
    }
    queue_.copy(bound.data != nullptr ? bound.data : context_.outputs_[i].data(), address(main.outputs[i]), bytes);
  }
  if (block) queue_.copy(context_.ends_.data() + pass_.given_bytes, activations_ + pass_.made_offset, pass_.made_bytes);
  for (std::size_t s = 0; s < context_.states_.size(); ++s) {
    const ContextCore::State& state = context_.states_[s];
    const std::uint64_t bytes = bytes_of(pass_.places[main.outputs[state.output]]);
    if (pass_.states[s] != StateResult::copied || bytes == 0) continue;
    queue_.copy(engine_.arena().base() + state.spare, address(main.outputs[state.output]), bytes);
  }
  return {};
}

// An output that is an input of the pass lies among those.
bool PassRunner::made_in_block(std::size_t output) const {
  const ValuePlace& place = pass_.places[engine_.plan().graphs[0].outputs[output]];
  return place.packed && pass_.made_bytes > 0 && place.offset >= pass_.made_offset && context_.call_->outputs[output].data == nullptr;
}

// When the block has arrived.
void PassRunner::unpack_outputs() {
  const plan::Graph& main = engine_.plan().graphs[0];
  for (std::size_t i = 0; i < main.outputs.size(); ++i) {
    const ValuePlace& place = pass_.places[main.outputs[i]];
    if (!made_in_block(i) || context_.is_state_output(i)) continue;
    const std::byte* const made = context_.ends_.data() + pass_.given_bytes;
    std::memcpy(context_.outputs_[i].data(), made + (place.offset - pass_.made_offset), bytes_of(place));
  }
}

}  // namespace forebay
