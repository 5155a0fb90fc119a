#include "runtime/engine_core.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "base/digest.h"
#include "runtime/kernel_choice.h"

namespace forebay {
namespace {

constexpr std::uint64_t kHeadReserve = 64ull << 30;  // addresses, not memory
constexpr std::uint32_t kQueueCapacity = 4096;

}  // namespace

void Completion::finish(Status status) {
  const std::lock_guard lock(mutex_);
  status_ = std::move(status);
  done_ = true;
  changed_.notify_all();
}
bool Completion::done() const {
  const std::lock_guard lock(mutex_);
  return done_;
}
Status Completion::wait() const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_; });
  return status_;
}

std::uint64_t arena_reserve_bytes(const plan::Plan& plan) {
  std::uint64_t bytes = kHeadReserve;
  for (const plan::Chunk& chunk : plan.chunks) bytes += align_up(chunk.raw_bytes, kBlockBytes) + 2 * kBlockBytes;
  return align_up(bytes, 1ull << 30);
}

Result<std::unique_ptr<EngineCore>> EngineCore::create(EngineParts parts) {
  std::unique_ptr<EngineCore> engine(new EngineCore(std::move(parts)));
  FB_TRY(engine->start());
  return engine;
}

Status EngineCore::start() {
  budget_ = parts_.budget;
  FB_ASSIGN(free_at_start_, parts_.device->free_bytes());
  // A library that loads code may wait for all that the device does, so also for callers' streams that wait for the pass that is being
  // prepared, or run. Choices are for these shapes alone; one that cannot be prepared is refused when it is asked for.
  const bool loads = calls_libraries(plan(), parts_.device->info().kind);
  for (const ShapeSet& shapes : loads ? declared_shapes(plan()) : std::vector<ShapeSet>()) {
    const auto pass = prepare_pass(parts_.compiled, shapes, *parts_.pool, planned_states(plan()), parts_.device.get());
    if (pass.ok()) load_libraries((*pass)->main);
    FB_ASSIGN(free_at_start_, parts_.device->free_bytes());
  }
  for (std::uint32_t i = 0; i < std::max<std::uint32_t>(1, parts_.passes); ++i) {
    auto slot = std::make_unique<Slot>();
    slot->index = i;
    FB_ASSIGN(slot->queue, parts_.device->create_queue("pass-" + std::to_string(i), kQueueCapacity));
    FB_ASSIGN(slot->timeline, parts_.device->create_timeline());
    slots_.push_back(std::move(slot));
  }
  const std::lock_guard lock(layout_mutex_);
  if (!parts_.user_memory) FB_TRY(check_free(parts_.budget, sizes_locked(), free_at_start_));
  if (parts_.user_memory && parts_.arena->reserved_bytes() < sizes_locked().min) {
    return Status(Code::invalid_argument, "the arena memory given has " + std::to_string(parts_.arena->reserved_bytes()) + " bytes, the minimum budget is " +
                                              std::to_string(sizes_locked().min));
  }
  FB_TRY(relayout_locked());
  control_ = std::thread([this] { control_loop(); });
  return {};
}

EngineCore::~EngineCore() {
  if (control_.joinable()) {
    {
      const std::lock_guard lock(control_mutex_);
      stopping_ = true;
    }
    control_wake_.notify_all();
    control_.join();
  }
  if (parts_.source) parts_.source->shutdown();
  slots_.clear();          // queues are idle: no pass outlives its context, no context its engine
  parts_.source.reset();
  parts_.arena.reset();
}

