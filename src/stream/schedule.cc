#include "stream/schedule.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <utility>

#include "base/check.h"

namespace forebay::stream {
namespace {

// Which load a ring byte belongs to. Runs are 0 (the run being placed) and 1 (its repetition, for the gates of a wrapping schedule).
struct Owner {
  std::uint32_t run = 0, load = 0;
  friend bool operator==(const Owner&, const Owner&) = default;
};

class RingMap {
 public:
  // Calls f(owner) for every owner of bytes in [begin, end).
  template <typename F>
  void visit(std::uint64_t begin, std::uint64_t end, F&& f) const {
    if (begin >= end) return;
    auto it = spans_.upper_bound(begin);
    if (it != spans_.begin()) --it;
    for (; it != spans_.end() && it->first < end; ++it) {
      if (it->second.end > begin) f(it->second.owner);
    }
  }

  void put(std::uint64_t begin, std::uint64_t end, Owner owner) {
    if (begin >= end) return;
    split(begin);
    split(end);
    spans_.erase(spans_.lower_bound(begin), spans_.lower_bound(end));
    spans_.emplace(begin, Span{end, owner});
  }

  bool owned_by(std::uint64_t begin, std::uint64_t end, Owner owner) const {
    std::uint64_t covered = 0;
    bool only = true;
    auto it = spans_.upper_bound(begin);
    if (it != spans_.begin()) --it;
    for (; it != spans_.end() && it->first < end; ++it) {
      const std::uint64_t from = std::max(begin, it->first), to = std::min(end, it->second.end);
      if (from >= to) continue;
      only = only && it->second.owner == owner;
      covered += to - from;
    }
    return only && covered == end - begin;
  }

 private:
  struct Span {
    std::uint64_t end;
    Owner owner;
  };
  void split(std::uint64_t at) {
    auto it = spans_.lower_bound(at);
    if (it == spans_.begin()) return;
    --it;
    if (it->second.end <= at) return;
    const Span tail = it->second;
    it->second.end = at;
    spans_.emplace(at, tail);
  }
  std::map<std::uint64_t, Span> spans_;
};

struct Block {
  std::uint64_t begin = 0, end = 0;
};
bool overlap(const Block& a, const Block& b) { return a.begin < b.end && b.begin < a.end; }

// Bytes of the ring that a load of `chunk` takes.
std::uint64_t block_bytes(const ChunkShape& shape, Place place) {
  return place == Place::fill ? shape.fill_slot : shape.raw_slot + shape.stored_slot;
}

// Places the loads of one segment.
class SegmentBuilder {
 public:
  SegmentBuilder(const PassProgram& program, std::span<const ChunkShape> shapes, std::span<const Place> places, std::uint64_t ring_bytes)
      : program_(program), shapes_(shapes), places_(places), ring_(ring_bytes), latest_(shapes.size(), kResidentUse) {}

  // The pass begins at address 0 again, so its last lap of the ring should be as long as the others: else the first loads of the next pass
  // would lie on what was loaded last, and the reads would drain at every pass. With `laps` above 1 each lap ends near its share of
  // `total`.
  void even_out(std::uint64_t laps, std::uint64_t total) {
    laps_ = laps;
    total_ = total;
  }
  std::uint64_t laps() const { return lap_ + 1; }
  std::uint64_t travelled() const { return travelled_; }

  Result<SegmentSchedule> build(const PassProgram::Segment& segment, bool wraps) {
    out_.first_step = segment.first_substep;
    out_.step_count = segment.substep_count;
    out_.first_use = segment.substep_count == 0 ? 0 : program_.substeps[segment.first_substep].first_use;
    for (std::uint32_t step = 0; step < segment.substep_count; ++step) {
      FB_TRY(place_step(step, program_.substeps[segment.first_substep + step]));
    }
    if (wraps) repeat();
    return std::move(out_);
  }

 private:
  struct Want {
    plan::ChunkId chunk = 0;
    std::size_t use = 0;        // index into out_.use_load
    std::uint32_t reuse = kResidentUse;  // load that may still serve
    std::uint64_t bytes = 0;
    Block block;
  };

