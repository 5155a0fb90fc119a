// What comes again with the same addresses is recorded once and replayed; what comes with others is
// not. With a device that only counts, and with the CUDA device: skipped where there is no GPU, and
// says so.
#include "runtime/stretch.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <deque>

#include "base/check.h"
#include "runtime/device_library.h"
#include "runtime/kernels_harness.h"
#include "runtime/prepared_pass.h"

namespace forebay::testing {
namespace {

// Counts in place of running; `recording` says whether its calls are kept.
class CountingKernel final : public Kernel {
 public:
  Status run(const KernelCall&) override {
    ++runs;
    return broken ? Status(Code::internal, "broken") : Status();
  }
  std::string_view id() const override { return "test.count"; }
  int runs = 0;
  bool broken = false;
};

class CountingDevice final : public ReplayDevice {
 public:
  class Counted final : public Recording {};
  std::unique_ptr<Recording> record(Queue::HostFunction work, void* argument, std::unique_ptr<Recording> worn) override {
    ++records;
    made_over += worn != nullptr ? 1 : 0;
    if (refuses || busy || !work(argument).ok()) return nullptr;
    return std::make_unique<Counted>();
  }
  Status replay(Recording&) override {
    ++replays;
    return {};
  }
  bool can_record() override { return !busy; }
  int records = 0, replays = 0, made_over = 0;
  bool refuses = false, busy = false;
};

class Stretches : public ::testing::Test {
 protected:
  static constexpr std::size_t kLaunches = Stretch::kLeast;
  void SetUp() override {
    step_.name = "counted";
    step_.step = &described_;
    described_.node = &node_;
    for (std::size_t i = 0; i < kLaunches; ++i) {
      calls_.emplace_back();
      calls_.back().outputs = std::span(&view_, 1);
      launches_.push_back({&kernel_, &calls_.back(), &step_, &clock_, 1});
    }
  }
  Status pass(std::size_t launches = kLaunches) {
    stretch_.begin(&device_);
    for (std::size_t i = 0; i < launches; ++i) stretch_.add(launches_[i]);
    return Stretch::run(&stretch_);
  }

  CountingDevice device_;
  CountingKernel kernel_;
  plan::Node node_;
  Step described_;
  PreparedStep step_;
  PassClock clock_;
  std::array<std::byte, 64> memory_{};
  TensorView view_{memory_.data(), DType::f32, Shape{1}};
  std::deque<KernelCall> calls_;
  std::deque<Launch> launches_;
  Stretch stretch_;
};

TEST_F(Stretches, TheSecondTimeIsRecordedAndThenReplayed) {
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pass().ok());
  EXPECT_EQ(device_.records, 1);
  EXPECT_EQ(device_.replays, 3);
  EXPECT_EQ(kernel_.runs,
            2 * static_cast<int>(kLaunches));  // once plainly, once while it was recorded
}

TEST_F(Stretches, OtherAddressesAreOtherRecordings) {
  for (int i = 0; i < 12; ++i) {
    view_.data = memory_.data() + i % 2 * 16;  // as when a state changes places from pass to pass
    ASSERT_TRUE(pass().ok());
  }
  EXPECT_EQ(device_.records, 2);
  EXPECT_EQ(device_.replays, 10);
  for (std::size_t i = 0; i < 3 * Stretch::kKept; ++i) {
    view_.data = memory_.data() + 32 + i;  // never twice
    ASSERT_TRUE(pass().ok());
  }
  EXPECT_EQ(device_.records, 2);
  EXPECT_EQ(device_.replays, 10);
  view_.data = memory_.data();
  ASSERT_TRUE(pass().ok());  // forgotten by now
  EXPECT_EQ(device_.replays, 10);
}

// As a cache that grows gives: every pass has other addresses, and they are known while the one before it runs.
TEST_F(Stretches, WhatIsRecordedAheadIsReplayedTheFirstTime) {
  const auto collect = [&](Stretch& stretch, std::byte* at) {
    view_.data = at;
    stretch.begin(&device_);
    for (Launch& launch : launches_) stretch.add(launch);
  };
  std::deque<Stretch> passes(4);
  for (std::size_t i = 0; i < passes.size(); ++i) {
    std::byte* const at = memory_.data() + i;
    collect(passes[i], at);
    passes[i].set_worn(i > 1 ? passes[i - 2].take_recording() : nullptr);
    ASSERT_TRUE(Stretch::record_ahead(&passes[i]).ok());
    collect(passes[i], at);
    ASSERT_TRUE(Stretch::run(&passes[i]).ok());
  }
  EXPECT_EQ(device_.records, 4);
  EXPECT_EQ(device_.made_over, 2);
  EXPECT_EQ(device_.replays, 4);
  collect(passes[3], memory_.data() + 32);  // something moved after all
  kernel_.runs = 0;
  ASSERT_TRUE(Stretch::run(&passes[3]).ok());
  EXPECT_EQ(kernel_.runs, static_cast<int>(kLaunches));
  EXPECT_EQ(device_.replays, 4);
}

TEST_F(Stretches, WhatCannotBeKeptRunsEveryTime) {
  device_.refuses = true;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(pass().ok());
  EXPECT_EQ(device_.records, 1);
  EXPECT_EQ(device_.replays, 0);
  EXPECT_EQ(kernel_.runs, 5 * static_cast<int>(kLaunches));
}

TEST_F(Stretches, WhatCouldNotBeRecordedJustThenIsLater) {
  device_.busy = true;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass().ok());
  EXPECT_EQ(device_.replays, 0);
  EXPECT_EQ(kernel_.runs, 3 * static_cast<int>(kLaunches));
  device_.busy = false;
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(pass().ok());
  EXPECT_EQ(device_.replays, 2);
  EXPECT_EQ(kernel_.runs, 4 * static_cast<int>(kLaunches));
}

