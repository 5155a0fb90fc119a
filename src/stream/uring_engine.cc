// Reads through io_uring: a fixed array of slots, user_data = slot and sequence number, never more in flight than the completion queue
// holds. When the ring dies midway (EBADF), what was in flight is read again by the threads engine, which then takes over.
//
// Invariants: a slot is free only after its completion was seen (or the ring is dead and its read was repeated); a completion whose
// sequence number is not its slot's is ignored.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "stream/io_engine.h"

namespace forebay::stream {
namespace {

constexpr std::uint64_t kWakeTag = ~0ull;
constexpr std::uint64_t kPieceBytes = 1ull << 30;  // the kernel's limit of one registered buffer

class UringEngine final : public IoEngine {
 public:
  UringEngine(std::uint32_t depth, Logger& logger, const UringFaults& faults)
      : logger_(logger), faults_(faults), slots_(depth), free_(depth), again_(depth) {
    for (std::uint32_t i = 0; i < depth; ++i) free_[i] = depth - 1 - i;
    free_count_ = depth;
    finished_.reserve(depth);
  }

  ~UringEngine() override {
    ReadDone done[16];
    while (in_flight() > 0) static_cast<void>(collect(done, true));
    if (ring_up_) io_uring_queue_exit(&ring_);
    if (spare_fd_ >= 0) ::close(spare_fd_);
    if (event_fd_ >= 0) ::close(event_fd_);
  }

  Status open() {
    const std::uint32_t entries = faults_.entries != 0 ? faults_.entries : capacity() + 2;  // and the wake-up
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    if (faults_.entries != 0) {
      params.flags |= IORING_SETUP_CQSIZE;
      params.cq_entries = entries;
    }
    int result = io_uring_queue_init_params(entries, &ring_, &params);
    if (result == -EINVAL) {  // an older kernel
      params = io_uring_params{};
      result = io_uring_queue_init_params(entries, &ring_, &params);
    }
    if (result < 0) return Status(Code::unavailable, std::string("io_uring: ") + std::strerror(-result));
    ring_up_ = true;
    FB_TRY(probe());
    spare_fd_ = ::fcntl(ring_.ring_fd, F_DUPFD_CLOEXEC, 3);
    event_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_fd_ < 0) return Status(Code::unavailable, std::string("eventfd: ") + std::strerror(errno));
    return {};
  }

  const char* name() const override { return delegate_.load() != nullptr ? "threads" : "uring"; }
  std::uint32_t capacity() const override { return static_cast<std::uint32_t>(slots_.size()); }
  std::uint32_t in_flight() const override {
    const IoEngine* delegate = delegate_.load();
    return busy_ + static_cast<std::uint32_t>(finished_.size()) + (delegate != nullptr ? delegate->in_flight() : 0);
  }

  void start(const ReadRequest& request) override {
    if (IoEngine* delegate = delegate_.load(); delegate != nullptr) return delegate->start(request);
    const std::uint32_t index = free_[--free_count_];
    ++busy_;
    Slot& slot = slots_[index];
    slot.progress.begin(request);
    slot.sequence += 1;
    slot.busy = true;
    send(index);
  }

  std::size_t collect(std::span<ReadDone> out, bool wait) override {
    if (IoEngine* delegate = delegate_.load(); delegate != nullptr) {
      const std::size_t early = take_finished(out);  // finished before the ring died
      return early > 0 ? early : delegate->collect(out, wait);
    }
    send_again();
    arm_wake();
    const int result = enter(wait && finished_.empty() && !woken_.load());
    if (result >= 0) {
      mark_sent();
    } else if (result != -EINTR && result != -EAGAIN && result != -EBUSY) {
      take_over(result);
    }
    // On EINTR, EAGAIN and EBUSY what has completed is taken first, the rest goes with the next turn.
    reap();
    // An exchange, so that what a waker did before is seen after.
    static_cast<void>(woken_.exchange(false));
    return take_finished(out);
  }

  void wake() override {
    if (!woken_.exchange(true)) {
      const std::uint64_t one = 1;
      static_cast<void>(!::write(event_fd_, &one, sizeof one));
    }
    if (IoEngine* delegate = delegate_.load(); delegate != nullptr) delegate->wake();
  }

