// The I/O thread. Each turn: collect what was read, signal what is ready in order, start what may start, sleep.
#include "stream/read_pipeline.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include <pthread.h>

#include "base/check.h"
#include "base/checked.h"

namespace forebay::stream {
namespace {

// 8 MiB in flight keep a disk busy; more only makes a fault's wait longer, and takes more memory than stays in a cache.
constexpr std::uint64_t kReadBytes = 512u << 10, kReadsInFlight = 16;
constexpr int kWorkersMax = 12;
constexpr std::uint32_t kRequests = 128;  // in flight at most: small chunks need more of them for the same bytes

std::uint64_t read_size(const StreamerOptions& options) {
  const std::uint64_t wish = options.read_bytes == 0 ? kReadBytes : options.read_bytes;
  return std::clamp<std::uint64_t>(align_up(wish, kBlockBytes), kBlockBytes, 64u << 20);
}

// Enough to keep a link busy from the page cache; with a thread for every core they slow each other down. They sleep while weights come
// from elsewhere.
int chosen_workers() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) * 5 / 8, 1, kWorkersMax);
}

}  // namespace

ReadPipeline::ReadPipeline(const StreamerOptions& options, std::size_t chunks, std::uint64_t most_steps, Timeline& ready, Logger& logger,
                           PinnedPool* pool)
    : options_(options),
      read_bytes_(read_size(options)),
      depth_(options.queue_depth != 0 ? options.queue_depth : kReadsInFlight),
      ready_(ready),
      logger_(logger),
      cache_(chunks, pool),
      slots_(kSlots),
      step_values_(2 * most_steps + 64),
      fills_(chunks, Fill::none) {}

Result<std::unique_ptr<ReadPipeline>> ReadPipeline::create(const StreamerOptions& options, std::size_t chunks, std::uint64_t most_steps,
                                                           Timeline& ready, Logger& logger, Device* staged, PinnedPool* pool) {
  std::unique_ptr<ReadPipeline> p(new ReadPipeline(options, chunks, most_steps, ready, logger, pool));
  const int workers = options.decode_threads > 0 ? options.decode_threads : chosen_workers();
  for (int i = 0; i < workers; ++i) p->scratch_.emplace_back();
  FB_ASSIGN(p->pool_, WorkPool::create(workers, kSlots, &ReadPipeline::work, p.get()));
  Status opened;
  std::condition_variable opened_signal;
  bool opened_done = false;
  try {
    // The engine is made on the thread that will use it: a single-issuer ring belongs to its maker.
    p->thread_ = std::thread([&, self = p.get()] { self->run(&opened, &opened_signal, &opened_done); });
  } catch (const std::system_error& error) {
    return Status(Code::unavailable, std::string("no thread for reads: ") + error.what());
  }
  pthread_setname_np(p->thread_.native_handle(), "fb-io");
  std::unique_lock lock(p->mutex_);
  opened_signal.wait(lock, [&] { return opened_done; });
  lock.unlock();
  if (!opened.ok()) return opened;
  if (staged != nullptr) FB_TRY(p->open_copies(*staged));
  return p;
}

ReadPipeline::~ReadPipeline() { stop(); }

void ReadPipeline::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    if (engine_ != nullptr) engine_->wake();
  }
  thread_.join();
}

void ReadPipeline::run(Status* opened, std::condition_variable* opened_signal, bool* opened_done) {
  const std::uint32_t requests = std::max(kRequests, options_.queue_depth);
  auto engine = create_io_engine(options_.io, requests, logger_, &why_);
  bool usable = engine.ok();
  {
    std::lock_guard lock(mutex_);
    if (usable) {
      engine_ = std::move(engine).value();
      if (options_.wrap_engine) engine_ = options_.wrap_engine(std::move(engine_));
      on_threads_.store(std::string_view(engine_->name()) != "uring");
    } else {
      *opened = std::move(engine).status();
    }
    *opened_done = true;
    opened_signal->notify_all();
  }
  if (!usable) return;
  loop();
  if (copied_ != nullptr) copied_->set_listener({});
  pool_.reset();    // nothing is in flight any more; the workers may still be waking the engine
  std::lock_guard lock(mutex_);
  engine_.reset();
}

