// The reading side of the streamer: one I/O thread that walks the schedule ahead of the executor, a pool that checks, decodes and copies
// what arrived, and the ready timeline that tells the executor.
//
// A walk is one run of a segment. Loads are numbered over all walks; load n is ready when the ready timeline has reached n + 1, and it is
// signalled in order. Steps (substeps) are numbered over all walks too: a load waits until its gate's step is done.
//
// Invariant number one: no buffer is read into, freed or reused until its read has completed and every use of what lay there is done.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "codec/chunk_codec.h"
#include "runtime/device_tools.h"
#include "runtime/trace_log.h"
#include "stream/bound_generation.h"
#include "stream/host_cache.h"
#include "stream/io_engine.h"
#include "stream/schedule.h"
#include "stream/staging_rooms.h"
#include "stream/work_pool.h"

namespace forebay::stream {

std::int64_t now_ns();  // of steady_clock

// What the I/O thread works by; changed only within quiesce().
struct PipelineConfig {
  std::shared_ptr<BoundGeneration> bound;
  Schedule schedule;
  std::byte* ring = nullptr;
  std::uint64_t ring_bytes = 0;
  // Where the host does not address the arena: host memory that loads are read into. A load is copied from there to its place on the device
  // by the copy queue, and ready when that is done. Null: reads land in the arena.
  std::byte* staging = nullptr;
  std::uint64_t staging_bytes = 0;
  std::vector<std::byte*> resident;  // by chunk; null: streamed or unused
};

// One run of a segment, as the executor sees it.
struct Walk {
  std::uint32_t segment = 0;
  std::uint64_t load_base = 0, step_base = 0;
};

struct PipelineStats {
  std::atomic<std::uint64_t> disk_bytes{0}, link_bytes{0}, chunks_loaded{0}, fills{0}, stalls{0}, stall_ns{0};
  std::atomic<std::uint64_t> page_cache_bytes{0}, loaded_bytes{0}, load_ns{0};
  std::atomic<std::uint64_t> no_room_ns{0};  // a pass had loads to read, the disk took more reads, and they had no place to go to yet
};

class ReadPipeline {
 public:
  static Result<std::unique_ptr<ReadPipeline>> create(const StreamerOptions& options, std::size_t chunks, std::uint64_t most_steps,
                                                      Timeline& ready, Logger& logger, Device* staged = nullptr, PinnedPool* pool = nullptr);
  ~ReadPipeline();
  ReadPipeline(const ReadPipeline&) = delete;
  ReadPipeline& operator=(const ReadPipeline&) = delete;

  // Runs `change` on the I/O thread with nothing in flight; what was prefetched is dropped and a failure forgotten. No lease may be out.
  void quiesce(const std::function<void(PipelineConfig&, IoEngine&)>& change);
  // Whether a load failed, or a pass: quiesce before the next pass.
  bool halted() const;

  // Fails whoever waits for a load, and starts no more: a shutdown with a pass running.
  void cancel();
  // Drains and joins; no lease may be out. Afterwards only destruction.
  void stop();

  // For the pass that has the turn.
  Walk enter_segment(std::uint32_t segment);
  ChunkAddress address(const Walk& walk, std::uint32_t use) const;  // `use` in PassProgram::uses
  void acquired(std::uint64_t step);                                // for the stall counters
  void released(std::uint64_t step, TimelinePoint done);
  // Every step entered is done; on failure everything later is dropped at the next quiesce.
  void finish_pass(bool failed);

  const PipelineConfig& config() const { return config_; }  // stable while a lease is out
  HostCache& cache() { return cache_; }
  const PipelineStats& stats() const { return stats_; }
  std::uint64_t retries() const { return retries_.load(std::memory_order_relaxed) + page_cache_retries_.load(std::memory_order_relaxed); }
  const std::string& why_not_uring() const { return why_; }
  std::string engine_name() const;
  bool registered() const { return registered_.load(); }
  std::uint64_t depth() const { return depth_; }  // reads in flight at most
  // Of resident chunks, whether it is in place.
  bool filled(plan::ChunkId chunk) const;
  void forget(plan::ChunkId chunk);  // within quiesce