  Status register_memory(std::span<std::byte> memory) override {
    if (delegate_.load() != nullptr) return Status(Code::unavailable, "the ring is gone");
    unregister_memory();
    std::vector<iovec> pieces;
    for (std::uint64_t at = 0; at < memory.size(); at += kPieceBytes) {
      pieces.push_back({memory.data() + at, std::min<std::uint64_t>(kPieceBytes, memory.size() - at)});
    }
    if (pieces.empty()) return {};
    const int result = io_uring_register_buffers(&ring_, pieces.data(), static_cast<unsigned>(pieces.size()));
    if (result < 0) return Status(Code::unavailable, std::string("registering buffers: ") + std::strerror(-result));
    registered_ = memory;
    return {};
  }

  void unregister_memory() override {
    if (registered_.empty()) return;
    registered_ = {};
    if (delegate_.load() == nullptr) io_uring_unregister_buffers(&ring_);
  }
  bool registered() const override { return !registered_.empty(); }
  std::uint64_t retries() const override {
    const IoEngine* delegate = delegate_.load();
    return retries_.load(std::memory_order_relaxed) + (delegate != nullptr ? delegate->retries() : 0);
  }

 private:
  struct Slot {
    ReadProgress progress;
    std::uint32_t sequence = 0;
    bool busy = false;
    bool sent = false;  // the kernel has it
  };

  // A container may allow the ring and refuse its operations.
  Status probe() {
    io_uring_probe* operations = io_uring_get_probe_ring(&ring_);
    if (operations == nullptr) return Status(Code::unavailable, "io_uring: the kernel lists no operations");
    bool usable = true;
    for (const int operation : {IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_POLL_ADD}) {
      usable = usable && io_uring_opcode_supported(operations, operation) != 0;
    }
    io_uring_free_probe(operations);
    return usable ? Status() : Status(Code::unavailable, "io_uring: reads are not supported by this kernel");
  }

  std::uint64_t tag_of(std::uint32_t index) const { return (static_cast<std::uint64_t>(slots_[index].sequence) << 32) | index; }

  void send(std::uint32_t index) {
    Slot& slot = slots_[index];
    const ReadProgress& p = slot.progress;
    if (p.request().file->descriptor() < 0) {  // an in-memory file
      slot.progress.finish_blocking();
      return finish(index);
    }
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) {
      again_[again_count_++] = index;
      return;
    }
    const int piece = piece_of(p.to(), p.left());
    if (piece >= 0) {
      io_uring_prep_read_fixed(sqe, p.request().file->descriptor(), p.to(), p.left(), p.offset(), piece);
    } else {
      io_uring_prep_read(sqe, p.request().file->descriptor(), p.to(), p.left(), p.offset());
    }
    io_uring_sqe_set_data64(sqe, tag_of(index));
    ++submissions_;
    unmarked_ = true;
  }

  int piece_of(const std::byte* to, std::uint64_t bytes) const {
    if (registered_.empty() || to < registered_.data() || to + bytes > registered_.data() + registered_.size()) return -1;
    const auto at = static_cast<std::uint64_t>(to - registered_.data());
    return at / kPieceBytes == (at + bytes - 1) / kPieceBytes ? static_cast<int>(at / kPieceBytes) : -1;
  }

  void send_again() {
    const std::uint32_t count = std::exchange(again_count_, 0);
    for (std::uint32_t i = 0; i < count; ++i) send(again_[i]);
  }

  void arm_wake() {
    if (wake_armed_) return;
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return;
    io_uring_prep_poll_add(sqe, event_fd_, POLLIN);
    io_uring_sqe_set_data64(sqe, kWakeTag);
    wake_armed_ = true;
  }

  int enter(bool sleep) {
    if (faults_.die_after != 0 && submissions_ > faults_.die_after) return -EBADF;
    if (faults_.busy_every != 0 && ++enters_ % faults_.busy_every == 0) return -EBUSY;
    if (sleep && wake_armed_) return io_uring_submit_and_wait(&ring_, 1);
    return io_uring_submit_and_get_events(&ring_);
  }