void ReadPipeline::loop() {
  bool busy = true;
  for (;;) {
    const std::size_t count = engine_->collect(done_, !busy);
    busy = count == done_.size();
    for (std::size_t i = 0; i < count; ++i) on_read(std::move(done_[i]));
    if (count > 0) {
      retries_.store(engine_->retries(), std::memory_order_relaxed);
      on_threads_.store(engine_->name()[0] != 'u', std::memory_order_relaxed);
    }
    if (advance()) busy = true;
    bool draining = false;
    {
      std::lock_guard lock(mutex_);
      draining = stop_ || command_ != nullptr;
    }
    if (!draining) {
      if (issue()) busy = true;
      continue;
    }
    // A load whose reads are only partly started ends with those.
    if (partial_ != nullptr && partial_->outstanding == 0) {
      partial_->status = Status(Code::cancelled, "dropped");
      partial_->stage.store(Stage::finished, std::memory_order_release);
      partial_ = nullptr;
    }
    bool quiet = engine_->in_flight() == 0;
    for (std::uint64_t s = head_; s < tail_ && quiet; ++s) quiet = settled(slot_of(s));
    if (!quiet) continue;
    if (!serve_command()) return;
    busy = true;
  }
}

// With nothing in flight. False: the thread is to end.
bool ReadPipeline::serve_command() {
  std::unique_lock lock(mutex_);
  for (std::uint64_t s = head_; s < tail_; ++s) {
    slot_of(s).stage.store(Stage::idle, std::memory_order_relaxed);
    slot_of(s).status = Status();
  }
  partial_ = redo_ = nullptr;
  bytes_in_flight_ = 0;
  load_told_ = load_told_ || load_bytes_ > 0;
  // Numbers go on from where they are, so that no old ready point can be met by a new load.
  head_ = tail_ = claimed_loads_ = next_sequence_;
  done_step_ = released_step_ = claimed_steps_ = next_step_;
  walk_first_ = walk_end_;
  walk_load_ = 0;
  unclaimed_ = started_ = false;
  for (Fill& fill : fills_) fill = fill == Fill::filling ? Fill::none : fill;
  if (stop_) return false;
  halted_ = failed_ = false;
  failure_ = Status();
  ready_.reset();
  const auto* command = command_;
  lock.unlock();
  (*command)(config_, *engine_);
  rooms_.reset(config_.staging_bytes);
  lock.lock();
  registered_.store(engine_->registered());
  command_ = nullptr;
  changed_.notify_all();
  return true;
}

void ReadPipeline::on_read(ReadDone done) {
  LoadSlot& slot = slots_[done.tag % kSlots];
  const ChunkSource& source = config_.bound->source(slot.chunk);
  const std::uint64_t piece = done.tag / kSlots;  // which piece of the chunk's read
  const std::uint64_t begin = piece * read_bytes_;
  const std::uint64_t asked = piece_at(source, begin);
  const std::uint64_t needed = source.needed > begin ? std::min(asked, source.needed - begin) : 0;
  bytes_in_flight_ -= asked;
  --slot.outstanding;
  if (!done.status.ok()) {
    if (slot.status.ok()) slot.status = config_.bound->name_failure(slot.chunk, std::move(done.status));
  } else if (done.bytes < needed && slot.status.ok()) {
    slot.status = too_short(slot, begin + done.bytes);
  }
  if (slot.outstanding > 0) return;
  if (slot.status.ok() && slot.started < source.read_bytes) return;  // more of it is to be started
  if (partial_ == &slot) partial_ = nullptr;
  trace(TraceSpan::Lane::disk, slot, slot.begun_ns, source.read_bytes);
  hand_over(slot);
}

