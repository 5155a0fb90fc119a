// How many bytes of reads to keep in flight, and whether they land in a small buffer first, found by measurement while weights stream.
// Pure: times and bytes in, a way out; the bits read do not depend on it.
//
// Each candidate is tried for three windows of steady reading, in turns, so that a disk that slows down meanwhile does not favour the
// first, and the middle one of its rates counts: a disk in bursts makes any of them look best once. The smallest candidate within 3 % of
// the best rate is kept: what more in flight does not make faster only makes a fault's wait longer. A copy of every byte has to gain as
// much.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace forebay::stream {

class DepthFinder {
 public:
  struct Way {
    std::uint64_t reads = 0;
    bool bounced = false;  // see IoEngine
  };
  // The first serves until there is more to go by.
  static constexpr std::array<Way, 5> kCandidates = {Way{16, false}, {32, false}, {8, true}, {8, false}, {64, false}};
  static constexpr int kRounds = 3;

  // `read_bytes`: of one read. `fixed_reads`: not 0: the caller's choice, nothing is measured.
  DepthFinder(std::uint64_t read_bytes, std::uint64_t fixed_reads);

  std::uint64_t limit_bytes() const { return way_.reads * read_bytes_; }
  std::uint64_t reads() const { return way_.reads; }
  bool bounced() const { return way_.bounced; }
  bool settled() const { return settled_; }

  // A read of `bytes` has ended at `now_ns` (a steady clock).
  void ended(std::uint64_t bytes, std::int64_t now_ns);
  // There was room in flight and nothing to fill it with: the window says nothing about the disk.
  void starved();

 private:
  void next_window(double rate);
  void settle();

  const std::uint64_t read_bytes_;
  Way way_;
  bool settled_ = false, open_ = false;
  std::int64_t began_ns_ = 0;
  std::uint64_t bytes_ = 0, skip_ = 0;
  std::size_t candidate_ = 0;
  int round_ = 0;
  std::array<std::array<double, kRounds>, kCandidates.size()> rates_{};
};

}  // namespace forebay::stream
