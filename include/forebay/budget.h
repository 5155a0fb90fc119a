// A budget: how many device bytes one model may use, for everything: weights, ring, activations, state, workspace.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "forebay/status.h"

namespace forebay {

struct Budget {
  enum class Kind : std::uint8_t {
    automatic,  // from the device's free memory less headroom, never above full
    percent,    // of full: all weights raw, activations, state, workspace
    bytes,      // above full means full
    unlimited,  // full, refused before allocating when it does not fit the device
  };
  Kind kind = Kind::automatic;
  double percent = 0;         // (0, 100]
  std::uint64_t bytes = 0;    // > 0

  static Budget automatic() { return {}; }
  static Budget unlimited() { return {Kind::unlimited, 0, 0}; }
  static Budget of_bytes(std::uint64_t b) { return {Kind::bytes, 0, b}; }
  static Budget of_percent(double p) { return {Kind::percent, p, 0}; }
  // "auto", "25%", "6GiB", "4096", "unlimited". 0 and negative values are invalid_argument: there are no magic numbers.
  static Result<Budget> parse(std::string_view text);
  std::string to_string() const;
};

// All sizes in bytes. ARCHITECTURE.md has the words: minimum, no-stream and full.
struct MemoryReport {
  std::uint64_t budget = 0;           // in force, rounded down to the device's granule
  std::uint64_t min_budget = 0;
  std::uint64_t no_stream_budget = 0;
  std::uint64_t full_budget = 0;
  std::uint64_t committed = 0, peak_committed = 0;  // of the arena
  std::uint64_t resident_weights = 0, ring = 0, activations = 0, state = 0;  // what the layout gives to each
  std::uint64_t weights_total = 0;    // raw
  std::uint64_t host_cache = 0;
};

}  // namespace forebay
