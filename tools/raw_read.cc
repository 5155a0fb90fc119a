#include "raw_read.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "console.h"

namespace forebay::tools {
namespace {

using Clock = std::chrono::steady_clock;

// Where the next block lies; wraps over all files.
class BlockWalk {
 public:
  BlockWalk(const std::vector<std::unique_ptr<File>>& files, std::uint32_t block) : block_(block) {
    for (const auto& file : files) {
      const auto identity = file->identity();
      if (!identity.ok() || file->descriptor() < 0) continue;
      const std::uint64_t blocks = identity->bytes / block;
      if (blocks == 0) continue;
      extents_.push_back({file.get(), total_, blocks});
      total_ += blocks;
    }
  }
  struct Place {
    File* file;
    std::uint64_t offset;
  };
  bool empty() const { return total_ == 0; }
  bool direct() const {
    for (const Extent& extent : extents_) {
      if (!extent.file->direct()) return false;
    }
    return true;
  }
  Place at(std::uint64_t i) const {
    i %= total_;
    std::size_t e = 0;
    while (e + 1 < extents_.size() && i >= extents_[e + 1].first) ++e;
    return {extents_[e].file, (i - extents_[e].first) * block_};
  }

 private:
  struct Extent {
    File* file;
    std::uint64_t first, blocks;
  };
  std::uint32_t block_;
  std::uint64_t total_ = 0;
  std::vector<Extent> extents_;
};

// A mapping or a descriptor, given back at the end of its scope.
struct Mapping {
  void* address = MAP_FAILED;
  std::size_t bytes = 0;
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (address != MAP_FAILED) ::munmap(address, bytes);
  }
  bool map(std::size_t size, int descriptor, off_t offset) {
    bytes = size;
    const int flags = descriptor < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_POPULATE;
    address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, descriptor, offset);
    // As a stream's own memory: in small pages a read falls into more pieces than the disk takes at once, and the limit would be too low.
    if (descriptor < 0 && address != MAP_FAILED) ::madvise(address, size, MADV_HUGEPAGE);
    return address != MAP_FAILED;
  }
  template <typename T>
  T* at(std::uint32_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(address) + offset);
  }
};

