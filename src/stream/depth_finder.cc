#include "stream/depth_finder.h"

#include <algorithm>

namespace forebay::stream {
namespace {

constexpr std::uint64_t kWindowReads = 96;
constexpr std::int64_t kWindowNs = 10'000'000;  // and at least this long: a clock of microseconds then errs by less than a hundredth of a percent
constexpr double kAsGood = 0.97;

}  // namespace

DepthFinder::DepthFinder(std::uint64_t read_bytes, std::uint64_t fixed_reads)
    : read_bytes_(read_bytes),
      way_(fixed_reads != 0 ? Way{fixed_reads, false} : kCandidates[0]),
      settled_(fixed_reads != 0),
      skip_(way_.reads) {}

void DepthFinder::ended(std::uint64_t bytes, std::int64_t now_ns) {
  if (settled_) return;
  if (!open_) {
    // What was in flight under the last depth comes first; the window begins behind it.
    if (skip_ > 0) --skip_;
    if (skip_ > 0) return;
    open_ = true;
    began_ns_ = now_ns;
    bytes_ = 0;
    return;
  }
  bytes_ += bytes;
  const std::int64_t took = now_ns - began_ns_;
  if (bytes_ < kWindowReads * read_bytes_ || took < kWindowNs) return;
  next_window(static_cast<double>(bytes_) / static_cast<double>(took));
}

void DepthFinder::starved() {
  if (settled_) return;
  open_ = false;
  skip_ = way_.reads;
}

void DepthFinder::next_window(double rate) {
  rates_[candidate_][static_cast<std::size_t>(round_)] = rate;
  const std::uint64_t before = way_.reads;
  if (++candidate_ == kCandidates.size()) {
    candidate_ = 0;
    if (++round_ == kRounds) return settle();
  }
  way_ = kCandidates[candidate_];
  open_ = false;
  skip_ = std::max(before, way_.reads);
}

void DepthFinder::settle() {
  std::array<double, kCandidates.size()> middle{};
  for (std::size_t i = 0; i < middle.size(); ++i) {
    std::sort(rates_[i].begin(), rates_[i].end());
    middle[i] = rates_[i][kRounds / 2];
  }
  const double best = *std::max_element(middle.begin(), middle.end());
  const auto cost = [](const Way& way) { return (way.bounced ? 1000 : 0) + way.reads; };
  bool found = false;
  for (std::size_t i = 0; i < kCandidates.size(); ++i) {
    if (middle[i] < kAsGood * best || (found && cost(kCandidates[i]) >= cost(way_))) continue;
    way_ = kCandidates[i];
    found = true;
  }
  settled_ = true;
}

}  // namespace forebay::stream