  // load_trace.cc
  void start_trace();
  std::vector<TraceSpan> stop_trace();  // copies under way are left out

 private:
  enum class Fill : std::uint8_t { none, filling, filled };
  enum class Stage : std::uint8_t { idle, reading, working, copying, finished };
  struct LoadSlot {
    std::atomic<Stage> stage{Stage::idle};
    std::uint64_t sequence = 0, first_step = 0;
    plan::ChunkId chunk = 0;
    bool fill = false, skipped = false;
    bool page_cached = false;  // read by the pool, from the page cache
    bool first_pass = false;   // to a device: what the page cache holds goes to the host cache in a later one
    std::uint64_t room_at = 0, room_bytes = 0;  // in the staging; 0 bytes: it needs none
    bool prefetched = false;  // begun before its pass: a failure is not held against that, it is read once more
    std::byte* raw = nullptr;      // where the raw bytes are to be; in the staging when there is one
    std::byte* device = nullptr;   // and then where they are copied to
    std::uint64_t copy_number = 0; // value of copied_ that says the copy is done
    const std::byte* copy_from = nullptr;
    std::atomic<bool> copy_begun{false};
    std::byte* read_to = nullptr;  // where the read lands; null: from host memory
    const std::byte* cached = nullptr;
    std::uint64_t started = 0;     // bytes of the read handed to the engine
    std::uint32_t outstanding = 0;
    std::int64_t begun_ns = 0;     // of its reads, when they are traced
    ReadPipeline* pipeline = nullptr;  // when its copy is traced
    std::size_t copy_mark = 0;         // of that, on copy_watch_
    Status status;
  };
  struct TracedCopy {
    plan::ChunkId chunk = 0;
    std::size_t mark = 0;  // and the next one at its end
    std::uint64_t bytes = 0;
  };
  static constexpr std::uint64_t kSlots = 256;  // loads under way
  static constexpr std::size_t kWalks = 64;

  ReadPipeline(const StreamerOptions& options, std::size_t chunks, std::uint64_t most_steps, Timeline& ready, Logger& logger, PinnedPool* pool);

  // The I/O thread (read_pipeline.cc).
  void run(Status* opened, std::condition_variable* opened_signal, bool* opened_done);
  void loop();
  bool serve_command();
  void on_read(ReadDone done);
  bool advance();
  bool issue();
  enum class Pick : std::uint8_t { none, load };
  Pick pick(std::uint64_t* sequence);
  bool begin_load(LoadSlot& slot);
  bool continue_reads(LoadSlot& slot);
  std::uint64_t piece_at(const ChunkSource& source, std::uint64_t begin) const;
  void hand_over(LoadSlot& slot);
  bool forgive(LoadSlot& slot);
  void halt(const LoadSlot& slot);
  void note_stall(std::uint64_t first_step);
  void place(LoadSlot& slot, const Load& load);
  bool take_room(LoadSlot& slot);
  void give_room(LoadSlot& slot);
  void note_room(bool none);
  void note_load(const LoadSlot& slot);

  // The pool.
  static void work(void* self, void* slot, int worker);
  Status process(LoadSlot& slot, int worker);
  void deliver(LoadSlot& slot, const std::byte* from, std::uint64_t bytes);

  // page_cache_read.cc: what the system holds already needs copying, which many threads do faster than the disk's engine.
  bool in_page_cache(const LoadSlot& slot) const;
  Result<Xxh128> read_page_cache(LoadSlot& slot, Xxh128Stream& digest);
  Status too_short(const LoadSlot& slot, std::uint64_t at) const;

