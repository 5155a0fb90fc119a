// Turns, layouts and generations. The pipeline does the reading.
//
// Invariants: at most one exclusive pass, or any number of shared ones, runs; layouts and generations change only while none runs; a
// resident chunk serves only when it was filled from the generation in force; there is one resident set.
#include "stream/streamer.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "stream/read_pipeline.h"
#include "stream/residency.h"
#include "stream/row_reader.h"

namespace forebay::stream {
namespace {

constexpr std::uint64_t kPreferredRing = 128ull << 20;
constexpr std::uint64_t kStagedChunks = 4;
// Ten reads of 8 MiB from the page cache, and the copies behind them; what is larger stays less well in the processor's cache.
constexpr std::uint64_t kStaging = 128ull << 20;

class Streamer;

class Lease final : public PassLease {
 public:
  Lease(Streamer& streamer, bool exclusive, std::shared_ptr<RowReader> rows)
      : streamer_(streamer), exclusive_(exclusive), rows_(std::move(rows)) {}
  ~Lease() override {
    if (!ended_) Lease::end(true);
  }
  const plan::Generation& generation() const override { return *rows_->bound()->generation(); }
  bool shared() const override { return !exclusive_; }
  Status begin_segment(std::uint32_t segment) override;
  Status acquire(std::uint32_t substep, std::span<ChunkAddress> out) override;
  void release(std::uint32_t substep, TimelinePoint done) override;
  Status gather_rows(plan::WeightId weight, std::span<const std::int64_t> rows, std::byte* to) override {
    return rows_->gather(weight, rows, to);
  }
  void end(bool failed) override;

 private:
  Streamer& streamer_;
  const bool exclusive_;
  const std::shared_ptr<RowReader> rows_;
  std::uint32_t segment_ = plan::kNone;
  Walk walk_;
  bool ended_ = false;
};

class Streamer final : public WeightSource {
 public:
  // `staged`: the device, when the host does not address its arena.
  Streamer(Arena& arena, Device* staged, std::shared_ptr<const plan::Plan> plan, PassProgram program, const StreamerOptions& options, Logger& logger)
      : arena_(arena), staged_(staged), plan_(std::move(plan)), program_(std::move(program)), options_(options), logger_(logger) {
    order_ = residency_order(chunk_traits(*plan_, program_));
  }
  ~Streamer() override { Streamer::shutdown(); }

  Status open(Device& device, plan::GenerationPtr first);

  SourceLimits limits() const override;
  SourceLimits limits_for(const plan::Generation& generation) const override;
  Status reconfigure(const ArenaLayout& layout, const std::function<Status()>& resize) override;
  Status publish(plan::GenerationPtr generation) override;
  plan::GenerationPtr current() const override;
  Result<std::unique_ptr<PassLease>> begin_pass() override;
  StreamCounters counters() const override;
  void start_trace() override { pipeline_->start_trace(); }
  std::vector<TraceSpan> stop_trace() override { return pipeline_->stop_trace(); }
  bool fully_resident() const override;
  void shutdown() override;

  IoReport report() const;
  ReadPipeline& pipeline() { return *pipeline_; }
  const PassProgram& program() const { return program_; }
  void end_pass(bool exclusive, bool failed);

 private:
  struct Plan {  // what a layout and a generation come to
    PipelineConfig config;
    std::vector<plan::ChunkId> cached;
    std::uint64_t cached_bytes = 0, cached_wanted = 0;  // with and without what alignment adds
    std::size_t resident = 0;
  };

  Status check_layout(const ArenaLayout& layout) const;
  Result<Plan> plan_config(const ArenaLayout& layout, const std::shared_ptr<BoundGeneration>& bound, const std::vector<bool>& stays) const;
  void apply(Plan plan, const std::vector<bool>& stays, bool memory_changed);
  std::vector<bool> filled_now() const;
  std::uint64_t staging_bytes(const BoundGeneration& bound) const;
  Status make_staging(const BoundGeneration& bound);
  void lay_staging(PipelineConfig& config) const;
  Status refresh();
  Status fill_unvisited();
  Status take_pending(std::unique_lock<std::mutex>& lock);
  class Turn;
  Status change_layout(const ArenaLayout& layout, const std::function<Status()>& resize, const std::shared_ptr<BoundGeneration>& bound);
  bool shareable() const;