class BareRing {
 public:
  BareRing() = default;
  BareRing(const BareRing&) = delete;
  BareRing& operator=(const BareRing&) = delete;
  ~BareRing() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int open(std::uint32_t depth) {  // 0 or errno
    // As the engine's: completions are taken by the thread that waits for them. Older kernels do not know it.
    params_.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    descriptor_ = static_cast<int>(::syscall(__NR_io_uring_setup, depth, &params_));
    if (descriptor_ < 0 && errno == EINVAL) {
      params_ = {};
      descriptor_ = static_cast<int>(::syscall(__NR_io_uring_setup, depth, &params_));
    }
    if (descriptor_ < 0) return errno;
    const std::size_t sq = params_.sq_off.array + params_.sq_entries * sizeof(std::uint32_t);
    const std::size_t cq = params_.cq_off.cqes + params_.cq_entries * sizeof(io_uring_cqe);
    if (!sq_.map(sq, descriptor_, IORING_OFF_SQ_RING) || !cq_.map(cq, descriptor_, IORING_OFF_CQ_RING) ||
        !entries_.map(params_.sq_entries * sizeof(io_uring_sqe), descriptor_, IORING_OFF_SQES)) {
      return errno;
    }
    return 0;
  }
  // Reads go to this memory from now on. Where the system refuses, they go there as to any other.
  void use(void* memory, std::size_t bytes) {
    const iovec all{memory, bytes};
    fixed_ = ::syscall(__NR_io_uring_register, descriptor_, IORING_REGISTER_BUFFERS, &all, 1) == 0;
  }
  void push(int file, std::byte* to, std::uint32_t bytes, std::uint64_t offset, std::uint64_t tag) {
    std::atomic_ref<std::uint32_t> tail(*sq_.at<std::uint32_t>(params_.sq_off.tail));
    const std::uint32_t mask = *sq_.at<std::uint32_t>(params_.sq_off.ring_mask), position = tail.load(std::memory_order_relaxed);
    io_uring_sqe& entry = entries_.at<io_uring_sqe>(0)[position & mask];
    std::memset(&entry, 0, sizeof entry);
    entry.opcode = fixed_ ? IORING_OP_READ_FIXED : IORING_OP_READ;  // the one buffer there is has the index 0
    entry.fd = file;
    entry.addr = reinterpret_cast<std::uint64_t>(to);
    entry.len = bytes;
    entry.off = offset;
    entry.user_data = tag;
    sq_.at<std::uint32_t>(params_.sq_off.array)[position & mask] = position & mask;
    tail.store(position + 1, std::memory_order_release);
    ++pending_;
  }
  // Submits and waits for one completion at least.
  int turn() {
    const long sent = ::syscall(__NR_io_uring_enter, descriptor_, pending_, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
    if (sent < 0) return errno == EINTR ? 0 : errno;
    pending_ -= static_cast<std::uint32_t>(sent);
    return 0;
  }
  bool pop(std::uint64_t& tag, std::int32_t& result) {
    std::atomic_ref<std::uint32_t> head(*cq_.at<std::uint32_t>(params_.cq_off.head)), tail(*cq_.at<std::uint32_t>(params_.cq_off.tail));
    const std::uint32_t position = head.load(std::memory_order_relaxed);
    if (position == tail.load(std::memory_order_acquire)) return false;
    const io_uring_cqe& entry = cq_.at<io_uring_cqe>(params_.cq_off.cqes)[position & *cq_.at<std::uint32_t>(params_.cq_off.ring_mask)];
    tag = entry.user_data;
    result = entry.res;
    head.store(position + 1, std::memory_order_release);
    return true;
  }

 private:
  int descriptor_ = -1;
  io_uring_params params_{};
  Mapping sq_, cq_, entries_;
  std::uint32_t pending_ = 0;
  bool fixed_ = false;
};

Result<std::uint64_t> read_uring(const BlockWalk& walk, const RawReadOptions& options, std::byte* memory, double& seconds,
                                 std::uint64_t& next) {
  BareRing ring;
  if (const int error = ring.open(options.depth); error != 0) return errno_status(error, "opening an io_uring", "");
  ring.use(memory, std::size_t{options.block_bytes} * options.depth);
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  std::uint64_t bytes = 0;
  std::uint32_t flying = 0;
  const auto submit = [&](std::uint64_t slot) {
    const auto place = walk.at(next++);
    ring.push(place.file->descriptor(), memory + slot * options.block_bytes, options.block_bytes, place.offset, slot);
    ++flying;
  };
  for (std::uint32_t slot = 0; slot < options.depth; ++slot) submit(slot);
  while (flying > 0) {
    if (const int error = ring.turn(); error != 0) return errno_status(error, "waiting on an io_uring", "");
    std::uint64_t slot = 0;
    std::int32_t result = 0;
    while (ring.pop(slot, result)) {
      --flying;
      if (result < 0 && result != -EAGAIN && result != -EINTR) return errno_status(-result, "reading", walk.at(0).file->name());
      if (result > 0) bytes += static_cast<std::uint64_t>(result);
      if (Clock::now() < end && !interrupted()) submit(slot);
    }
  }
  seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return bytes;
}

Result<std::uint64_t> read_threads(const BlockWalk& walk, const RawReadOptions& options, std::byte* memory, double& seconds,
                                   std::uint64_t& next_block) {
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  std::atomic<std::uint64_t> next{next_block}, bytes{0};
  std::atomic<int> failure{0};
  const std::uint32_t count = std::min<std::uint32_t>(options.depth, 8);
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < count; ++t) {
    threads.emplace_back([&, t] {
      while (Clock::now() < end && !interrupted() && failure.load() == 0) {
        const auto place = walk.at(next.fetch_add(1));
        const ssize_t got = ::pread(place.file->descriptor(), memory + std::size_t{t} * options.block_bytes, options.block_bytes,
                                    static_cast<off_t>(place.offset));
        if (got < 0 && errno != EINTR) failure.store(errno);
        if (got > 0) bytes.fetch_add(static_cast<std::uint64_t>(got));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  next_block = next.load();
  if (failure.load() != 0) return errno_status(failure.load(), "reading", walk.at(0).file->name());
  seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return bytes.load();
}

}  // namespace

Result<RawReadResult> raw_read(const std::vector<std::unique_ptr<File>>& files, const RawReadOptions& options) {
  RawReadOptions fitted = options;
  while (fitted.block_bytes > 4096 && BlockWalk(files, fitted.block_bytes).empty()) fitted.block_bytes /= 2;
  const BlockWalk walk(files, fitted.block_bytes);
  RawReadResult result;
  if (walk.empty()) return result;
  Mapping memory;
  if (!memory.map(std::size_t{fitted.block_bytes} * fitted.depth, -1, 0)) return errno_status(errno, "allocating read buffers", "");
  std::memset(memory.address, 1, memory.bytes);
  double seconds = 0;
  std::string why;
  result.next_block = fitted.first_block;
  if (fitted.allow_uring && uring_available(&why)) {
    FB_ASSIGN(result.bytes, read_uring(walk, fitted, memory.at<std::byte>(0), seconds, result.next_block));
    result.engine = "uring";
  } else {
    FB_ASSIGN(result.bytes, read_threads(walk, fitted, memory.at<std::byte>(0), seconds, result.next_block));
    result.engine = "threads";
  }
  result.direct = walk.direct();
  result.gbps = seconds > 0 ? static_cast<double>(result.bytes) / seconds / 1e9 : 0;
  return result;
}

bool uring_available(std::string* why) {
  BareRing ring;
  const int error = ring.open(4);
  if (error != 0 && why != nullptr) *why = std::strerror(error);  // NOLINT: no other thread yet
  return error == 0;
}

}  // namespace forebay::tools
