// The schedule: which loads a pass makes, where in the ring each lands, and when it may. Pure: plain numbers in, plain numbers out.
//
// The ring is a byte FIFO. A load has the same address in every pass. It may be started once every use of what lies under it is done, which
// its gate states. The chunks of one substep never lie on each other, and a gate always names an earlier substep than the load's own first
// use, so that the loads in order never deadlock for any ring of at least min_ring_bytes().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "forebay/status.h"
#include "runtime/weight_source.h"

namespace forebay::stream {

// Ring bytes that a chunk takes; multiples of kBlockBytes.
struct ChunkShape {
  std::uint64_t raw_slot = 0;     // streamed: where kernels read it, slack included
  std::uint64_t stored_slot = 0;  // streamed and coded: beside it
  std::uint64_t fill_slot = 0;    // while it is brought to its resident place; 0: it lands there directly
};

enum class Place : std::uint8_t { streamed, resident, fill };  // fill: has a resident place, is not there yet

inline constexpr std::uint64_t kNoSlot = ~0ull;
inline constexpr std::uint32_t kResidentUse = 0xffffffffu;

struct Load {
  plan::ChunkId chunk = 0;
  bool fill = false;
  std::uint64_t raw_offset = kNoSlot;     // in the ring
  std::uint64_t stored_offset = kNoSlot;  // in the ring: coded bytes, or the staging of a fill
  std::uint32_t first_step = 0, last_step = 0;  // substeps of the segment that use it
  // Substeps of this run of the segment that must be done before the load starts. Zero: everything before the run; -n: everything before
  // the run but the last n substeps (only when the schedule wraps).
  std::int64_t gate = 0;
};

struct SegmentSchedule {
  std::uint32_t first_step = 0, step_count = 0;  // in PassProgram::substeps
  std::uint32_t first_use = 0;                   // in PassProgram::uses
  std::vector<Load> loads;                       // in order of first use
  std::vector<std::uint32_t> use_load;           // per use of the segment: index into loads, or kResidentUse
};

struct Schedule {
  std::vector<SegmentSchedule> segments;
  bool wraps = false;      // one segment, no fills: its loads follow each other from pass to pass without draining
  std::uint64_t fills = 0;
  std::uint64_t streamed_loads = 0;
  std::uint64_t ring_peak = 0;  // highest ring byte used
};

// The least ring with which build_schedule succeeds for every choice of places.
std::uint64_t min_ring_bytes(const PassProgram& program, std::span<const ChunkShape> shapes);

// `places` and `shapes` by chunk. resource_exhausted, naming the bytes, when a substep does not fit the ring.
Result<Schedule> build_schedule(const PassProgram& program, std::span<const ChunkShape> shapes, std::span<const Place> places,
                                std::uint64_t ring_bytes);

}  // namespace forebay::stream
