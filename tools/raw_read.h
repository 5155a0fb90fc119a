// How fast the machine itself reads files: a bare io_uring loop (or threads), no part of the engine. The ceiling beside which bench puts itself.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"

namespace forebay::tools {

struct RawReadOptions {
  double seconds = 1.0;          // reads the files again and again for this long
  std::uint64_t first_block = 0;  // counted over all files
  std::uint32_t block_bytes = 1 << 20;
  std::uint32_t depth = 16;
  bool allow_uring = true;
};
struct RawReadResult {
  double gbps = 0;
  std::uint64_t bytes = 0;
  std::string engine;  // "uring", "threads"
  bool direct = false;
  std::uint64_t next_block = 0;  // where the next reading goes on, so that it finds nothing that this one left in a cache
};
// Files are read in order, in whole blocks (their tails are left out), into large pages that are registered with the ring where it can be.
Result<RawReadResult> raw_read(const std::vector<std::unique_ptr<File>>& files, const RawReadOptions& options);

// Whether this kernel gives us an io_uring; `why` tells why not.
bool uring_available(std::string* why);

}  // namespace forebay::tools
