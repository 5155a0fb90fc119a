// What the kernel says about memory: the machine's and this process's own.
#pragma once

#include <cstdint>
#include <optional>

namespace forebay {

struct MemoryInfo {
  std::uint64_t available_bytes = 0;  // MemAvailable, or less where a memory cgroup (container) allows less
  std::uint64_t total_bytes = 0;
  std::uint64_t rss_bytes = 0;        // this process now
  std::uint64_t peak_rss_bytes = 0;   // and at most, since it started or since reset_peak_rss
};

// Members that the kernel does not tell stay 0.
MemoryInfo memory_info();
// Starts the peak anew, so that one phase can be measured. False where the kernel refuses.
bool reset_peak_rss();

}  // namespace forebay
