// The WeightSource that streams: schedule, residency, ring, host cache, reads. Joins the pure parts (schedule.h, residency.h) with the
// acting ones (io_engine.h, host_cache.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "forebay/logger.h"
#include "runtime/device.h"
#include "runtime/weight_source.h"
#include "stream/schedule.h"

namespace forebay::stream {

class IoEngine;

enum class IoChoice : std::uint8_t { automatic, uring, threads };

struct StreamerOptions {
  IoChoice io = IoChoice::automatic;
  DirectIo direct = DirectIo::prefer;
  std::uint64_t host_cache_bytes = 0;  // beyond Where::host chunks, which are always there
  int decode_threads = 0;              // for digests, decoding and reads from the page cache; 0: chosen
  std::uint32_t read_bytes = 0, queue_depth = 0;  // 0: chosen
  std::uint64_t ring_bytes = 0;  // 0: chosen
  std::uint64_t staging_bytes = 0;  // host memory that loads pass through on their way to a device; 0: chosen
  bool register_buffers = true;
  std::function<std::unique_ptr<IoEngine>(std::unique_ptr<IoEngine>)> wrap_engine;  // for fault tests
};

// What a source needs for chunks of these shapes. `staged`: through host memory, to a device that the host does not address. `ring_bytes`: 0,
// or as in StreamerOptions.
SourceLimits source_limits(const PassProgram& program, std::span<const ChunkShape> shapes, std::uint64_t resident_bytes, bool staged,
                           std::uint64_t ring_bytes = 0);

// `arena` and `device` outlive the streamer. `program` is the engine's.
Result<std::unique_ptr<WeightSource>> create_streamer(Device& device, Arena& arena, std::shared_ptr<const plan::Plan> plan,
                                                      PassProgram program, plan::GenerationPtr first, const StreamerOptions& options,
                                                      Logger& logger);

struct IoReport {  // for doctor, bench and log lines
  std::string engine;   // "uring", "threads"
  std::string why;      // why not uring
  bool direct = false, registered = false;
  std::uint64_t depth = 0;  // reads in flight at most
  std::uint64_t page_cache_bytes = 0;  // of those read from files, taken from the page cache
  // The first filling of the resident part, from its first load's start to its last one's end: all that was loaded meanwhile.
  std::uint64_t loaded_bytes = 0, load_ns = 0;
  std::uint64_t disk_bytes = 0;                               // read so far
  std::uint64_t no_room_ns = 0;                               // passes' loads had no place to be read to while the disk took more reads
  std::uint64_t host_cache_bytes = 0, host_cache_wanted = 0;  // held, and chosen to be
};
IoReport io_report(const WeightSource& source);

}  // namespace forebay::stream