// As where the caller's stream waits whenever a pass is under way, and only then.
TEST_F(Stretches, WhatCouldNotBeRecordedIsRecordedBehindThePass) {
  const auto busy_pass = [&] {
    device_.busy = true;
    const Status status = pass();
    device_.busy = false;
    return status;
  };
  ASSERT_TRUE(busy_pass().ok());
  EXPECT_FALSE(stretch_.wants_recording());  // it may come once
  ASSERT_TRUE(busy_pass().ok());
  EXPECT_TRUE(stretch_.wants_recording());
  EXPECT_EQ(stretch_.replayed(), 0u);
  stretch_.record_behind();
  EXPECT_FALSE(stretch_.wants_recording());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(busy_pass().ok());
  EXPECT_EQ(stretch_.replayed(), kLaunches);
  EXPECT_EQ(device_.replays, 3);
  EXPECT_EQ(kernel_.runs, 3 * static_cast<int>(kLaunches));  // twice plainly, once while it was recorded
}

TEST_F(Stretches, WhatCannotBeKeptIsNotAskedForBehindThePassAgain) {
  device_.busy = device_.refuses = true;
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(pass().ok());
  device_.busy = false;
  ASSERT_TRUE(stretch_.wants_recording());
  stretch_.record_behind();
  EXPECT_FALSE(stretch_.wants_recording());
  const int before = device_.records;
  ASSERT_TRUE(pass().ok());
  EXPECT_FALSE(stretch_.wants_recording());
  EXPECT_EQ(device_.records, before);
}

TEST_F(Stretches, ShortOrTimedOnesAreNotRecorded) {
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass(kLaunches - 1).ok());
  clock_.on = true;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pass().ok());
  EXPECT_EQ(device_.records, 0);
}

TEST_F(Stretches, AFailureNamesItsNode) {
  kernel_.broken = true;
  for (int i = 0; i < 3; ++i) {
    const Status status = pass();
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.to_string().find("'counted'"), std::string::npos) << status.to_string();
  }
  EXPECT_EQ(device_.replays, 0);
}