// All reads of the load are done, or none was needed.
void ReadPipeline::hand_over(LoadSlot& slot) {
  if (!slot.status.ok()) {
    slot.stage.store(Stage::finished, std::memory_order_release);
    return;
  }
  slot.stage.store(Stage::working, std::memory_order_relaxed);
  // What lies in host memory as the device wants it needs only a command: not worth waking a thread for.
  const ChunkSource& source = config_.bound->source(slot.chunk);
  if (slot.device != nullptr && (source.file == nullptr || (slot.cached != nullptr && !source.coded))) return work(this, &slot, 0);
  pool_->submit(&slot);
}

void ReadPipeline::give_room(LoadSlot& slot) {
  rooms_.give(slot.room_at, slot.room_bytes);
  slot.room_bytes = 0;
}

// Signals the loads that are finished, in order. Their room in the staging is free before that: reads end in any order.
bool ReadPipeline::advance() {
  const std::uint64_t before = head_;
  for (std::uint64_t s = head_; s < tail_ && config_.staging != nullptr; ++s) {
    LoadSlot& slot = slot_of(s);
    if (slot.room_bytes > 0 && settled(slot) && slot.status.ok()) give_room(slot);
  }
  std::uint64_t loads = 0, first_step = 0;
  while (head_ < tail_) {
    LoadSlot& slot = slot_of(head_);
    if (!settled(slot)) break;
    if (!slot.status.ok()) {
      if (!forgive(slot)) halt(slot);
      break;
    }
    if (slot.fill && !slot.skipped) {
      std::lock_guard lock(mutex_);
      fills_[slot.chunk] = Fill::filled;
      stats_.fills.fetch_add(1, std::memory_order_relaxed);
    }
    give_room(slot);
    if (!slot.skipped) note_load(slot);
    if (!slot.skipped) {
      ++loads;
      first_step = slot.first_step;
    }
    slot.stage.store(Stage::idle, std::memory_order_relaxed);
    ++head_;
  }
  if (head_ == before) return false;
  stats_.chunks_loaded.fetch_add(loads, std::memory_order_relaxed);
  if (loads > 0) note_stall(first_step);
  ready_.signal(head_);
  return true;
}

// Only while the pass that runs has loads left.
void ReadPipeline::note_room(bool none) {
  if (none) {
    const std::lock_guard lock(mutex_);
    none = tail_ < claimed_loads_;
  }
  if (!none && no_room_since_ns_ == 0) return;
  const std::int64_t now = now_ns();
  if (no_room_since_ns_ != 0) stats_.no_room_ns.fetch_add(static_cast<std::uint64_t>(now - no_room_since_ns_), std::memory_order_relaxed);
  no_room_since_ns_ = none ? now : 0;
}

void ReadPipeline::note_load(const LoadSlot& slot) {
  if (load_began_ns_ == 0 || load_told_) return;
  load_bytes_ += config_.bound->raw_bytes(slot.chunk);
  if (!slot.fill) return;
  stats_.loaded_bytes.store(load_bytes_, std::memory_order_relaxed);
  stats_.load_ns.store(static_cast<std::uint64_t>(now_ns() - load_began_ns_), std::memory_order_relaxed);
}

// The executor waited for this load when all it had before it was done.
void ReadPipeline::note_stall(std::uint64_t first_step) {
  std::lock_guard lock(mutex_);
  update_done();
  if (acquired_step_ <= first_step || done_step_ < first_step) return;
  const std::int64_t since = std::max(acquired_ns_, last_done_ns_.load(std::memory_order_relaxed));
  const std::int64_t waited = now_ns() - since;
  if (waited <= 0) return;
  stats_.stalls.fetch_add(1, std::memory_order_relaxed);
  stats_.stall_ns.fetch_add(static_cast<std::uint64_t>(waited), std::memory_order_relaxed);
}

