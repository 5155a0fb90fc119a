// Who has which room of the host memory that loads pass through on their way to a device. The lowest room that is large enough is given, so
// that as little of the memory is in use as the loads under way need: what was written a moment ago is in a cache, and a virtual disk gives
// a third more into memory that is. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace forebay::stream {

class StagingRooms {
 public:
  void reset(std::uint64_t bytes);                         // all of it is free
  std::optional<std::uint64_t> take(std::uint64_t bytes);  // where it begins; none: not now
  void give(std::uint64_t at, std::uint64_t bytes);
  std::uint64_t size() const { return size_; }

 private:
  std::uint64_t size_ = 0;
  std::map<std::uint64_t, std::uint64_t> free_;  // bytes by where they begin; neighbours are one
};

}  // namespace forebay::stream
