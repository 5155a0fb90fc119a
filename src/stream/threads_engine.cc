// Reads by a pool of threads that call File::read_at. Works for every file, also those without a descriptor.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "stream/io_engine.h"

namespace forebay::stream {
namespace {

constexpr std::uint32_t kThreadsMax = 8;

class ThreadsEngine final : public IoEngine {
 public:
  explicit ThreadsEngine(std::uint32_t depth) : waiting_(depth), finished_(depth) {}

  ~ThreadsEngine() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      work_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }

  Status start_threads() {
    const std::uint32_t wanted = std::min<std::uint32_t>(kThreadsMax, capacity());
    for (std::uint32_t i = 0; i < wanted; ++i) {
      try {
        threads_.emplace_back([this] { read_loop(); });
      } catch (const std::system_error& error) {
        if (threads_.empty()) return Status(Code::unavailable, std::string("no thread to read with: ") + error.what());
        break;  // fewer will do
      }
    }
    return {};
  }

  const char* name() const override { return "threads"; }
  std::uint32_t capacity() const override { return static_cast<std::uint32_t>(waiting_.items.size()); }
  std::uint32_t in_flight() const override { return in_flight_; }

  void start(const ReadRequest& request) override {
    ++in_flight_;
    std::lock_guard lock(mutex_);
    waiting_.put(request);
    work_.notify_one();
  }

  std::size_t collect(std::span<ReadDone> out, bool wait) override {
    std::unique_lock lock(mutex_);
    if (wait) changed_.wait(lock, [&] { return finished_.count > 0 || woken_; });
    woken_ = false;
    std::size_t taken = 0;
    while (taken < out.size() && finished_.count > 0) out[taken++] = finished_.take();
    in_flight_ -= static_cast<std::uint32_t>(taken);
    return taken;
  }

  void wake() override {
    std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_one();
  }

  Status register_memory(std::span<std::byte>) override { return Status(Code::unavailable, "threads read into any memory"); }
  void unregister_memory() override {}
  bool registered() const override { return false; }
  std::uint64_t retries() const override { return retries_.load(std::memory_order_relaxed); }

 private:
  template <typename T>
  struct Fifo {
    explicit Fifo(std::size_t capacity) : items(capacity) {}
    void put(T item) { items[(first + count++) % items.size()] = std::move(item); }
    T take() {
      T item = std::move(items[first]);
      first = (first + 1) % items.size();
      --count;
      return item;
    }
    std::vector<T> items;
    std::size_t first = 0, count = 0;
  };

  void read_loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return waiting_.count > 0 || stop_; });
      if (waiting_.count == 0) return;  // stopped, and nothing left: a read taken is a read made
      const ReadRequest request = waiting_.take();
      lock.unlock();
      ReadDone done = read(request);
      lock.lock();
      finished_.put(std::move(done));
      changed_.notify_one();
    }
  }

  ReadDone read(const ReadRequest& request) {
    ReadProgress progress;
    progress.begin(request);
    ReadProgress::Next next = ReadProgress::Next::again;
    while (next == ReadProgress::Next::again) {
      auto got = request.file->read_at(progress.offset(), {progress.to(), progress.left()});
      next = got.ok() ? progress.on_result(static_cast<std::int64_t>(*got)) : progress.on_error(std::move(got).status());
    }
    if (next == ReadProgress::Next::blocking) progress.finish_blocking();
    retries_.fetch_add(progress.retries(), std::memory_order_relaxed);
    return progress.take();
  }

  std::mutex mutex_;
  std::condition_variable work_, changed_;
  Fifo<ReadRequest> waiting_;
  Fifo<ReadDone> finished_;
  bool stop_ = false, woken_ = false;
  std::uint32_t in_flight_ = 0;  // of the owning thread
  std::atomic<std::uint64_t> retries_{0};
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<IoEngine>> create_threads_engine(std::uint32_t depth) {
  auto engine = std::make_unique<ThreadsEngine>(std::max<std::uint32_t>(1, depth));
  Status started = engine->start_threads();
  if (!started.ok()) return started;
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace forebay::stream