// What failed before its pass began is read again once that pass is there: the fault may be gone by then.
bool ReadPipeline::forgive(LoadSlot& slot) {
  if (redo_ == &slot) return true;
  if (!slot.prefetched) return false;
  std::lock_guard lock(mutex_);
  if (slot.sequence < claimed_loads_) {
    slot.prefetched = false;
    redo_ = &slot;
  }
  return true;
}

void ReadPipeline::halt(const LoadSlot& slot) {
  std::lock_guard lock(mutex_);
  if (halted_) return;
  halted_ = true;
  failure_ = slot.status;
  failed_ = true;
  ready_.fail(failure_);
}

// Starts what may start. True: something finished at once, look again before sleeping.
bool ReadPipeline::issue() {
  bool at_once = false;
  for (;;) {
    if (partial_ != nullptr) {
      note_room(false);
      if (!continue_reads(*partial_)) return at_once;
      partial_ = nullptr;
    }
    if (redo_ != nullptr) {
      LoadSlot& slot = *std::exchange(redo_, nullptr);
      slot.status = Status();
      slot.started = 0;
      if (begin_load(slot)) at_once = true;
      continue;
    }
    std::uint64_t sequence = 0;
    if (pick(&sequence) == Pick::none) {
      note_room(bytes_in_flight_ < depth_ * read_bytes_);
      return at_once;
    }
    note_room(false);
    if (begin_load(slot_of(sequence))) at_once = true;
  }
}

// Takes the next load of the walks, once its gate lets it.
ReadPipeline::Pick ReadPipeline::pick(std::uint64_t* sequence) {
  std::lock_guard lock(mutex_);
  if (halted_ || command_ != nullptr || tail_ - head_ == kSlots) return Pick::none;
  for (;;) {
    if (walk_first_ == walk_end_) return Pick::none;
    const Walk& walk = walks_[walk_first_ % kWalks];
    if (walk_load_ < config_.schedule.segments[walk.segment].loads.size()) break;
    if (walk_first_ + 1 == walk_end_) {
      if (!config_.schedule.wraps || unclaimed_ || !started_ || config_.schedule.segments[0].loads.empty()) return Pick::none;
      push_walk(0);
      unclaimed_ = true;
    }
    ++walk_first_;
    walk_load_ = 0;
    changed_.notify_all();
  }
  const Walk& walk = walks_[walk_first_ % kWalks];
  const Load& load = config_.schedule.segments[walk.segment].loads[walk_load_];
  const auto gate = static_cast<std::int64_t>(walk.step_base) + load.gate;
  // The flag first, then the look: a step done in between wakes us.
  gate_blocked_.store(true);
  update_done();
  if (static_cast<std::int64_t>(done_step_) < gate) return Pick::none;
  gate_blocked_.store(false);

  LoadSlot& slot = slot_of(tail_);
  slot.sequence = tail_;
  slot.chunk = load.chunk;
  slot.fill = load.fill;
  slot.skipped = load.fill && fills_[load.chunk] != Fill::none;  // by an earlier walk; in order, so it is ready before this one
  slot.cached = cache_.find(load.chunk);
  if (!take_room(slot)) return Pick::none;
  if (load.fill && !slot.skipped) fills_[load.chunk] = Fill::filling;
  slot.prefetched = slot.sequence >= claimed_loads_;
  slot.first_pass = !passed_ && copied_ != nullptr;
  slot.first_step = walk.step_base + load.first_step;
  place(slot, load);
  slot.started = 0;
  slot.outstanding = 0;
  *sequence = tail_++;
  ++walk_load_;
  return Pick::load;
}

// The room in host memory through which it goes to the device. False: there is none until a load before it is done.
bool ReadPipeline::take_room(LoadSlot& slot) {
  slot.room_bytes = 0;
  const ChunkSource& source = config_.bound->source(slot.chunk);
  if (config_.staging == nullptr || slot.skipped || source.file == nullptr || (slot.cached != nullptr && !source.coded)) return true;
  const ChunkShape& shape = config_.bound->shapes()[slot.chunk];
  const std::uint64_t bytes = shape.raw_slot + shape.stored_slot;
  FB_CHECK(bytes <= rooms_.size());
  const auto at = rooms_.take(bytes);
  if (!at) return false;
  slot.room_at = *at;
  slot.room_bytes = bytes;
  return true;
}