void EngineCore::control_loop() {
  std::unique_lock lock(control_mutex_);
  while (true) {
    control_wake_.wait(lock, [&] { return stopping_ || !control_tasks_.empty(); });
    if (control_tasks_.empty()) return;
    auto task = std::move(control_tasks_.front());
    control_tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

ArenaDemand EngineCore::demand_locked(bool with_idle) const {
  ArenaDemand demand;
  demand.activation_bytes = with_idle ? idle_activation_bytes_ : 0;
  for (const ContextCore* context : contexts_) {
    demand.state_bytes += align_up(context->wanted_state_bytes(), kBlockBytes);
    demand.activation_bytes = std::max(demand.activation_bytes, context->activation_bytes_);
  }
  demand.passes = static_cast<std::uint32_t>(slots_.size());
  demand.gathered_bytes = parts_.compiled->gathered_bytes;
  constexpr std::uint64_t kMostTables = 256 << 20;  // to copy more than this would hold a pass up for a noticeable time
  demand.keeps_tables = !parts_.device->info().arena_host_addressable && demand.gathered_bytes <= kMostTables;
  demand.source = parts_.source->limits();
  demand.source.min_ring_bytes = std::max(demand.source.min_ring_bytes, published_limits_.min_ring_bytes);
  demand.source.preferred_ring_bytes = std::max(demand.source.preferred_ring_bytes, published_limits_.preferred_ring_bytes);
  demand.source.resident_total_bytes = std::max(demand.source.resident_total_bytes, published_limits_.resident_total_bytes);
  demand.granule = parts_.device->info().granule;
  demand.arena_bytes = parts_.arena->reserved_bytes();
  return demand;
}

std::uint64_t EngineCore::resolve_locked(const Budget& budget, bool with_idle) const {
  const std::uint64_t free = parts_.user_memory ? parts_.arena->reserved_bytes() : free_at_start_;
  // The user's memory is there for the engine: all of it may be used.
  const bool all = parts_.user_memory && budget.kind == Budget::Kind::automatic;
  const std::uint64_t bytes = resolve_budget(all ? Budget::unlimited() : budget, sizes_locked(with_idle), free);
  return parts_.user_memory ? std::min(bytes, free) : bytes;
}

Status EngineCore::movable() const {
  if (captures_.load() == 0) return {};
  return Status(Code::failed_precondition, "a captured pass holds the weights and activations where they are; destroy its context first");
}

Result<ArenaLayout> EngineCore::arena_locked(const Budget& budget, bool with_idle) const {
  const ArenaDemand demand = demand_locked(with_idle);
  const std::uint64_t bytes = resolve_locked(budget, with_idle);
  if (parts_.user_memory || parts_.device->info().arena_host_addressable) return plan_arena(demand, bytes);
  return plan_linked_arena(demand, bytes, parts_.host_cache_bytes, locked_most_);
}

Status EngineCore::relayout_locked() {
  auto layout = arena_locked(budget_, true);
  if (!layout.ok() && idle_activation_bytes_ > 0) {
    layout = arena_locked(budget_, false);
    if (layout.ok()) idle_activation_bytes_ = 0;
  }
  if (!layout.ok()) return std::move(layout).status();
  if (captures_.load() > 0 && *layout == layout_) return {};
  FB_TRY(movable());
  return apply_locked(*layout);
}

Status EngineCore::apply_locked(const ArenaLayout& layout) {
  FB_TRY(parts_.source->reconfigure(layout, [&] { return move_states([&] { return commit_layout(layout); }); }));
  const std::uint64_t all = parts_.source->limits().resident_total_bytes;
  locked_most_ = std::max(locked_most_, std::min(all - std::min(all, layout.resident_bytes), parts_.host_cache_bytes));
  return {};
}

// Gives back before it takes, so that the sum never exceeds the larger of the two budgets, nor the new one once it returns.
Status EngineCore::commit_layout(const ArenaLayout& to) {
  Arena& arena = *parts_.arena;
  const std::uint64_t granule = parts_.device->info().granule;
  const CommitRanges next = commit_ranges(to, granule);
  const CommitRanges before = laid_out_ ? commit_ranges(layout_, granule) : CommitRanges{0, to.arena_bytes};
  if (before.head > next.head) FB_TRY(arena.uncommit(next.head, before.head - next.head));
  if (before.resident_begin < next.resident_begin) FB_TRY(arena.uncommit(before.resident_begin, next.resident_begin - before.resident_begin));
  if (next.head > before.head) {
    Status status = arena.commit(before.head, next.head - before.head);
    if (!status.ok()) {
      // What was given back is taken again: the old layout serves on.
      if (before.resident_begin < next.resident_begin) FB_TRY(arena.commit(before.resident_begin, next.resident_begin - before.resident_begin));
      return status;
    }
  }
  if (next.resident_begin < before.resident_begin) {
    Status status = arena.commit(next.resident_begin, before.resident_begin - next.resident_begin);
    if (!status.ok()) {
      if (next.head > before.head) FB_TRY(arena.uncommit(before.head, next.head - before.head));
      if (before.head > next.head) FB_TRY(arena.commit(next.head, before.head - next.head));
      return status;
    }
  }
  layout_ = to;
  tables_.place(arena.base() + to.ring_offset + to.ring_bytes, to.table_bytes);
  laid_out_ = true;
  return {};
}

Status EngineCore::move_states(const std::function<Status()>& change) {
  struct Move {
    ContextCore::State* state;
    std::vector<std::byte> held;
  };
  std::vector<Move> moves;
  std::vector<std::pair<ContextCore::State*, std::uint64_t>> places;
  Queue& queue = *slots_.front()->queue;
  std::uint64_t base = 0;
  for (ContextCore* context : contexts_) {
    const std::vector<std::uint64_t> offsets = context->state_offsets(base);
    for (std::size_t i = 0; i < context->states_.size(); ++i) {
      ContextCore::State& state = context->states_[i];
      places.push_back({&state, offsets[i]});
      if (!state.filled || offsets[i] == state.offset) continue;
      const DType dtype = context->input_dtype(state.input);
      const std::int64_t elements = state.pitch > 0 ? state.shape.elements(0, state.shape.rank() - 2) * state.pitch : state.shape.elements();
      moves.push_back({&state, std::vector<std::byte>(dtype_bytes(dtype, elements).value_or(0))});
      queue.copy(moves.back().held.data(), parts_.arena->base() + state.offset, moves.back().held.size());
    }
    base += align_up(context->wanted_state_bytes(), kBlockBytes);
  }
  FB_TRY(queue.synchronize());
  FB_TRY(change());
  for (const auto& [state, offset] : places) {
    state->offset = offset;
    state->spare = state->need.paired ? offset + align_up(state->need.capacity, 64) : offset;
  }
  for (const Move& move : moves) queue.copy(parts_.arena->base() + move.state->offset, move.held.data(), move.held.size());
  return queue.synchronize();
}

Status EngineCore::require(ContextCore& context, std::uint64_t activation_bytes, const std::vector<StateNeed>& needs) {
  const std::lock_guard lock(layout_mutex_);
  bool grows = activation_bytes > context.activation_bytes_;
  for (std::size_t i = 0; i < needs.size(); ++i) {
    const StateNeed& has = context.states_[i].need;
    grows = grows || needs[i].capacity > has.capacity || (needs[i].paired && !has.paired);
  }
  const std::uint64_t old_activation = context.activation_bytes_;
  std::vector<StateNeed> old_needs;
  for (const ContextCore::State& state : context.states_) old_needs.push_back(state.need);
  const auto ask = [&](std::uint64_t slack) {
    context.activation_bytes_ = activation_bytes + (slack != 0 ? activation_bytes / slack : 0);
    for (std::size_t i = 0; i < needs.size(); ++i) {
      // States only grow: what they hold is the caller's.
      const std::uint64_t more = needs[i].capacity > old_needs[i].capacity && slack != 0 ? needs[i].capacity / slack : 0;
      context.states_[i].need = {std::max(old_needs[i].capacity, needs[i].capacity + more), old_needs[i].paired || needs[i].paired};
    }
    if (!grows && activation_bytes == old_activation) return Status();
    return relayout_locked();
  };
  if (!grows && context.growth_ > 1 && activation_bytes <= old_activation) return {};  // fits what was asked for with slack
  context.growth_ = grows ? context.growth_ + 1 : 0;
  Status status;
  if (context.growth_ > 2) status = ask(4);
  if (context.growth_ <= 2 || !status.ok()) status = ask(0);
  if (!status.ok()) {
    context.activation_bytes_ = old_activation;
    for (std::size_t i = 0; i < needs.size(); ++i) context.states_[i].need = old_needs[i];
  }
  return status;
}

void EngineCore::forget(ContextCore& context) {
  const std::lock_guard lock(layout_mutex_);
  std::erase(contexts_, &context);
  // Activations keep their room for the next context; state is given back. A failure here must not matter to a destructor.
  idle_activation_bytes_ = std::max(idle_activation_bytes_, context.activation_bytes_);
  if (context.wanted_state_bytes() == 0) return;
  const Status status = relayout_locked();
  if (!status.ok() && parts_.logger != nullptr) parts_.logger->log(LogLevel::warning, "relayout after closing a context failed: " + status.to_string());
}

Result<std::unique_ptr<ContextCore>> EngineCore::create_context() {
  std::unique_ptr<ContextCore> context(new ContextCore(*this));
  const std::lock_guard lock(layout_mutex_);
  contexts_.push_back(context.get());
  return context;
}

Result<std::shared_ptr<Completion>> EngineCore::set_budget(const Budget& budget) {
  const std::lock_guard lock(layout_mutex_);
  FB_TRY(movable());
  if (!arena_locked(budget, true).ok()) FB_TRY(arena_locked(budget, false).status());
  auto completion = std::make_shared<Completion>();
  const std::lock_guard control(control_mutex_);
  control_tasks_.push_back([this, budget, completion] {
    Status status;
    {
      const std::lock_guard apply(layout_mutex_);
      const Budget old = budget_;
      budget_ = budget;
      status = relayout_locked();
      if (!status.ok()) budget_ = old;
    }
    completion->finish(std::move(status));
  });
  control_wake_.notify_all();
  return completion;
}

Status EngineCore::publish(plan::GenerationPtr generation) {
  const std::lock_guard lock(layout_mutex_);
  FB_TRY(movable());
  const SourceLimits before = published_limits_;
  published_limits_ = parts_.source->limits_for(*generation);
  Status status = relayout_locked();
  if (status.ok()) status = parts_.source->publish(std::move(generation));
  if (!status.ok()) published_limits_ = before;
  return status;
}

MemoryReport EngineCore::memory() const {
  const std::lock_guard lock(layout_mutex_);
  const BudgetBytes sizes = sizes_locked();
  MemoryReport report;
  report.budget = layout_.budget;
  report.min_budget = sizes_locked(false).min;
  report.no_stream_budget = sizes.no_stream;
  report.full_budget = sizes.full;
  report.committed = parts_.arena->committed_bytes();
  report.peak_committed = parts_.arena->peak_committed_bytes();
  report.resident_weights = layout_.resident_bytes;
  report.ring = layout_.ring_bytes;
  report.activations = layout_.activation_bytes;
  report.state = layout_.state_bytes;
  report.weights_total = plan().weight_bytes();
  report.host_cache = parts_.source->counters().host_cache_bytes;
  return report;
}

Result<Engine::Sizes> EngineCore::sizes_for_shapes(const std::vector<std::pair<std::string, Shape>>& inputs) const {
  const std::vector<StateBinding> bindings = planned_states(plan());
  FB_ASSIGN(const auto prepared, prepare_pass(parts_.compiled, inputs, *parts_.pool, bindings, parts_.device.get()));
  const std::lock_guard lock(layout_mutex_);
  ArenaDemand demand = demand_locked();
  demand.activation_bytes = prepared->activation_bytes;
  demand.state_bytes = 0;
  for (std::size_t i = 0; i < bindings.size(); ++i) demand.state_bytes += state_room(plan(), *prepared, bindings, i).bytes();
  Engine::Sizes sizes;
  sizes.activation_bytes = demand.activation_bytes;
  sizes.state_bytes = demand.state_bytes;
  const BudgetBytes bytes = budget_bytes(demand);
  sizes.min_budget = bytes.min;
  sizes.full_budget = bytes.full;
  return sizes;
}

std::string EngineCore::numerics_id() const {
  std::string text = "threads=" + std::to_string(parts_.pool->threads()) + ";slab=" + std::to_string(plan().slab_bytes) + ";";
  for (const auto& [key, value] : parts_.device->info().numerics) {
    if (!kernel_excluded(plan(), key)) text += key + "=" + value + ";";  // bits outlive a library that is not used
  }
  for (const auto& [key, value] : plan().numerics) text += "plan." + key + "=" + value + ";";
  for (const plan::KernelSection& section : plan().kernels) {
    if (section.device_kind != parts_.device->info().kind) continue;
    for (const plan::KernelChoice& choice : section.entries) text += choice_identity(choice) + ";";
  }
  const Sha256 digest = sha256(std::as_bytes(std::span(text.data(), text.size())));
  return parts_.device->info().kind + "-" + to_hex(digest).substr(0, 16);
}

Result<EngineCore::Slot*> EngineCore::take_slot() {
  std::unique_lock lock(slot_mutex_);
  const std::uint64_t ticket = slot_ticket_++;
  Slot* free = nullptr;
  slot_free_.wait(lock, [&] {
    if (ticket != slot_serving_) return false;
    const auto found = std::find_if(slots_.begin(), slots_.end(), [](const auto& slot) { return !slot->busy; });
    free = found == slots_.end() ? nullptr : found->get();
    return free != nullptr || captures_.load() == slots_.size();
  });
  ++slot_serving_;
  if (free != nullptr) free->busy = true;
  slot_free_.notify_all();
  if (free == nullptr)
    return Status(Code::failed_precondition, "captured passes hold the room of all " + std::to_string(slots_.size()) + " passes; open the engine with more concurrent_passes");
  return free;
}

// No layout is being changed while this one is.
void EngineCore::hold(Slot& slot) {
  const std::lock_guard layout(layout_mutex_);
  const std::lock_guard lock(slot_mutex_);
  slot.captured = true;
  ++captures_;
  slot_free_.notify_all();
}

void EngineCore::give_slot(Slot& slot) {
  const std::lock_guard lock(slot_mutex_);
  if (slot.captured) --captures_;
  slot.busy = slot.captured = false;
  slot_free_.notify_all();
}

StreamCounters EngineCore::take_counters() {
  const std::lock_guard lock(counters_mutex_);
  const StreamCounters now = parts_.source->counters();
  StreamCounters came = now;
  came.disk_bytes -= counted_.disk_bytes;
  came.link_bytes -= counted_.link_bytes;
  came.gathered_bytes -= counted_.gathered_bytes;
  came.stalls -= counted_.stalls;
  counted_ = now;
  return came;
}

}  // namespace forebay
