#include "stream/staging_rooms.h"

#include <iterator>

#include "base/check.h"

namespace forebay::stream {

void StagingRooms::reset(std::uint64_t bytes) {
  size_ = bytes;
  free_.clear();
  if (bytes > 0) free_.emplace(0, bytes);
}

std::optional<std::uint64_t> StagingRooms::take(std::uint64_t bytes) {
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < bytes) continue;
    const auto [at, room] = *it;
    free_.erase(it);
    if (room > bytes) free_.emplace(at + bytes, room - bytes);
    return at;
  }
  return std::nullopt;
}

void StagingRooms::give(std::uint64_t at, std::uint64_t bytes) {
  if (bytes == 0) return;
  FB_CHECK(at + bytes <= size_);
  auto after = free_.upper_bound(at);
  FB_CHECK(after == free_.end() || at + bytes <= after->first);
  if (after != free_.end() && after->first == at + bytes) {
    bytes += after->second;
    after = free_.erase(after);
  }
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    FB_CHECK(before->first + before->second <= at);
    if (before->first + before->second == at) {
      before->second += bytes;
      return;
    }
  }
  free_.emplace(at, bytes);
}

}  // namespace forebay::stream
