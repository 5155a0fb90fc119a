// An in-order queue with a worker thread and a command ring of fixed capacity. Other devices derive from it: their commands become work of a
// stream, given to it by the worker.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/cpu/cpu_device.h"
#include "runtime/cpu/cpu_timeline.h"

namespace forebay {

// One producer and one worker. Destruction ends a wait in progress, drops what has not run, still makes its signals, and joins.
class CpuQueue : public Queue {
 public:
  static Result<std::unique_ptr<Queue>> create(const std::string& name, std::uint32_t capacity, std::shared_ptr<DeviceHook> hook);
  ~CpuQueue() override;
  CpuQueue(const CpuQueue&) = delete;
  CpuQueue& operator=(const CpuQueue&) = delete;
  void launch(HostFunction function, void* argument) override;
  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) override;
  void zero(std::byte* to, std::uint64_t bytes) override;
  void wait(TimelinePoint point) override;
  void signal(TimelinePoint point) override;
  Status synchronize() override;
  void clear_error() override;

 protected:
  CpuQueue(std::uint32_t capacity, std::shared_ptr<DeviceHook> hook);
  Status start(const std::string& name);  // once, after construction
  void stop();                            // first thing in a derived destructor
  // On the worker.
  virtual void on_start() {}
  virtual Status copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes);
  virtual Status zero_bytes(std::byte* to, std::uint64_t bytes);
  virtual void make_signal(TimelinePoint point) { point.timeline->signal(point.value); }
  void set_error(Status status);

 private:
  enum class Kind : std::uint8_t { launch, copy, zero, wait, signal };
  struct Command {
    Kind kind = Kind::launch;
    HostFunction function = nullptr;
    void* argument = nullptr;
    std::byte* to = nullptr;
    const std::byte* from = nullptr;
    std::uint64_t bytes = 0;
    TimelinePoint point;
  };

  void push(const Command& command);
  void work();
  void run(const Command& command);
  Status act(const Command& command);
  Status wait_for(TimelinePoint point);
  void sleep_until(std::unique_lock<std::mutex>& lock, std::uint64_t head);

  static constexpr std::uint64_t kNever = ~0ull;

  const std::shared_ptr<DeviceHook> hook_;
  std::vector<Command> ring_;
  std::atomic<std::uint64_t> head_{0};  // next to run; grows
  std::atomic<std::uint64_t> tail_{0};  // next to write; grows
  std::atomic<bool> idle_{false}, stop_{false}, failed_{false};
  std::atomic<std::uint64_t> wake_at_{kNever};  // head_ that the nearest of the producer in want of space and synchronize() waits for
  std::mutex mutex_;              // guards error_, waiting_on_ and the sleeps
  std::condition_variable work_, progress_;
  CpuTimeline* waiting_on_ = nullptr;
  Status error_;
  std::thread worker_;
};

}  // namespace forebay