  Status place_step(std::uint32_t step, const PassProgram::Substep& substep) {
    wants_.clear();
    for (std::uint32_t i = 0; i < substep.use_count; ++i) {
      const std::uint32_t use = substep.first_use + i;
      const plan::ChunkId chunk = program_.uses[use];
      const std::size_t slot = use - out_.first_use;
      if (out_.use_load.size() <= slot) out_.use_load.resize(slot + 1, kResidentUse);
      if (places_[chunk] == Place::resident) continue;
      Want want;
      want.chunk = chunk;
      want.use = slot;
      want.bytes = block_bytes(shapes_[chunk], places_[chunk]);
      want.reuse = reusable(chunk);
      wants_.push_back(want);
    }
    if (wants_.empty()) return {};
    if (lap_ + 1 < laps_ && lap_is_full()) head_ = 0;
    if (!try_place()) {
      for (Want& want : wants_) {
        if (places_[want.chunk] == Place::streamed) want.reuse = kResidentUse;
      }
      head_ = 0;
      if (!lay_out()) return too_small();
    }
    commit(step);
    return {};
  }

  // Whether the step lies nearer to the next lap's share than to this one's.
  bool lap_is_full() const {
    std::uint64_t bytes = 0;
    for (const Want& want : wants_) bytes += want.reuse == kResidentUse ? want.bytes : 0;
    return travelled_ + bytes / 2 > total_ / laps_ * (lap_ + 1);
  }

  // The latest load of the chunk, when it still lies whole in the ring and not far back. Beyond half a ring its reuse would hold up the
  // loads that come to lie on it until this very substep is done, and so drain the reads.
  std::uint32_t reusable(plan::ChunkId chunk) const {
    const std::uint32_t load = latest_[chunk];
    if (load == kResidentUse) return load;
    if (places_[chunk] == Place::fill) return load;  // in its resident place from then on
    if (travelled_ - births_[load] > ring_ / 2) return kResidentUse;
    return map_.owned_by(blocks_[load].begin, blocks_[load].end, Owner{0, load}) ? load : kResidentUse;
  }

  // From the current head, giving up the reuses that stand in the way.
  bool try_place() {
    for (;;) {
      const std::uint64_t head = head_;
      if (!lay_out()) {
        head_ = head;
        return false;
      }
      bool dropped = false;
      for (Want& kept : wants_) {
        if (kept.reuse == kResidentUse || places_[kept.chunk] == Place::fill) continue;
        for (const Want& want : wants_) {
          if (want.reuse == kResidentUse && overlap(want.block, blocks_[kept.reuse])) {
            kept.reuse = kResidentUse;
            dropped = true;
            break;
          }
        }
      }
      if (!dropped) return true;
      head_ = head;
    }
  }

  // Blocks one behind the other from head_, the tail of the ring skipped where one does not fit. False when they meet each other.
  bool lay_out() {
    for (std::size_t i = 0; i < wants_.size(); ++i) {
      Want& want = wants_[i];
      if (want.reuse != kResidentUse) continue;
      if (want.bytes > ring_) return false;
      if (head_ + want.bytes > ring_) head_ = 0;
      want.block = Block{head_, head_ + want.bytes};
      for (std::size_t j = 0; j < i; ++j) {
        if (wants_[j].reuse == kResidentUse && overlap(wants_[j].block, want.block)) return false;
      }
      head_ += want.bytes;
    }
    return true;
  }

  void commit(std::uint32_t step) {
    for (Want& want : wants_) {
      if (want.reuse != kResidentUse) {
        // A fill was needed in the ring only until it reached its place.
        if (places_[want.chunk] == Place::streamed) out_.loads[want.reuse].last_step = step;
        out_.use_load[want.use] = want.reuse;
        continue;
      }
      Load load;
      load.chunk = want.chunk;
      load.fill = places_[want.chunk] == Place::fill;
      load.first_step = load.last_step = step;
      const ChunkShape& shape = shapes_[want.chunk];
      if (load.fill) {
        if (shape.fill_slot != 0) load.stored_offset = want.block.begin;
      } else {
        load.raw_offset = want.block.begin;
        if (shape.stored_slot != 0) load.stored_offset = want.block.begin + shape.raw_slot;
      }
      map_.visit(want.block.begin, want.block.end,
                 [&](Owner owner) { load.gate = std::max<std::int64_t>(load.gate, out_.loads[owner.load].last_step + 1ll); });
      if (want.bytes > 0) {
        lap_ += want.block.begin < last_begin_ ? 1 : 0;
        last_begin_ = want.block.begin;
      }
      const auto index = static_cast<std::uint32_t>(out_.loads.size());
      map_.put(want.block.begin, want.block.end, Owner{0, index});
      travelled_ += want.bytes;
      births_.push_back(travelled_ - want.bytes);
      blocks_.push_back(want.block);
      latest_[want.chunk] = index;
      out_.use_load[want.use] = index;
      out_.loads.push_back(load);
    }
  }

