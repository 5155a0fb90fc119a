// How the executor obtains weights. src/stream implements it; the runtime names neither files nor io_uring.
//
// The PassProgram is the order in which a pass uses chunks. It is a pure function of the plan. A segment is a stretch without control flow:
// prefetch stops at its end (the last segment of the main graph wraps into the first segment of the next pass when the program has one segment).
// A substep is one kernel call: the chunks it needs must be in the arena together.
// Chunks that no substep uses (large gather-only tables: rows are fetched instead) take no place in the arena: neither resident nor streamed.
// Segments without substeps are not listed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "forebay/status.h"
#include "plan/binding.h"
#include "runtime/device.h"
#include "runtime/trace_log.h"

namespace forebay {

struct PassProgram {
  struct Substep {
    std::uint32_t first_use = 0, use_count = 0;  // into uses; may be 0 uses
  };
  struct Segment {
    std::uint32_t first_substep = 0, substep_count = 0;
    bool in_body = false;  // run zero or more times a pass, decided at run time
  };
  std::vector<plan::ChunkId> uses;  // distinct within a substep
  std::vector<Substep> substeps;    // only substeps that use chunks are listed
  std::vector<Segment> segments;
};

// The engine's division of the arena, in bytes from its base; a pure function of budget and sizes (runtime/arena_layout.h).
//   [ state | activations | ring | tables | ... unused ... | resident ]   resident grows downward from the end.
struct ArenaLayout {
  std::uint64_t budget = 0;  // rounded down to the granule
  std::uint64_t state_bytes = 0, activation_offset = 0, activation_bytes = 0;
  std::uint64_t ring_offset = 0, ring_bytes = 0;
  std::uint64_t table_bytes = 0;      // behind the ring: gathered tables, where the budget holds everything
  std::uint64_t resident_bytes = 0;   // the last resident_bytes of the arena hold a prefix of the priority order
  std::uint64_t arena_bytes = 0;      // reserved size
  friend bool operator==(const ArenaLayout&, const ArenaLayout&) = default;
};

struct SourceLimits {
  std::uint64_t min_ring_bytes = 0;       // the largest substep's chunks with slack, stored slots included
  std::uint64_t resident_total_bytes = 0; // every chunk resident, padding included
  std::uint64_t preferred_ring_bytes = 0;
};

struct StreamCounters {  // totals since creation; a pass is the difference
  std::uint64_t disk_bytes = 0;   // read from disk (stored bytes)
  std::uint64_t link_bytes = 0;   // moved into the arena from host memory
  std::uint64_t gathered_bytes = 0;
  std::uint64_t chunks_loaded = 0, stalls = 0, stall_ns = 0, retries = 0;
  std::uint64_t host_cache_bytes = 0;  // held now
};

struct ChunkAddress {
  const std::byte* data = nullptr;  // in the arena
  TimelinePoint ready;              // the queue waits for it before the kernel
};

// One pass's hold on the source: a turn (exclusive while anything streams) and a lease on a generation.
class PassLease {
 public:
  virtual ~PassLease() = default;
  virtual const plan::Generation& generation() const = 0;
  virtual bool shared() const = 0;  // nothing streams and all is in place: other passes may run meanwhile, addresses stay
  // Segments are entered in program order of execution; the previous one must be finished.
  virtual Status begin_segment(std::uint32_t segment) = 0;
  // Addresses of the substep's chunks, in the order of its uses. Substeps of a segment are acquired in order, each once. Never waits for data.
  virtual Status acquire(std::uint32_t substep, std::span<ChunkAddress> out) = 0;
  // The kernel of the substep is done when `done` is reached. Points of one lease lie on one timeline and grow.
  virtual void release(std::uint32_t substep, TimelinePoint done) = 0;
  // Fetches rows of a weight whose chunks no substep uses into `to` (row i of `rows` at to + i * row_bytes). Blocks; any thread. Works for every
  // binding: through RowBinding where available, else from the host chunk, the raw extent, or by decoding the chunks that hold the rows.
  virtual Status gather_rows(plan::WeightId weight, std::span<const std::int64_t> rows, std::byte* to) = 0;
  // Every substep released and its kernels done (or the pass failed: `failed`). Gives the turn back.
  virtual void end(bool failed) = 0;
};

class WeightSource {  // thread-safe
 public:
  virtual ~WeightSource() = default;
  virtual SourceLimits limits() const = 0;  // of the current generation and of one published but not yet taken: the larger
  virtual SourceLimits limits_for(const plan::Generation& generation) const = 0;  // asked before publish, so that the layout fits first
  // Applies a layout between passes: blocks new passes, waits for running ones, drains prefetch, then calls `resize` (commits,
  // moves activations, ...) with nothing in flight, then goes on under the new layout. What is resident in both stays.
  virtual Status reconfigure(const ArenaLayout& layout, const std::function<Status()>& resize) = 0;
  // Taken by the next pass to start.
  virtual Status publish(plan::GenerationPtr generation) = 0;
  virtual plan::GenerationPtr current() const = 0;
  // Blocks until it is this pass's turn (FIFO). cancelled after shutdown().
  virtual Result<std::unique_ptr<PassLease>> begin_pass() = 0;
  virtual StreamCounters counters() const = 0;
  // Spans of loads from now on, until they are taken.
  virtual void start_trace() {}
  virtual std::vector<TraceSpan> stop_trace() { return {}; }
  virtual bool fully_resident() const = 0;  // by layout: nothing streams once filled
  virtual void shutdown() = 0;              // cancels and drains; afterwards only destruction
};

}  // namespace forebay