  void mark_sent() {
    if (!unmarked_ || io_uring_sq_ready(&ring_) != 0) return;
    for (Slot& slot : slots_) slot.sent = slot.busy;
    for (std::uint32_t i = 0; i < again_count_; ++i) slots_[again_[i]].sent = false;
    unmarked_ = false;
  }
  bool kernel_holds_any() const {
    return std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.busy && slot.sent; });
  }

  void reap() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      const std::uint64_t tag = cqe->user_data;
      const std::int32_t result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      on_completion(tag, result);
    }
  }

  void on_completion(std::uint64_t tag, std::int32_t result) {
    if (tag == kWakeTag) {
      wake_armed_ = false;
      std::uint64_t count = 0;
      static_cast<void>(!::read(event_fd_, &count, sizeof count));
      return;
    }
    const auto index = static_cast<std::uint32_t>(tag);
    if (index >= slots_.size() || !slots_[index].busy || tag_of(index) != tag) return;
    const ReadProgress::Next next = slots_[index].progress.on_result(result);
    slots_[index].sent = false;
    if (next == ReadProgress::Next::again) {
      again_[again_count_++] = index;
      return;
    }
    if (next == ReadProgress::Next::blocking) slots_[index].progress.finish_blocking();
    finish(index);
  }

  void finish(std::uint32_t index) {
    Slot& slot = slots_[index];
    retries_.fetch_add(slot.progress.retries(), std::memory_order_relaxed);
    slot.busy = false;
    --busy_;
    free_[free_count_++] = index;
    finished_.push_back(slot.progress.take());
  }

  std::size_t take_finished(std::span<ReadDone> out) {
    const std::size_t taken = std::min(out.size(), finished_.size());
    for (std::size_t i = 0; i < taken; ++i) out[i] = std::move(finished_[i]);
    finished_.erase(finished_.begin(), finished_.begin() + static_cast<std::ptrdiff_t>(taken));
    return taken;
  }

  // The ring is dead. A read that the kernel still has may write its buffer late, with the same bytes as its repetition, so first they are
  // given the time to arrive: through a second descriptor of the ring where that one lives.
  void take_over(int error) {
    logger_.log(LogLevel::warning, std::string("io_engine=threads why=\"io_uring failed: ") + std::strerror(-error) + "\"");
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    while (kernel_holds_any() && std::chrono::steady_clock::now() < deadline) {
      if (spare_fd_ >= 0) static_cast<void>(io_uring_enter(static_cast<unsigned>(spare_fd_), 0, 0, IORING_ENTER_GETEVENTS, nullptr));
      reap();
      if (kernel_holds_any()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    auto threads = create_threads_engine(capacity());
    if (!threads.ok()) {  // no thread either: read here
      for (std::uint32_t i = 0; i < capacity(); ++i) {
        if (!slots_[i].busy) continue;
        slots_[i].progress.finish_blocking();
        finish(i);
      }
      again_count_ = 0;
      return;
    }
    owned_delegate_ = std::move(threads).value();
    for (Slot& slot : slots_) {
      if (!slot.busy) continue;
      slot.busy = false;
      --busy_;
      owned_delegate_->start(slot.progress.request());
    }
    again_count_ = 0;
    registered_ = {};
    delegate_.store(owned_delegate_.get());
    owned_delegate_->wake();
  }

  Logger& logger_;
  const UringFaults faults_;
  io_uring ring_{};
  bool ring_up_ = false, wake_armed_ = false, unmarked_ = false;
  int spare_fd_ = -1, event_fd_ = -1;
  std::atomic<bool> woken_{false};
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_, again_;
  std::uint32_t free_count_ = 0, again_count_ = 0, busy_ = 0;
  std::vector<ReadDone> finished_;
  std::span<std::byte> registered_;
  std::uint64_t submissions_ = 0, enters_ = 0;
  std::atomic<std::uint64_t> retries_{0};
  std::unique_ptr<IoEngine> owned_delegate_;
  std::atomic<IoEngine*> delegate_{nullptr};
};

}  // namespace

Result<std::unique_ptr<IoEngine>> create_uring_engine(std::uint32_t depth, Logger& logger, const UringFaults& faults) {
  auto engine = std::make_unique<UringEngine>(std::max<std::uint32_t>(1, depth), logger, faults);
  Status opened = engine->open();
  if (!opened.ok()) return opened;
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace forebay::stream