  // Goes through the loads once more, behind themselves: the gates of every pass but the first, where they are the same or weaker.
  void repeat() {
    for (std::uint32_t i = 0; i < out_.loads.size(); ++i) {
      std::int64_t gate = -static_cast<std::int64_t>(out_.step_count);
      map_.visit(blocks_[i].begin, blocks_[i].end, [&](Owner owner) {
        const std::int64_t after = out_.loads[owner.load].last_step + 1ll;
        gate = std::max(gate, owner.run == 1 ? after : after - static_cast<std::int64_t>(out_.step_count));
      });
      out_.loads[i].gate = gate;
      map_.put(blocks_[i].begin, blocks_[i].end, Owner{1, i});
    }
  }

  Status too_small() const {
    std::uint64_t sum = 0;
    for (const Want& want : wants_) sum += want.bytes;
    return Status(Code::resource_exhausted, "one step needs " + std::to_string(sum) + " bytes of weights together, the ring has " +
                                                std::to_string(ring_) + ": give a larger budget");
  }

  const PassProgram& program_;
  std::span<const ChunkShape> shapes_;
  std::span<const Place> places_;
  const std::uint64_t ring_;
  std::uint64_t head_ = 0, travelled_ = 0;
  std::uint64_t laps_ = 1, total_ = 0, lap_ = 0, last_begin_ = 0;
  RingMap map_;
  std::vector<Block> blocks_;           // by load
  std::vector<std::uint64_t> births_;   // by load: bytes placed before it
  std::vector<std::uint32_t> latest_;   // by chunk: its latest load
  std::vector<Want> wants_;
  SegmentSchedule out_;
};

}  // namespace

std::uint64_t min_ring_bytes(const PassProgram& program, std::span<const ChunkShape> shapes) {
  std::uint64_t most = 0;
  for (const PassProgram::Substep& substep : program.substeps) {
    std::uint64_t sum = 0;
    for (std::uint32_t i = 0; i < substep.use_count; ++i) {
      const ChunkShape& shape = shapes[program.uses[substep.first_use + i]];
      sum += std::max(shape.raw_slot + shape.stored_slot, shape.fill_slot);
    }
    most = std::max(most, sum);
  }
  return most;
}

Result<Schedule> build_schedule(const PassProgram& program, std::span<const ChunkShape> shapes, std::span<const Place> places,
                                std::uint64_t ring_bytes) {
  FB_CHECK(shapes.size() == places.size());
  Schedule schedule;
  bool any_fill = false;
  for (const plan::ChunkId chunk : program.uses) {
    FB_CHECK(chunk < places.size());
    any_fill = any_fill || places[chunk] == Place::fill;
  }
  schedule.wraps = program.segments.size() == 1 && !any_fill;
  for (const PassProgram::Segment& segment : program.segments) {
    SegmentBuilder builder(program, shapes, places, ring_bytes);
    FB_ASSIGN(SegmentSchedule built, builder.build(segment, schedule.wraps));
    if (schedule.wraps && builder.laps() > 1) {
      SegmentBuilder even(program, shapes, places, ring_bytes);
      even.even_out(builder.laps(), builder.travelled());
      FB_ASSIGN(built, even.build(segment, true));
    }
    for (const Load& load : built.loads) {
      (load.fill ? schedule.fills : schedule.streamed_loads) += 1;
      const ChunkShape& shape = shapes[load.chunk];
      std::uint64_t end = load.raw_offset == kNoSlot ? 0 : load.raw_offset + shape.raw_slot + shape.stored_slot;
      if (load.fill && load.stored_offset != kNoSlot) end = load.stored_offset + shape.fill_slot;
      schedule.ring_peak = std::max(schedule.ring_peak, end);
    }
    schedule.segments.push_back(std::move(built));
  }
  return schedule;
}

}  // namespace forebay::stream
