// What a device offers to those who look at it: points of a queue's work on the host's clock, ranges for its vendor's tools, waits between
// kernels. A device that has such things is a DeviceTools too (dynamic_cast).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "forebay/status.h"

namespace forebay {

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  // For functions that a queue runs: remembers when all that the queue was given before is done. Marks are numbered from 0, each once
  // between resets.
  virtual Status mark(std::size_t number) = 0;
  // Nanoseconds of std::chrono::steady_clock; failed_precondition for a mark that is not reached yet.
  virtual Result<std::int64_t> read(std::size_t number) = 0;
  virtual Status reset() = 0;  // with nothing under way; waits for the device once
};

class DeviceTools {  // thread-safe
 public:
  virtual ~DeviceTools() = default;
  virtual Result<std::unique_ptr<Stopwatch>> create_stopwatch() = 0;
  virtual void begin_range(const char* name) = 0;  // on the calling thread; they nest
  virtual void end_range() = 0;
  virtual Status sync() = 0;  // for functions that a queue runs: waits for all that the queue was given before
};

}  // namespace forebay