// Where the load's bytes go.
void ReadPipeline::place(LoadSlot& slot, const Load& load) {
  const ChunkSource& source = config_.bound->source(load.chunk);
  const ChunkShape& shape = config_.bound->shapes()[load.chunk];
  const bool staged = config_.staging != nullptr;
  std::byte* stored = load.stored_offset == kNoSlot ? nullptr : config_.ring + load.stored_offset;
  slot.device = !staged ? nullptr : load.fill ? config_.resident[load.chunk] : config_.ring + load.raw_offset + source.shift;
  if (staged) {
    slot.raw = config_.staging + slot.room_at;
    slot.read_to = source.coded ? slot.raw + shape.raw_slot : slot.raw;
  } else if (load.fill) {
    slot.raw = config_.resident[load.chunk];
    slot.read_to = stored != nullptr ? stored : slot.raw;
  } else {
    std::byte* const at = config_.ring + load.raw_offset;
    slot.raw = at + source.shift;
    slot.read_to = stored != nullptr ? stored : at;
  }
  if (source.file == nullptr || slot.cached != nullptr) slot.read_to = nullptr;
}

// True when it needed nothing and is finished.
bool ReadPipeline::begin_load(LoadSlot& slot) {
  if (slot.fill && load_began_ns_ == 0) load_began_ns_ = now_ns();
  if (slot.skipped) {
    slot.stage.store(Stage::finished, std::memory_order_release);
    return true;
  }
  if (slot.read_to == nullptr || config_.bound->source(slot.chunk).read_bytes == 0) {
    slot.page_cached = false;
    hand_over(slot);
    return false;
  }
  slot.begun_ns = trace_.on() ? now_ns() : 0;
  slot.page_cached = in_page_cache(slot);
  if (slot.page_cached) {
    hand_over(slot);
    return false;
  }
  if (!slot.fill) cache_.start();
  slot.stage.store(Stage::reading, std::memory_order_relaxed);
  partial_ = &slot;
  return false;
}

// Of the read of a chunk that begins there. A short rest goes with the piece before it: chunks of 8 MiB that do not begin at a block have
// one of 4 KiB, which costs the disk an operation like any other.
std::uint64_t ReadPipeline::piece_at(const ChunkSource& source, std::uint64_t begin) const {
  const std::uint64_t left = source.read_bytes - begin;
  return left <= read_bytes_ + read_bytes_ / 4 ? left : read_bytes_;
}

// True when all reads of the load are started.
bool ReadPipeline::continue_reads(LoadSlot& slot) {
  const ChunkSource& source = config_.bound->source(slot.chunk);
  while (slot.started < source.read_bytes) {
    if (!slot.status.ok()) return false;  // its last outstanding read ends it
    const std::uint64_t bytes = piece_at(source, slot.started);
    if (engine_->in_flight() >= engine_->capacity()) return false;
    if (bytes_in_flight_ >= depth_ * read_bytes_) return false;
    ReadRequest request;
    request.file = source.file;
    request.buffered = source.buffered;
    request.offset = source.read_offset + slot.started;
    request.to = slot.read_to + slot.started;
    request.bytes = static_cast<std::uint32_t>(bytes);
    request.needed = static_cast<std::uint32_t>(source.needed > slot.started ? std::min(bytes, source.needed - slot.started) : 0);
    request.tag = (slot.started / read_bytes_) * kSlots + slot.sequence % kSlots;
    slot.started += bytes;
    ++slot.outstanding;
    bytes_in_flight_ += bytes;
    engine_->start(request);
  }
  return true;
}

}  // namespace forebay::stream
