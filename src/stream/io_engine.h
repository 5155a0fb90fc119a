// Reads in flight. Two engines behind one interface: io_uring (uring_engine.cc) and a pool of reading threads (threads_engine.cc).
//
// Short reads, EINTR and EAGAIN are ordinary and handled inside; EIO is retried at most twice. A buffer belongs to its read until the read
// has been collected. Every call is for one thread, the one that created the engine, but for wake().
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/file.h"
#include "forebay/logger.h"
#include "stream/streamer.h"

namespace forebay::stream {

struct ReadRequest {
  File* file = nullptr;      // as it is to be read; when direct(): offset, bytes and `to` are multiples of kBlockBytes
  File* buffered = nullptr;  // the same inode, for reads that the direct handle keeps refusing
  std::uint64_t offset = 0;
  std::byte* to = nullptr;
  std::uint32_t bytes = 0;
  std::uint32_t needed = 0;  // of `bytes`: a file that ends between the two is fine
  std::uint64_t tag = 0;     // the caller's
};

struct ReadDone {
  std::uint64_t tag = 0;
  std::uint32_t bytes = 0;  // below `needed` with an ok status: the file ended
  Status status;
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;  // waits for what is in flight
  virtual const char* name() const = 0;
  virtual std::uint32_t capacity() const = 0;  // reads in flight at most
  virtual std::uint32_t in_flight() const = 0;
  // Takes a read; it is sent by the next collect at the latest. in_flight() must be below capacity().
  virtual void start(const ReadRequest& request) = 0;
  // Sends what was started and takes up to out.size() finished reads. With `wait`, sleeps until there is one, or until wake().
  virtual std::size_t collect(std::span<ReadDone> out, bool wait) = 0;
  // Ends a collect that sleeps, or the next one that would. Thread-safe.
  virtual void wake() = 0;
  // Tells the engine of memory that most reads go to. Nothing may be in flight. unavailable where it cannot be used: reads still work.
  virtual Status register_memory(std::span<std::byte> memory) = 0;
  virtual void unregister_memory() = 0;
  virtual bool registered() const = 0;
  virtual std::uint64_t retries() const = 0;
};

// io_uring when the probe succeeds (not ENOSYS, EPERM, ENOMEM...) and it was not ruled out; `why` says why not. One log line. `uring` asked
// for by name and not there: unavailable.
Result<std::unique_ptr<IoEngine>> create_io_engine(IoChoice choice, std::uint32_t depth, Logger& logger, std::string* why);

Result<std::unique_ptr<IoEngine>> create_threads_engine(std::uint32_t depth);
struct UringFaults {            // for tests
  std::uint64_t die_after = 0;  // submissions after which the ring answers EBADF; 0: never
  std::uint32_t entries = 0;    // of both queues; 0: room for every read in flight
  std::uint32_t busy_every = 0; // every so many calls into the kernel answer EBUSY; 0: none
};
Result<std::unique_ptr<IoEngine>> create_uring_engine(std::uint32_t depth, Logger& logger, const UringFaults& faults = {});

// The progress of one read through short results and retries; shared by the engines.
class ReadProgress {
 public:
  enum class Next : std::uint8_t { finished, again, blocking };
  void begin(const ReadRequest& request);
  // `result` of a read of [at(), end): bytes, or -errno. `again`: submit the rest; `blocking`: call finish_blocking.
  Next on_result(std::int64_t result);
  Next on_error(Status status);  // the same for the file layer's errors
  // Reads the rest through the buffered handle on the calling thread.
  void finish_blocking();
  const ReadRequest& request() const { return request_; }
  std::uint64_t offset() const { return request_.offset + done_; }
  std::byte* to() const { return request_.to + done_; }
  std::uint32_t left() const { return request_.bytes - done_; }
  ReadDone take();
  std::uint32_t retries() const { return retries_; }

 private:
  Next finish_with(Status status);
  ReadRequest request_;
  std::uint32_t done_ = 0;
  std::uint32_t errors_ = 0, turns_ = 0, retries_ = 0;
  bool blocking_ = false;  // past the engine, through the page cache
  Status status_;
};

}  // namespace forebay::stream
