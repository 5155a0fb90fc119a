// As many reads as there may be stay in flight: one that ends is followed by the next, whatever becomes of its bytes meanwhile.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/check.h"
#include "stream/io_engine.h"
#include "tests/stream/stream_world.h"

namespace forebay::stream::test {
namespace {

constexpr std::uint32_t kDepth = 6, kReadBytes = 32 * 1024;

// What an engine was asked for.
struct Asked {
  std::uint64_t reads = 0;
  std::uint64_t expected = 0;  // of them; 0: not known
  std::uint64_t low = 0;       // times that it was waited for with fewer in flight than there might be
};

// Ends a read only when it is waited for: one, the oldest. With too few in flight it gives the caller time to start more.
class SlowDisk final : public IoEngine {
 public:
  explicit SlowDisk(Asked& asked) : asked_(asked) {}
  const char* name() const override { return "slow"; }
  std::uint32_t capacity() const override { return 64; }
  std::uint32_t in_flight() const override { return static_cast<std::uint32_t>(reads_.size()); }
  void start(const ReadRequest& request) override {
    reads_.push_back(request);
    ++asked_.reads;
  }
  std::size_t collect(std::span<ReadDone> out, bool wait) override {
    if (!wait) return 0;
    const bool low = reads_.size() < kDepth && asked_.reads < asked_.expected;
    if (low || reads_.empty()) {
      std::unique_lock lock(mutex_);
      const bool woken = changed_.wait_for(lock, std::chrono::seconds(20), [&] { return woken_; });
      woken_ = false;
      if (woken || reads_.empty()) return 0;
      ++asked_.low;
    }
    ReadProgress progress;
    progress.begin(reads_.front());
    reads_.pop_front();
    progress.finish_blocking();
    out[0] = progress.take();
    return 1;
  }
  void wake() override {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_all();
  }
  Status register_memory(std::span<std::byte>) override { return {}; }
  void unregister_memory() override {}
  bool registered() const override { return false; }
  std::uint64_t retries() const override { return 0; }

 private:
  Asked& asked_;
  std::deque<ReadRequest> reads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
};

// A pass that fills everything.
Status load(World& world, const WeightSet& set, bool far, Asked& asked) {
  StreamerOptions options;
  options.read_bytes = kReadBytes;
  options.queue_depth = kDepth;
  options.direct = DirectIo::require;
  options.wrap_engine = [&](std::unique_ptr<IoEngine>) { return std::make_unique<SlowDisk>(asked); };
  Rig rig(world, set.generation, options, {}, far);
  FB_TRY(rig.set_layout(0, rig.source->limits().resident_total_bytes));
  return rig.run_pass({&set}, {}).status;
}

TEST(ReadsInFlight, AreAsManyAsThereMayBe) {
  for (const bool far : {false, true}) {
    SCOPED_TRACE(far ? "through host memory" : "to their places");
    WorldOptions w;
    w.coded = w.host = false;
    w.unaligned = far;  // where the host addresses the arena, what is not aligned waits for room in the ring
    World world(w);
    const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
    Asked first;
    ASSERT_TRUE(load(world, set, far, first).ok());
    ASSERT_GT(first.reads, 4 * kDepth);
    Asked second;
    second.expected = first.reads;
    const Status loaded = load(world, set, far, second);
    ASSERT_TRUE(loaded.ok()) << loaded.to_string();
    EXPECT_EQ(second.reads, first.reads);
    EXPECT_EQ(second.low, 0u);
  }
}

}  // namespace
}  // namespace forebay::stream::test