  Arena& arena_;
  Device* const staged_;
  const std::shared_ptr<const plan::Plan> plan_;
  const PassProgram program_;
  const StreamerOptions options_;
  Logger& logger_;
  ResidencyOrder order_;
  std::unique_ptr<Timeline> ready_;
  std::unique_ptr<PinnedPool> pool_;      // with a staged device: the host cache's memory,
  std::unique_ptr<PinnedBlock> staging_;  // and what loads are read into
  std::unique_ptr<ReadPipeline> pipeline_;

  mutable std::mutex mutex_;  // guards everything below; whoever has the turn may change layout and generation without it being seen half
  std::condition_variable changed_;
  std::uint64_t next_ticket_ = 0, serving_ = 0;
  std::uint32_t running_ = 0;
  bool running_exclusive_ = false;
  bool shutdown_ = false, have_layout_ = false;
  std::uint64_t fills_seen_ = 0;  // fills made when the schedule was built: more now, and it lists what is there already
  bool all_filled_ = false;
  std::size_t resident_ = 0;     // how many chunks of the order have a place
  std::uint64_t cached_wanted_ = 0;  // bytes of those chosen for the host cache
  ArenaLayout layout_;
  std::shared_ptr<RowReader> rows_;  // of the generation in force
  plan::GenerationPtr pending_;
  std::shared_ptr<BoundGeneration> pending_bound_;
  std::uint64_t gathered_before_ = 0;  // by readers of older generations
};

Status Streamer::open(Device& device, plan::GenerationPtr first) {
  FB_ASSIGN(ready_, device.create_timeline());
  FB_ASSIGN(auto bound, BoundGeneration::bind(plan_, std::move(first), options_.direct != DirectIo::off, staged_ != nullptr));
  rows_ = std::make_shared<RowReader>(std::move(bound), options_.io);
  if (staged_ != nullptr) pool_ = std::make_unique<PinnedPool>(*staged_, logger_);
  FB_ASSIGN(pipeline_, ReadPipeline::create(options_, plan_->chunks.size(), program_.substeps.size(), *ready_, logger_, staged_, pool_.get()));
  return {};
}

SourceLimits Streamer::limits_for(const plan::Generation& generation) const {
  if (generation.binding.chunks.size() != plan_->chunks.size()) return {};
  return source_limits(program_, widest_shapes(*plan_, generation), order_.total_bytes(), staged_ != nullptr, options_.ring_bytes);
}

SourceLimits Streamer::limits() const {
  plan::GenerationPtr now, next;
  {
    std::lock_guard lock(mutex_);
    now = rows_->bound()->generation();
    next = pending_;
  }
  SourceLimits limits = limits_for(*now);
  if (next != nullptr) {
    const SourceLimits other = limits_for(*next);
    limits.min_ring_bytes = std::max(limits.min_ring_bytes, other.min_ring_bytes);
    limits.preferred_ring_bytes = std::max(limits.preferred_ring_bytes, other.preferred_ring_bytes);
  }
  return limits;
}

// A place in the line; constructed with the lock held, it waits for its turn, and gives it up however its scope is left.
class Streamer::Turn {
 public:
  Turn(Streamer& streamer, std::unique_lock<std::mutex>& lock) : streamer_(streamer), lock_(lock) {
    const std::uint64_t ticket = streamer.next_ticket_++;
    streamer.changed_.wait(lock, [&] { return streamer.serving_ == ticket; });
  }
  ~Turn() {
    if (!lock_.owns_lock()) lock_.lock();
    ++streamer_.serving_;
    streamer_.changed_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  Status status() const { return streamer_.shutdown_ ? Status(Code::cancelled, "the weight source was shut down") : Status(); }

 private:
  Streamer& streamer_;
  std::unique_lock<std::mutex>& lock_;
};

Status Streamer::check_layout(const ArenaLayout& layout) const {
  const std::uint64_t reserved = arena_.reserved_bytes();
  if (layout.ring_offset % kBlockBytes != 0 || layout.arena_bytes % kBlockBytes != 0 || layout.arena_bytes > reserved ||
      !range_within(layout.ring_offset, layout.ring_bytes, layout.arena_bytes) ||
      layout.resident_bytes > layout.arena_bytes - (layout.ring_offset + layout.ring_bytes)) {
    return Status(Code::invalid_argument,
                  "the layout's ring and resident part do not lie in the arena of " + std::to_string(reserved) + " bytes");
  }
  return {};
}

std::vector<bool> Streamer::filled_now() const {
  std::vector<bool> filled(plan_->chunks.size());
  for (std::size_t i = 0; i < resident_; ++i) filled[order_.order[i]] = pipeline_->filled(order_.order[i]);
  return filled;
}

// `stays`: chunks that are in their place already and may serve.
Result<Streamer::Plan> Streamer::plan_config(const ArenaLayout& layout, const std::shared_ptr<BoundGeneration>& bound,
                                             const std::vector<bool>& stays) const {
  Plan plan;
  const std::size_t chunks = plan_->chunks.size();
  plan.resident = resident_count(order_, layout.resident_bytes);
  plan.config.bound = bound;
  plan.config.ring = arena_.base() + layout.ring_offset;
  plan.config.ring_bytes = layout.ring_bytes;
  plan.config.resident.assign(chunks, nullptr);
  std::vector<Place> places(chunks, Place::streamed);
  for (std::size_t i = 0; i < plan.resident; ++i) {
    const plan::ChunkId chunk = order_.order[i];
    plan.config.resident[chunk] = arena_.base() + (layout.arena_bytes - order_.end[i]);
    places[chunk] = stays[chunk] ? Place::resident : Place::fill;
  }
  FB_ASSIGN(plan.config.schedule, build_schedule(program_, bound->shapes(), places, layout.ring_bytes));
  std::vector<std::uint64_t> stored(chunks, 0);
  for (std::size_t i = 0; i < chunks; ++i) {
    const plan::ChunkBinding& binding = bound->binding(static_cast<plan::ChunkId>(i));
    if (binding.where == plan::ChunkBinding::Where::file) stored[i] = binding.stored_bytes;
  }
  plan.cached = choose_cached(order_.order, plan.resident, stored, options_.host_cache_bytes);
  for (const plan::ChunkId chunk : plan.cached) {
    plan.cached_bytes += align_up(stored[chunk], kBlockBytes);
    plan.cached_wanted += stored[chunk];
  }
  return plan;
}

void Streamer::apply(Plan plan, const std::vector<bool>& stays, bool memory_changed) {
  const std::size_t resident = plan.resident;
  const std::uint64_t wanted = plan.cached_wanted;
  const std::uint64_t fills = plan.config.schedule.fills;
  pipeline_->quiesce([&](PipelineConfig& config, IoEngine& engine) {
    for (std::size_t i = 0; i < stays.size(); ++i) {
      const auto chunk = static_cast<plan::ChunkId>(i);
      if (!stays[i] || plan.config.resident[chunk] == nullptr) pipeline_->forget(chunk);
    }
    pipeline_->cache().configure(plan.cached);
    if (pool_ != nullptr) pool_->want(plan.cached_bytes);
    config = std::move(plan.config);
    lay_staging(config);
    const std::span<std::byte> reads(staged_ != nullptr ? staging_->data() : config.ring,
                                     staged_ != nullptr ? staging_->bytes() : config.ring_bytes);
    if (memory_changed && options_.register_buffers && config.ring_bytes > 0 &&
        (config.schedule.streamed_loads > 0 || staged_ != nullptr)) {
      const Status registered = engine.register_memory(reads);
      if (!registered.ok()) logger_.log(LogLevel::debug, "registered_buffers=off why=\"" + registered.message() + "\"");
    }
  });
  std::lock_guard lock(mutex_);
  resident_ = resident;
  cached_wanted_ = wanted;
  fills_seen_ = pipeline_->stats().fills.load(std::memory_order_relaxed);
  all_filled_ = fills == 0;
}

// Room for any chunk, and for all of them where that is little.
std::uint64_t Streamer::staging_bytes(const BoundGeneration& bound) const {
  std::uint64_t sum = 0, most = kBlockBytes;
  for (const plan::ChunkId chunk : program_.uses) {
    const ChunkShape& shape = bound.shapes()[chunk];
    sum += shape.raw_slot + shape.stored_slot;
    most = std::max(most, shape.raw_slot + shape.stored_slot);
  }
  return std::max(most, std::min(sum, options_.staging_bytes != 0 ? options_.staging_bytes : kStaging));
}

void Streamer::lay_staging(PipelineConfig& config) const {
  if (staged_ == nullptr) return;
  config.staging = staging_->data();
  config.staging_bytes = staging_->bytes();
}

// Host memory that loads pass through; it only grows. The one in use, if any, has nothing in flight.
Status Streamer::make_staging(const BoundGeneration& bound) {
  if (staged_ == nullptr) return {};
  const std::uint64_t bytes = staging_bytes(bound);
  if (staging_ != nullptr && staging_->bytes() >= bytes) return {};
  FB_ASSIGN(auto larger, PinnedBlock::create(*staged_, bytes, logger_));
  pipeline_->quiesce([&](PipelineConfig& config, IoEngine& engine) {
    engine.unregister_memory();
    staging_ = std::move(larger);
    lay_staging(config);
  });
  return {};
}

Status Streamer::reconfigure(const ArenaLayout& layout, const std::function<Status()>& resize) {
  FB_TRY(check_layout(layout));
  std::unique_lock lock(mutex_);
  const Turn turn(*this, lock);
  FB_TRY(turn.status());
  changed_.wait(lock, [&] { return running_ == 0; });
  const std::shared_ptr<BoundGeneration> bound = rows_->bound();
  lock.unlock();
  FB_TRY(change_layout(layout, resize, bound));
  lock.lock();
  layout_ = layout;
  have_layout_ = true;
  return {};
}

// With the turn, nothing running. Checked in full before anything changes.
Status Streamer::change_layout(const ArenaLayout& layout, const std::function<Status()>& resize,
                               const std::shared_ptr<BoundGeneration>& bound) {
  const SourceLimits needs = limits();
  std::vector<bool> stays = filled_now();
  if (have_layout_ && layout_.arena_bytes != layout.arena_bytes) stays.assign(stays.size(), false);
  const std::size_t keeps = resident_count(order_, layout.resident_bytes);
  for (std::size_t i = keeps; i < order_.order.size(); ++i) stays[order_.order[i]] = false;
  FB_TRY(make_staging(*bound));
  FB_ASSIGN(auto plan, plan_config(layout, bound, stays));
  const bool streams = keeps < order_.order.size();
  if (streams && layout.ring_bytes < needs.min_ring_bytes) {
    return Status(Code::resource_exhausted, "a ring of " + std::to_string(layout.ring_bytes) + " bytes is below the minimum of " +
                                                std::to_string(needs.min_ring_bytes));
  }
  pipeline_->quiesce([](PipelineConfig&, IoEngine& engine) { engine.unregister_memory(); });
  Status status = resize ? resize() : Status();
  if (status.ok()) {
    apply(std::move(plan), stays, true);
  } else if (have_layout_) {
    // Back to the old layout. What became of the memory meanwhile is not known: all of it is filled again.
    stays.assign(stays.size(), false);
    auto back = plan_config(layout_, bound, stays);
    FB_CHECK(back.ok());  // it was made from the same before
    apply(std::move(back).value(), stays, true);
  }
  return status;
}

Status Streamer::publish(plan::GenerationPtr generation) {
  FB_ASSIGN(auto bound, BoundGeneration::bind(plan_, generation, options_.direct != DirectIo::off, staged_ != nullptr));
  const SourceLimits needs = limits_for(*generation);
  std::lock_guard lock(mutex_);
  if (shutdown_) return Status(Code::cancelled, "the weight source was shut down");
  if (have_layout_ && layout_.ring_bytes < needs.min_ring_bytes) {
    return Status(Code::resource_exhausted, "the new weights need a ring of " + std::to_string(needs.min_ring_bytes) + " bytes, it has " +
                                                std::to_string(layout_.ring_bytes))
        .with_hint("give a larger budget first, or weights stored as the old ones were");
  }
  pending_ = std::move(generation);
  pending_bound_ = std::move(bound);
  return {};
}

plan::GenerationPtr Streamer::current() const {
  std::lock_guard lock(mutex_);
  return pending_ != nullptr ? pending_ : rows_->bound()->generation();
}

// With the turn, nothing running. Resident chunks of other bytes are forgotten and filled again as they pass by.
Status Streamer::take_pending(std::unique_lock<std::mutex>& lock) {
  plan::GenerationPtr generation = std::exchange(pending_, nullptr);
  std::shared_ptr<BoundGeneration> bound = std::exchange(pending_bound_, nullptr);
  const std::shared_ptr<RowReader> old = rows_;
  const ArenaLayout layout = layout_;
  lock.unlock();
  std::vector<bool> stays = filled_now();
  std::vector<plan::ChunkId> changed;
  for (std::size_t i = 0; i < stays.size(); ++i) {
    const auto chunk = static_cast<plan::ChunkId>(i);
    if (old->bound()->same_bytes(chunk, *bound)) continue;
    stays[i] = false;
    changed.push_back(chunk);
  }
  bound->inherit_records(*old->bound());
  const Status staged = make_staging(*bound);
  auto plan = staged.ok() ? plan_config(layout, bound, stays) : Result<Plan>(staged);
  if (plan.ok()) {
    pipeline_->quiesce([&](PipelineConfig&, IoEngine&) {
      for (const plan::ChunkId chunk : changed) pipeline_->cache().drop(chunk);
    });
    apply(std::move(plan).value(), stays, false);
  }
  lock.lock();
  if (!plan.ok()) return std::move(plan).status();  // the old generation goes on serving
  gathered_before_ += old->gathered_bytes();
  rows_ = std::make_shared<RowReader>(std::move(bound), options_.io);
  return {};
}

// Where all has a place but a body that never ran keeps some of it empty: read that now, so that nothing needs a turn any more. A failure
// leaves it to the pass that needs the chunk.
Status Streamer::fill_unvisited() {
  {
    std::lock_guard lock(mutex_);
    if (resident_ != order_.order.size() || program_.segments.size() < 2) return {};
  }
  FB_TRY(refresh());
  const Schedule& schedule = pipeline_->config().schedule;
  if (schedule.fills == 0) return {};
  bool failed = false;
  for (std::uint32_t s = 0; s < schedule.segments.size() && !failed; ++s) {
    if (schedule.segments[s].loads.empty()) continue;
    // Step by step, as a pass would: a later load may need the ring place of an earlier one.
    const SegmentSchedule& segment = schedule.segments[s];
    const Walk walk = pipeline_->enter_segment(s);
    std::size_t needed = 0;
    for (std::uint32_t step = 0; step < segment.step_count && !failed; ++step) {
      while (needed < segment.loads.size() && segment.loads[needed].first_step <= step) ++needed;
      failed = !ready_->wait(walk.load_base + needed).ok();
      pipeline_->released(walk.step_base + step, TimelinePoint());
    }
  }
  pipeline_->finish_pass(failed);
  return {};
}

// The schedule anew, for what has been filled since.
Status Streamer::refresh() {
  std::shared_ptr<BoundGeneration> bound;
  ArenaLayout layout;
  {
    std::lock_guard lock(mutex_);
    bound = rows_->bound();
    layout = layout_;
  }
  const std::vector<bool> stays = filled_now();
  FB_ASSIGN(auto plan, plan_config(layout, bound, stays));
  apply(std::move(plan), stays, false);
  return {};
}

bool Streamer::shareable() const { return all_filled_ && resident_ == order_.order.size(); }

Result<std::unique_ptr<PassLease>> Streamer::begin_pass() {
  std::unique_lock lock(mutex_);
  const Turn turn(*this, lock);
  FB_TRY(turn.status());
  if (!have_layout_) return Status(Code::failed_precondition, "no layout has been set yet");
  changed_.wait(lock, [&] { return running_ == 0 || (!running_exclusive_ && pending_ == nullptr && shareable()); });
  FB_TRY(turn.status());
  if (running_ == 0) {
    if (pending_ != nullptr) FB_TRY(take_pending(lock));
    const bool stale = pipeline_->stats().fills.load(std::memory_order_relaxed) != fills_seen_;
    lock.unlock();
    if (stale) FB_TRY(fill_unvisited());
    if (stale || pipeline_->halted()) FB_TRY(refresh());
    lock.lock();
  }
  const bool exclusive = !shareable();
  auto lease = std::make_unique<Lease>(*this, exclusive, rows_);
  ++running_;
  running_exclusive_ = exclusive;
  return std::unique_ptr<PassLease>(std::move(lease));
}

void Streamer::end_pass(bool exclusive, bool failed) {
  if (exclusive) pipeline_->finish_pass(failed);
  std::lock_guard lock(mutex_);
  --running_;
  if (exclusive) running_exclusive_ = false;
  changed_.notify_all();
}

StreamCounters Streamer::counters() const {
  StreamCounters counters;
  const PipelineStats& stats = pipeline_->stats();
  counters.disk_bytes = stats.disk_bytes.load(std::memory_order_relaxed);
  counters.link_bytes = stats.link_bytes.load(std::memory_order_relaxed);
  counters.chunks_loaded = stats.chunks_loaded.load(std::memory_order_relaxed);
  counters.stalls = stats.stalls.load(std::memory_order_relaxed);
  counters.stall_ns = stats.stall_ns.load(std::memory_order_relaxed);
  counters.retries = pipeline_->retries();
  std::lock_guard lock(mutex_);
  counters.gathered_bytes = gathered_before_ + rows_->gathered_bytes();
  counters.host_cache_bytes = pipeline_->cache().held_bytes() + rows_->bound()->generation()->binding.host_bytes;
  return counters;
}

bool Streamer::fully_resident() const {
  std::lock_guard lock(mutex_);
  return have_layout_ && resident_ == order_.order.size();
}

void Streamer::shutdown() {
  std::unique_lock lock(mutex_);
  if (shutdown_ && pipeline_ == nullptr) return;
  shutdown_ = true;
  changed_.notify_all();
  if (pipeline_ == nullptr) return;
  if (running_exclusive_) pipeline_->cancel();
  // Behind whoever has the turn, and after the running passes: their buffers are in use.
  const Turn turn(*this, lock);
  changed_.wait(lock, [&] { return running_ == 0; });
  lock.unlock();
  pipeline_->stop();
}

IoReport Streamer::report() const {
  IoReport report;
  report.engine = pipeline_->engine_name();
  report.why = pipeline_->why_not_uring();
  report.registered = pipeline_->registered();
  report.depth = pipeline_->depth();
  const PipelineStats& stats = pipeline_->stats();
  report.page_cache_bytes = stats.page_cache_bytes.load(std::memory_order_relaxed);
  report.loaded_bytes = stats.loaded_bytes.load(std::memory_order_relaxed);
  report.load_ns = stats.load_ns.load(std::memory_order_relaxed);
  report.disk_bytes = stats.disk_bytes.load(std::memory_order_relaxed);
  report.no_room_ns = stats.no_room_ns.load(std::memory_order_relaxed);
  report.host_cache_bytes = pipeline_->cache().held_bytes();
  std::lock_guard lock(mutex_);
  report.direct = rows_->bound()->any_direct();
  report.host_cache_wanted = cached_wanted_;
  return report;
}

Status Lease::begin_segment(std::uint32_t segment) {
  const PassProgram& program = streamer_.program();
  if (segment >= program.segments.size()) return Status(Code::internal, "there is no segment " + std::to_string(segment));
  segment_ = segment;
  if (exclusive_) walk_ = streamer_.pipeline().enter_segment(segment);
  return {};
}

Status Lease::acquire(std::uint32_t substep, std::span<ChunkAddress> out) {
  const PassProgram& program = streamer_.program();
  if (substep >= program.substeps.size() || segment_ == plan::kNone) return Status(Code::internal, "the substep is not of the segment");
  const PassProgram::Substep& step = program.substeps[substep];
  const PassProgram::Segment& segment = program.segments[segment_];
  if (substep < segment.first_substep || substep - segment.first_substep >= segment.substep_count || out.size() < step.use_count) {
    return Status(Code::internal, "the substep is not of the segment, or there is no room for its addresses");
  }
  ReadPipeline& pipeline = streamer_.pipeline();
  for (std::uint32_t i = 0; i < step.use_count; ++i) {
    if (exclusive_) {
      out[i] = pipeline.address(walk_, step.first_use + i);
    } else {
      out[i] = ChunkAddress();
    }
    if (out[i].data == nullptr) out[i].data = pipeline.config().resident[program.uses[step.first_use + i]];
  }
  if (exclusive_) pipeline.acquired(walk_.step_base + (substep - segment.first_substep));
  return {};
}

void Lease::release(std::uint32_t substep, TimelinePoint done) {
  if (!exclusive_ || segment_ == plan::kNone) return;
  streamer_.pipeline().released(walk_.step_base + (substep - streamer_.program().segments[segment_].first_substep), done);
}

void Lease::end(bool failed) {
  if (ended_) return;
  ended_ = true;
  streamer_.end_pass(exclusive_, failed);
}

}  // namespace

SourceLimits source_limits(const PassProgram& program, std::span<const ChunkShape> shapes, std::uint64_t resident_bytes, bool staged,
                           std::uint64_t ring_bytes) {
  SourceLimits limits;
  limits.min_ring_bytes = min_ring_bytes(program, shapes);
  limits.resident_total_bytes = resident_bytes;
  std::uint64_t sum = 0;
  for (const plan::ChunkId chunk : program.uses) sum += shapes[chunk].raw_slot + shapes[chunk].stored_slot;
  // Through a ring of one chunk each would be read, copied and used before the next is read.
  if (staged) limits.min_ring_bytes = std::max(limits.min_ring_bytes, std::min(sum, kStagedChunks * limits.min_ring_bytes));
  const std::uint64_t wish = ring_bytes != 0 ? ring_bytes : kPreferredRing;
  limits.preferred_ring_bytes = std::max(limits.min_ring_bytes, std::min(sum, wish));
  return limits;
}

Result<std::unique_ptr<WeightSource>> create_streamer(Device& device, Arena& arena, std::shared_ptr<const plan::Plan> plan,
                                                      PassProgram program, plan::GenerationPtr first, const StreamerOptions& options,
                                                      Logger& logger) {
  for (const plan::ChunkId chunk : program.uses) {
    if (chunk >= plan->chunks.size()) return Status(Code::internal, "the pass program uses a chunk that the plan does not have");
  }
  auto streamer = std::make_unique<Streamer>(arena, device.info().arena_host_addressable ? nullptr : &device, std::move(plan), std::move(program), options, logger);
  FB_TRY(streamer->open(device, std::move(first)));
  return std::unique_ptr<WeightSource>(std::move(streamer));
}

IoReport io_report(const WeightSource& source) {
  const auto* streamer = dynamic_cast<const Streamer*>(&source);
  return streamer != nullptr ? streamer->report() : IoReport();
}

}  // namespace forebay::stream
