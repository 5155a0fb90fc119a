#include "runtime/activation_heap.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"

namespace forebay {

void ActivationHeap::reset() {
  blocks_.clear();
  by_offset_.clear();
  unused_.clear();
  peak_ = 0;
}

std::uint32_t ActivationHeap::take(std::uint64_t bytes) {
  bytes = align_up(std::max<std::uint64_t>(bytes, 1), 64);
  std::uint64_t at = 0, best = 0, best_gap = UINT64_MAX;
  std::size_t place = 0;
  for (std::size_t i = 0; i < by_offset_.size(); ++i) {
    const Block& next = blocks_[by_offset_[i]];
    if (next.offset - at >= bytes && next.offset - at < best_gap) {
      best = at;
      best_gap = next.offset - at;
      place = i;
    }
    at = next.offset + next.bytes;
  }
  if (best_gap == UINT64_MAX) {
    best = at;
    place = by_offset_.size();
  }
  std::uint32_t id = static_cast<std::uint32_t>(blocks_.size());
  if (unused_.empty()) {
    blocks_.emplace_back();
  } else {
    id = unused_.back();
    unused_.pop_back();
  }
  blocks_[id] = {best, bytes, 1};
  by_offset_.insert(by_offset_.begin() + static_cast<std::ptrdiff_t>(place), id);
  peak_ = std::max(peak_, best + bytes);
  return id;
}

void ActivationHeap::give(std::uint32_t block) {
  FB_CHECK(blocks_[block].holders > 0);
  if (--blocks_[block].holders > 0) return;
  by_offset_.erase(std::find(by_offset_.begin(), by_offset_.end(), block));
  unused_.push_back(block);
}

}  // namespace forebay