// Ten products on the device, one behind the other: recorded and replayed on other values in the
// same places, with the bits of a plain run.
class CudaReplay : public ::testing::Test {
 public:
  static constexpr std::int64_t kWidth = 512, kProducts = 10;
  void SetUp() override {
    auto opened = load_device("cuda");
    if (!opened.ok()) GTEST_SKIP() << opened.status().to_string();
    device_ = std::move(opened).value();
    replay_ = dynamic_cast<ReplayDevice*>(device_.get());
    ASSERT_NE(replay_, nullptr);
    queue_ = device_->create_queue("test", 64).value();
    arena_ = device_->reserve_arena(16ull << 20).value();
    ASSERT_TRUE(arena_->commit(0, 16ull << 20).ok());
    const plan::Plan plan;
    const std::vector<plan::Attribute> attributes{{"transB", std::int64_t{1}}};
    const NodeView node("product", "", "Gemm", 13, attributes, plan, 2, 1);
    const std::vector<TypeShape> in{{DType::bf16, true, {1, kWidth}},
                                    {DType::bf16, true, {kWidth, kWidth}}},
        out{{DType::bf16, true, {1, kWidth}}};
    kernel_ = device_->create_kernel(node, in, out).value();
    ASSERT_NE(kernel_, nullptr);
    const std::vector<const HostTensor*> known(2, nullptr);
    ASSERT_TRUE(kernel_
                    ->prepare(PrepareContext{
                        node, in, known, out, &pool_, plan::kNone, plan::Consumption::whole, {}})
                    .ok());
    std::byte* const weights = arena_->base();
    for (std::int64_t i = 0; i <= kProducts; ++i) rows_.push_back(weights + (1 << 20) + i * 4096);
    std::mt19937_64 random(3);
    const HostTensor w = random_tensor(random, DType::bf16, Shape{kWidth, kWidth});
    queue_->copy(weights, w.data(), w.bytes());
    for (std::size_t i = 0; i < kProducts; ++i) {
      inputs_.push_back({ConstTensorView(rows_[i], DType::bf16, Shape{1, kWidth}),
                         ConstTensorView(weights, DType::bf16, Shape{kWidth, kWidth})});
      outputs_.push_back({TensorView{rows_[i + 1], DType::bf16, Shape{1, kWidth}}});
      calls_.emplace_back();
      calls_.back().inputs = inputs_.back();
      calls_.back().outputs = outputs_.back();
      calls_.back().pool = &pool_;
    }
    ASSERT_TRUE(queue_->synchronize().ok());
  }
  static Status run_all(void* self) {
    auto& test = *static_cast<CudaReplay*>(self);
    for (const KernelCall& call : test.calls_) FB_TRY(test.kernel_->run(call));
    return {};
  }
  static Status run_recorded(void* self) {
    auto& test = *static_cast<CudaReplay*>(self);
    if (test.recording_ == nullptr) test.recording_ = test.replay_->record(&CudaReplay::run_all, self, nullptr);
    return test.recording_ == nullptr ? Status(Code::internal, "not recorded")
                                      : test.replay_->replay(*test.recording_);
  }
  HostTensor result(Queue::HostFunction how, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    const HostTensor x = random_tensor(random, DType::bf16, Shape{1, kWidth});
    HostTensor y(DType::bf16, Shape{1, kWidth});
    queue_->copy(rows_[0], x.data(), x.bytes());
    for (std::size_t i = 1; i < rows_.size(); ++i) queue_->zero(rows_[i], kWidth * 2);
    queue_->launch(how, this);
    queue_->copy(y.data(), rows_.back(), y.bytes());
    const Status ran = queue_->synchronize();
    EXPECT_TRUE(ran.ok()) << ran.to_string();
    return y;
  }

  std::unique_ptr<Device> device_;
  ReplayDevice* replay_ = nullptr;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Kernel> kernel_;
  std::unique_ptr<Queue> queue_;
  std::unique_ptr<Recording> recording_;
  ThreadPool pool_{1};
  std::vector<std::byte*> rows_;
  std::deque<std::vector<ConstTensorView>> inputs_;
  std::deque<std::vector<TensorView>> outputs_;
  std::deque<KernelCall> calls_;
};

TEST_F(CudaReplay, GivesTheBitsOfAPlainRun) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const HostTensor plain = result(&CudaReplay::run_all, seed),
                     replayed = result(&CudaReplay::run_recorded, seed);
    ASSERT_EQ(std::memcmp(plain.data(), replayed.data(), plain.bytes()), 0) << "seed " << seed;
  }
}

// A copy to pageable memory that is waited for cannot be kept: nothing has run, the stream goes on.
TEST_F(CudaReplay, RefusesWhatWaits) {
  struct Try {
    CudaReplay* test;
    bool kept = true;
  } attempt{this};
  queue_->launch(
      [](void* argument) {
        auto& mine = *static_cast<Try*>(argument);
        const auto waits = [](void* self) {
          auto& test = *static_cast<CudaReplay*>(self);
          std::byte one;
          return test.device_->copy_now(&one, test.rows_[0], 1);
        };
        mine.kept = mine.test->replay_->record(waits, mine.test, nullptr) != nullptr;
        return Status();
      },
      &attempt);
  ASSERT_TRUE(queue_->synchronize().ok());
  EXPECT_FALSE(attempt.kept);
  const HostTensor plain = result(&CudaReplay::run_all, 9),
                   replayed = result(&CudaReplay::run_recorded, 9);
  EXPECT_EQ(std::memcmp(plain.data(), replayed.data(), plain.bytes()), 0);
}

}  // namespace
}  // namespace forebay::testing
