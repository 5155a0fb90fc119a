// The device interface: arena with commit and uncommit, queues, timelines, copies, launches. No backend words here.
// The CPU device (cpu/cpu_device.h) really implements it: a worker thread per queue, asynchronous copies, commit by mprotect/madvise.
//
// Synchronisation is by timelines: a counter that only grows. A queue or the host signals a value; a queue or the host waits for it.
// Waiting for a value nobody signals yet really waits (unlike an event that was never recorded). fail() wakes all waiters with an error:
// a queue whose wait fails drops the launches and copies that follow (signals still happen, so nobody else hangs) until clear_error().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "forebay/status.h"
#include "forebay/types.h"

namespace forebay {

class Kernel;
class NodeView;
struct TypeShape;

class Timeline {  // thread-safe; outlives the queue commands that name it
 public:
  virtual ~Timeline() = default;
  virtual std::uint64_t value() const = 0;
  virtual void signal(std::uint64_t value) = 0;  // from the host; smaller than value() is ignored
  virtual void fail(Status status) = 0;          // keeps the first; sticky until reset()
  virtual Status wait(std::uint64_t value) = 0;  // host wait
  virtual void reset() = 0;                      // forgets a failure; nobody may be waiting
  // Called (on any thread, must be short, must not call back into the timeline) after each growth or failure; one listener.
  virtual void set_listener(std::function<void()> listener) = 0;
};

struct TimelinePoint {
  Timeline* timeline = nullptr;  // null: already reached
  std::uint64_t value = 0;
};

// Device address range, reserved once; committed in granules. One thread at a time.
class Arena {
 public:
  virtual ~Arena() = default;
  virtual std::byte* base() = 0;  // device address, aligned to the granule
  virtual std::uint64_t reserved_bytes() const = 0;
  // Offsets and sizes are multiples of the granule. Committing what is committed is fine, also partly. Refused memory: out_of_memory,
  // and nothing has changed. User-supplied memory is committed from the start, commit only counts.
  virtual Status commit(std::uint64_t offset, std::uint64_t bytes) = 0;
  virtual Status uncommit(std::uint64_t offset, std::uint64_t bytes) = 0;
  virtual std::uint64_t committed_bytes() const = 0;  // by our count; thread-safe
  virtual std::uint64_t peak_committed_bytes() const = 0;  // thread-safe
};

// In-order. Enqueueing is for one thread at a time and allocates nothing after the queue's creation (it blocks when the queue is full).
class Queue {
 public:
  using HostFunction = Status (*)(void* argument);  // runs on the queue in order; `argument` must live until it has run
  virtual ~Queue() = default;
  virtual void launch(HostFunction function, void* argument) = 0;
  virtual void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) = 0;  // host or arena addresses
  virtual void zero(std::byte* to, std::uint64_t bytes) = 0;
  virtual void wait(TimelinePoint point) = 0;
  virtual void signal(TimelinePoint point) = 0;
  // Host waits until all that was enqueued has run; the first error since clear_error().
  virtual Status synchronize() = 0;
  virtual void clear_error() = 0;
};

struct DeviceInfo {
  std::string kind;        // "cpu", "cuda"
  std::string name;        // "AMD EPYC ...", "NVIDIA H200"
  std::uint64_t granule = 4096;
  std::uint64_t total_bytes = 0;
  bool arena_host_addressable = false;  // reads may land in it, host functions may touch it
  std::vector<std::pair<std::string, std::string>> numerics;  // instruction set, library versions: part of numerics_id
};

class Device {  // thread-safe
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  virtual Result<std::uint64_t> free_bytes() = 0;
  // Reserves addresses only. With `user_memory` the arena is that block (granule-aligned inside it); null or too small is invalid_argument.
  virtual Result<std::unique_ptr<Arena>> reserve_arena(std::uint64_t bytes) = 0;
  virtual Result<std::unique_ptr<Arena>> wrap_arena(std::span<std::byte> user_memory) = 0;
  virtual Result<std::unique_ptr<Queue>> create_queue(const std::string& name, std::uint32_t capacity) = 0;
  virtual Result<std::unique_ptr<Timeline>> create_timeline() = 0;
  // Page-locks host memory for copies; the CPU device does nothing.
  virtual Status register_host(std::span<std::byte> memory) = 0;
  virtual void unregister_host(std::span<std::byte> memory) = 0;
  // The device's own kernel for a node; null where it has none: the CPU's kernel then runs, on copies in host memory unless the host addresses
  // the arena. Its run() is called by functions that a queue runs, and enqueues.
  virtual Result<std::unique_ptr<Kernel>> create_kernel(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);
  // For functions that a queue runs: a copy behind all that the queue was given, waited for.
  virtual Status copy_now(std::byte* to, const std::byte* from, std::uint64_t bytes);
};

}  // namespace forebay