  // staged_copy.cc: copies to a device whose arena the host does not address.
  Status open_copies(Device& device);
  void trace(TraceSpan::Lane lane, const LoadSlot& slot, std::int64_t begin_ns, std::uint64_t bytes);
  void trace_copy(LoadSlot& slot, std::uint64_t bytes);
  void copy_to_device(LoadSlot& slot);  // the last that a pool thread does with a slot
  bool settled(LoadSlot& slot);  // a copy that is done makes its load finished

  Walk push_walk(std::uint32_t segment);  // mutex_ held
  void update_done();                     // mutex_ held
  LoadSlot& slot_of(std::uint64_t sequence) { return slots_[sequence % kSlots]; }

  const StreamerOptions options_;
  const std::uint64_t read_bytes_, depth_;
  Timeline& ready_;
  Logger& logger_;
  std::unique_ptr<IoEngine> engine_;  // of the I/O thread, but for wake()
  std::unique_ptr<WorkPool> pool_;
  struct Scratch {
    codec::ChunkCodec codec;
    Xxh128Stream digest;
  };
  std::deque<Scratch> scratch_;  // one a worker
  HostCache cache_;
  PipelineConfig config_;
  std::unique_ptr<Timeline> copied_;   // with a staged device
  std::unique_ptr<Queue> copy_queue_;
  std::mutex copy_mutex_;              // the pool's threads enqueue
  std::uint64_t copies_ = 0;
  TraceLog trace_;
  DeviceTools* tools_ = nullptr;       // of the staged device
  std::unique_ptr<Stopwatch> copy_watch_;  // made with the first trace, under copy_mutex_, as the rest
  std::size_t next_mark_ = 0;
  std::vector<TracedCopy> traced_copies_;
  std::string why_;
  PipelineStats stats_;
  std::atomic<std::uint64_t> retries_{0}, page_cache_retries_{0};
  std::atomic<bool> registered_{false}, on_threads_{false};

  // Of the I/O thread.
  std::vector<LoadSlot> slots_;
  std::uint64_t head_ = 0, tail_ = 0;  // loads under way: [head_, tail_)
  std::uint64_t bytes_in_flight_ = 0;
  std::int64_t no_room_since_ns_ = 0;
  StagingRooms rooms_;
  std::int64_t load_began_ns_ = 0;               // of the first fill
  std::uint64_t load_bytes_ = 0;                 // come since
  bool load_told_ = false;                       // the first filling is over
  LoadSlot* partial_ = nullptr;        // its reads are not all started yet
  LoadSlot* redo_ = nullptr;           // to be begun again
  std::array<ReadDone, 64> done_;

  std::atomic<bool> gate_blocked_{false};
  std::atomic<std::int64_t> last_done_ns_{0};

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::array<Walk, kWalks> walks_;
  std::uint64_t walk_first_ = 0, walk_end_ = 0;  // walks known: [first, end); the first is the one being issued
  std::uint32_t walk_load_ = 0;                  // next load of it
  bool unclaimed_ = false;                       // the last walk was started by the I/O thread for the next pass
  bool started_ = false;                         // a pass has run under this schedule: prefetch may begin
  bool passed_ = false;                          // a pass has ended
  std::uint64_t next_sequence_ = 0, next_step_ = 0;
  std::uint64_t claimed_loads_ = 0, claimed_steps_ = 0;  // ends of what the executor has entered
  std::uint64_t done_step_ = 0, released_step_ = 0;      // ends of what is done, and released
  std::uint64_t acquired_step_ = 0;
  std::int64_t acquired_ns_ = 0;
  std::vector<std::uint64_t> step_values_;               // timeline values of [done_step_, released_step_)
  Timeline* step_timeline_ = nullptr;
  std::vector<Fill> fills_;
  bool halted_ = false, failed_ = false;
  Status failure_;
  const std::function<void(PipelineConfig&, IoEngine&)>* command_ = nullptr;
  bool stop_ = false;

  std::thread thread_;
};

}  // namespace forebay::stream
