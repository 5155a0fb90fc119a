// Invariants: commands run one at a time in order; head_ <= tail_ <= head_ + capacity; once failed_, launches, copies, zeros and waits are
// skipped until clear_error(), signals are made.
#include "runtime/cpu/cpu_queue.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace forebay {

CpuQueue::CpuQueue(std::uint32_t capacity, std::shared_ptr<DeviceHook> hook) : hook_(std::move(hook)), ring_(capacity) {}

Result<std::unique_ptr<Queue>> CpuQueue::create(const std::string& name, std::uint32_t capacity, std::shared_ptr<DeviceHook> hook) {
  if (capacity == 0) return Status(Code::invalid_argument, "a queue needs a capacity of at least 1");
  std::unique_ptr<CpuQueue> queue(new CpuQueue(capacity, std::move(hook)));
  FB_TRY(queue->start(name));
  return std::unique_ptr<Queue>(std::move(queue));
}

Status CpuQueue::start(const std::string& name) {
  try {
    worker_ = std::thread([this] {
      on_start();
      work();
    });
  } catch (const std::system_error& error) {
    return Status(Code::unavailable, "no thread for the queue " + name + ": " + error.what());
  }
  const std::string shown = ("fb-" + name).substr(0, 15);  // the kernel's limit
  pthread_setname_np(worker_.native_handle(), shown.c_str());
  return {};
}

CpuQueue::~CpuQueue() { CpuQueue::stop(); }

void CpuQueue::stop() {
  if (!worker_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
    work_.notify_all();
    if (waiting_on_ != nullptr) waiting_on_->poke();
  }
  worker_.join();
}

void CpuQueue::launch(HostFunction function, void* argument) {
  Command command;
  command.function = function;
  command.argument = argument;
  push(command);
}

void CpuQueue::copy(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  Command command;
  command.kind = Kind::copy;
  command.to = to;
  command.from = from;
  command.bytes = bytes;
  push(command);
}

void CpuQueue::zero(std::byte* to, std::uint64_t bytes) {
  Command command;
  command.kind = Kind::zero;
  command.to = to;
  command.bytes = bytes;
  push(command);
}

void CpuQueue::wait(TimelinePoint point) {
  if (point.timeline == nullptr) return;
  Command command;
  command.kind = Kind::wait;
  command.point = point;
  push(command);
}

void CpuQueue::signal(TimelinePoint point) {
  if (point.timeline == nullptr) return;
  Command command;
  command.kind = Kind::signal;
  command.point = point;
  push(command);
}

void CpuQueue::push(const Command& command) {
  const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  if (tail - head_.load() == ring_.size()) {
    std::unique_lock lock(mutex_);
    sleep_until(lock, tail - ring_.size() + 1);
  }
  ring_[tail % ring_.size()] = command;
  // Sequentially consistent with idle_: either the worker sees the command before it sleeps, or we see that it sleeps.
  tail_.store(tail + 1);
  if (idle_.load()) {
    std::lock_guard lock(mutex_);
    work_.notify_one();
  }
}

void CpuQueue::work() {
  for (;;) {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load()) {
      std::unique_lock lock(mutex_);
      idle_.store(true);
      work_.wait(lock, [&] { return tail_.load() != head || stop_.load(); });
      idle_.store(false);
      if (tail_.load() == head) return;
    }
    run(ring_[head % ring_.size()]);
    head_.store(head + 1);
    if (head + 1 >= wake_at_.load()) {
      std::lock_guard lock(mutex_);
      wake_at_.store(kNever);  // whoever waits for more says so again
      progress_.notify_all();
    }
  }
}

void CpuQueue::run(const Command& command) {
  if (command.kind == Kind::signal) {
    make_signal(command.point);
    return;
  }
  if (failed_.load(std::memory_order_acquire) || stop_.load(std::memory_order_acquire)) return;
  Status status;
  try {
    status = command.kind == Kind::wait ? wait_for(command.point) : act(command);
  } catch (const std::bad_alloc&) {
    status = Status(Code::out_of_memory, "the host refused memory to a kernel");
  }
  if (!status.ok()) set_error(std::move(status));
}

Status CpuQueue::act(const Command& command) {
  if (hook_ != nullptr) {
    const DeviceOp op = command.kind == Kind::launch ? DeviceOp::launch : command.kind == Kind::copy ? DeviceOp::copy : DeviceOp::zero;
    Status injected = hook_->before(op);
    if (!injected.ok()) return injected;
  }
  if (command.kind == Kind::launch) return command.function(command.argument);
  if (command.bytes == 0) return {};
  return command.kind == Kind::copy ? copy_bytes(command.to, command.from, command.bytes) : zero_bytes(command.to, command.bytes);
}

Status CpuQueue::copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  std::memmove(to, from, bytes);
  return {};
}

Status CpuQueue::zero_bytes(std::byte* to, std::uint64_t bytes) {
  std::memset(to, 0, bytes);
  return {};
}

Status CpuQueue::wait_for(TimelinePoint point) {
  auto* timeline = dynamic_cast<CpuTimeline*>(point.timeline);
  if (timeline == nullptr) return point.timeline->wait(point.value);
  if (timeline->value() >= point.value) return {};
  {
    std::lock_guard lock(mutex_);
    waiting_on_ = timeline;
  }
  Status status = timeline->wait_unless(point.value, &stop_);
  std::lock_guard lock(mutex_);
  waiting_on_ = nullptr;
  return status;
}

void CpuQueue::set_error(Status status) {
  std::lock_guard lock(mutex_);
  if (error_.ok()) error_ = std::move(status);
  failed_.store(true, std::memory_order_release);
}

Status CpuQueue::synchronize() {
  const std::uint64_t target = tail_.load(std::memory_order_relaxed);
  std::unique_lock lock(mutex_);
  sleep_until(lock, target);
  return error_;
}

// Sequentially consistent with head_: either the worker sees what is waited for, or we see how far it has come. It does not wake us for
// less.
void CpuQueue::sleep_until(std::unique_lock<std::mutex>& lock, std::uint64_t head) {
  for (;;) {
    wake_at_.store(std::min(wake_at_.load(), head));
    if (head_.load() >= head) return;
    progress_.wait(lock);
  }
}

void CpuQueue::clear_error() {
  std::lock_guard lock(mutex_);
  error_ = Status();
  failed_.store(false, std::memory_order_release);
}

}  // namespace forebay
