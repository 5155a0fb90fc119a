// The devices against the contract of runtime/device.h: the CPU's, and where there is a GPU the CUDA device. What only one of them has (pages of
// the process, faults) has tests of its own.
#include "runtime/device.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "runtime/cpu/cpu_device.h"
#include "runtime/device_library.h"

namespace forebay {
namespace {

constexpr std::uint64_t kPage = 4096;

std::unique_ptr<Device> make_device(const CpuDeviceOptions& options = {}) {
  auto device = create_cpu_device(options);
  EXPECT_TRUE(device.ok());
  return std::move(device).value();
}

// Resident bytes of the mappings that lie within [base, base + bytes), as the kernel counts them.
std::uint64_t resident_bytes(const std::byte* base, std::uint64_t bytes) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool within = false;
  std::uint64_t total = 0;
  const auto from = reinterpret_cast<std::uintptr_t>(base);
  while (std::getline(smaps, line)) {
    std::uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      within = begin >= from && end <= from + bytes;
    } else if (within && line.rfind("Rss:", 0) == 0) {
      total += std::strtoull(line.c_str() + 4, nullptr, 10) * 1024;
    }
  }
  return total;
}

TEST(CpuDevice, InfoNamesTheMachine) {
  auto device = make_device();
  EXPECT_EQ(device->info().kind, "cpu");
  EXPECT_FALSE(device->info().name.empty());
  EXPECT_EQ(device->info().granule, kPage);
  EXPECT_TRUE(device->info().arena_host_addressable);
  EXPECT_GT(device->info().total_bytes, 1u << 20);
  ASSERT_FALSE(device->info().numerics.empty());
  EXPECT_EQ(device->info().numerics[0].first, "isa");
  EXPECT_GT(device->free_bytes().value(), 0u);
}

TEST(CpuArena, UncommitGivesMemoryBack) {
  auto device = make_device();
  auto arena = device->reserve_arena(64 << 20).value();
  EXPECT_EQ(arena->committed_bytes(), 0u);
  ASSERT_TRUE(arena->commit(0, 16 << 20).ok());
  ASSERT_TRUE(arena->commit(8 << 20, 16 << 20).ok());  // half of it again
  EXPECT_EQ(arena->committed_bytes(), 24u << 20);
  std::memset(arena->base(), 7, 24 << 20);
  EXPECT_GE(resident_bytes(arena->base(), 64 << 20), 24u << 20);
  ASSERT_TRUE(arena->uncommit(4 << 20, 16 << 20).ok());
  EXPECT_EQ(arena->committed_bytes(), 8u << 20);
  EXPECT_LE(resident_bytes(arena->base(), 64 << 20), 8u << 20);
  EXPECT_EQ(arena->base()[(4 << 20) - 1], std::byte{7});
  EXPECT_EQ(arena->base()[20 << 20], std::byte{7});
  ASSERT_TRUE(arena->commit(4 << 20, 4 << 20).ok());
  EXPECT_EQ(arena->base()[4 << 20], std::byte{0});  // fresh pages
  EXPECT_EQ(arena->peak_committed_bytes(), 24u << 20);
}

TEST(CpuArena, RefusalsChangeNothing) {
  CpuDeviceOptions options;
  options.capacity_bytes = 1 << 20;
  auto device = make_device(options);
  auto arena = device->reserve_arena(4 << 20).value();
  ASSERT_TRUE(arena->commit(0, 768 << 10).ok());
  const Status above = arena->commit(512 << 10, 1 << 20);
  EXPECT_EQ(above.code(), Code::out_of_memory);
  EXPECT_EQ(arena->committed_bytes(), 768u << 10);
  EXPECT_EQ(arena->commit(0, 100).code(), Code::invalid_argument);
  EXPECT_EQ(arena->commit(4 << 20, kPage).code(), Code::invalid_argument);
  EXPECT_EQ(arena->uncommit(~0ull - 4095, 8192).code(), Code::invalid_argument);
  auto second = device->reserve_arena(1 << 20).value();
  EXPECT_EQ(second->commit(0, 512 << 10).code(), Code::out_of_memory);
  arena.reset();  // its bytes go back to the device
  EXPECT_TRUE(second->commit(0, 1 << 20).ok());
  EXPECT_EQ(device->reserve_arena(0).status().code(), Code::invalid_argument);
}

TEST(CpuArena, UserMemoryIsAlignedWithin) {
  auto device = make_device();
  std::vector<std::byte> block(10 * kPage);
  auto arena = device->wrap_arena(std::span(block).subspan(1)).value();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena->base()) % kPage, 0u);
  EXPECT_GE(arena->base(), block.data());
  EXPECT_LE(arena->base() + arena->reserved_bytes(), block.data() + block.size());
  EXPECT_EQ(arena->committed_bytes(), 0u);
  arena->base()[0] = std::byte{3};
  ASSERT_TRUE(arena->commit(0, 2 * kPage).ok());
  EXPECT_EQ(arena->committed_bytes(), 2 * kPage);
  ASSERT_TRUE(arena->uncommit(0, 2 * kPage).ok());
  EXPECT_EQ(arena->committed_bytes(), 0u);
  EXPECT_EQ(arena->base()[0], std::byte{3});
  EXPECT_EQ(device->wrap_arena({}).status().code(), Code::invalid_argument);
  EXPECT_EQ(device->wrap_arena(std::span(block).first(100)).status().code(), Code::invalid_argument);
}

// Skips, and says why, where the device is not there.
class AnyDevice : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "cpu") {
      device = make_device();
      return;
    }
    auto opened = load_device(GetParam());
    if (!opened.ok()) GTEST_SKIP() << opened.status().to_string();
    device = std::move(opened).value();
  }
  std::unique_ptr<Device> device;
};
INSTANTIATE_TEST_SUITE_P(Devices, AnyDevice, testing::Values("cpu", "cuda"), [](const auto& given) { return std::string(given.param); });

std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>((i * 2654435761u + seed * 40503u) >> 11);
  return data;
}

TEST_P(AnyDevice, ArenaKeepsWhatIsNotGivenBack) {
  const std::uint64_t g = device->info().granule;
  auto queue = device->create_queue("arena", 64).value();
  auto arena = device->reserve_arena(256 * g).value();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena->base()) % g, 0u);
  EXPECT_EQ(arena->committed_bytes(), 0u);
  ASSERT_TRUE(arena->commit(0, 100 * g).ok());
  ASSERT_TRUE(arena->commit(90 * g, 20 * g).ok());  // partly again
  EXPECT_EQ(arena->committed_bytes(), 110 * g);
  const auto data = pattern(110 * g, 1);
  queue->copy(arena->base(), data.data(), data.size());
  ASSERT_TRUE(queue->synchronize().ok());
  ASSERT_TRUE(arena->uncommit(3 * g, 50 * g).ok());  // cuts what came in one piece
  ASSERT_TRUE(arena->uncommit(3 * g, 10 * g).ok());  // nothing is there
  EXPECT_EQ(arena->committed_bytes(), 60 * g);
  std::vector<std::byte> back(data.size());
  queue->copy(back.data(), arena->base(), 3 * g);
  queue->copy(back.data() + 53 * g, arena->base() + 53 * g, 57 * g);
  ASSERT_TRUE(queue->synchronize().ok());
  EXPECT_EQ(std::memcmp(back.data(), data.data(), 3 * g), 0);
  EXPECT_EQ(std::memcmp(back.data() + 53 * g, data.data() + 53 * g, 57 * g), 0);
  ASSERT_TRUE(arena->commit(0, 256 * g).ok());
  queue->zero(arena->base() + g, g);
  queue->copy(arena->base() + 200 * g, arena->base() + 60 * g, g);  // within the arena
  queue->copy(back.data(), arena->base(), 2 * g);
  queue->copy(back.data() + 2 * g, arena->base() + 200 * g, g);
  ASSERT_TRUE(queue->synchronize().ok());
  EXPECT_EQ(std::memcmp(back.data(), data.data(), g), 0);
  EXPECT_EQ(back[g], std::byte{0});
  EXPECT_EQ(back[2 * g - 1], std::byte{0});
  EXPECT_EQ(std::memcmp(back.data() + 2 * g, data.data() + 60 * g, g), 0);
  EXPECT_EQ(arena->commit(g / 2, g).code(), Code::invalid_argument);
  EXPECT_EQ(arena->commit(256 * g, g).code(), Code::invalid_argument);
  EXPECT_EQ(arena->peak_committed_bytes(), 256 * g);
}

TEST_P(AnyDevice, CommittedMemoryIsTakenFromTheDevice) {
  const std::uint64_t g = device->info().granule, bytes = 512ull << 20;
  auto arena = device->reserve_arena(bytes).value();
  if (device->info().arena_host_addressable) GTEST_SKIP() << "the system counts pages when they are written: CpuArena's tests";
  const std::uint64_t before = device->free_bytes().value();
  ASSERT_TRUE(arena->commit(0, bytes).ok());
  EXPECT_LE(device->free_bytes().value() + bytes, before + 64 * g);
  ASSERT_TRUE(arena->uncommit(0, bytes).ok());
  EXPECT_GE(device->free_bytes().value() + 64 * g, before);
}

TEST_P(AnyDevice, CopiesFollowEachOtherThroughRegisteredMemory) {
  const std::uint64_t bytes = 8ull << 20;
  auto arena = device->reserve_arena(4 * bytes).value();
  ASSERT_TRUE(arena->commit(0, 4 * bytes).ok());
  auto copies = device->create_queue("copies", 16).value();
  auto kernels = device->create_queue("kernels", 16).value();
  auto ready = device->create_timeline().value();
  std::vector<std::byte> from = pattern(4 * bytes, 7), back(4 * bytes);
  ASSERT_TRUE(device->register_host(from).ok());
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t i = 0; i < 4; ++i) {
      const std::uint64_t at = static_cast<std::uint64_t>(round) * 4 + i + 1;
      kernels->wait({ready.get(), at});
      kernels->copy(back.data() + i * bytes, arena->base() + i * bytes, bytes);
      copies->copy(arena->base() + i * bytes, from.data() + i * bytes, bytes);
      copies->signal({ready.get(), at});
    }
    ASSERT_TRUE(kernels->synchronize().ok());
    ASSERT_TRUE(copies->synchronize().ok());
    EXPECT_EQ(from, back);
    std::fill(back.begin(), back.end(), std::byte{0});
  }
  EXPECT_EQ(ready->value(), 12u);
  device->unregister_host(from);
}

TEST_P(AnyDevice, FunctionsOfAQueueCopyInOrder) {
  auto arena = device->reserve_arena(device->info().granule).value();
  ASSERT_TRUE(arena->commit(0, device->info().granule).ok());
  auto queue = device->create_queue("host", 8).value();
  struct Call {
    Device* device;
    std::byte* arena;
    std::vector<std::byte> seen;
  } call{device.get(), arena->base(), std::vector<std::byte>(1000)};
  const auto data = pattern(1000, 3);
  queue->copy(arena->base(), data.data(), data.size());
  queue->launch(
      [](void* argument) {
        auto& c = *static_cast<Call*>(argument);
        Status status = c.device->copy_now(c.seen.data(), c.arena, c.seen.size());
        if (status.ok()) status = c.device->copy_now(c.arena + 1000, c.seen.data(), c.seen.size());
        return status;
      },
      &call);
  std::vector<std::byte> back(1000);
  queue->copy(back.data(), arena->base() + 1000, 1000);
  ASSERT_TRUE(queue->synchronize().ok());
  EXPECT_EQ(call.seen, data);
  EXPECT_EQ(back, data);
}

struct Recorder {
  std::vector<int>* order;
  int number;
};
Status record(void* argument) {
  auto* recorder = static_cast<Recorder*>(argument);
  recorder->order->push_back(recorder->number);
  return {};
}
Status fail_now(void*) { return Status(Code::invalid_argument, "the kernel refused"); }

TEST_P(AnyDevice, RunsInOrderThroughASmallRing) {
  for (const std::uint32_t capacity : {1u, 2u, 3u, 64u}) {
    auto queue = device->create_queue("small", capacity).value();
    std::vector<int> order;
    std::vector<Recorder> recorders;
    for (int i = 0; i < 1000; ++i) recorders.push_back({&order, i});
    for (auto& recorder : recorders) {
      queue->launch(record, &recorder);
      if (recorder.number % 97 != 0) continue;
      ASSERT_TRUE(queue->synchronize().ok());  // everything until here has run
      ASSERT_EQ(order.size(), static_cast<std::size_t>(recorder.number) + 1);
    }
    ASSERT_TRUE(queue->synchronize().ok());
    std::vector<int> expected(1000);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(order, expected);
  }
}

TEST_P(AnyDevice, WaitsForAValueNobodyHasSignalledYet) {
  auto producer = device->create_queue("producer", 8).value();
  auto consumer = device->create_queue("consumer", 8).value();
  auto timeline = device->create_timeline().value();
  std::vector<std::byte> from(1000, std::byte{9}), middle(1000), to(1000);
  consumer->wait({timeline.get(), 5});
  consumer->copy(to.data(), middle.data(), to.size());
  producer->copy(middle.data(), from.data(), from.size());
  producer->signal({timeline.get(), 5});
  ASSERT_TRUE(consumer->synchronize().ok());
  ASSERT_TRUE(producer->synchronize().ok());  // a timeline outlives the commands that name it
  EXPECT_EQ(to, from);
  auto arena = device->reserve_arena(device->info().granule).value();
  ASSERT_TRUE(arena->commit(0, device->info().granule).ok());
  consumer->copy(arena->base(), from.data(), from.size());
  consumer->zero(arena->base(), 500);
  consumer->copy(to.data(), arena->base(), to.size());
  ASSERT_TRUE(consumer->synchronize().ok());
  EXPECT_EQ(to[499], std::byte{0});
  EXPECT_EQ(to[500], std::byte{9});
}

TEST_P(AnyDevice, FailureDropsWorkButNotSignals) {
  auto queue = device->create_queue("q", 8).value();
  auto other = device->create_queue("r", 8).value();
  auto timeline = device->create_timeline().value();
  auto done = device->create_timeline().value();
  std::vector<int> order;
  Recorder recorder{&order, 1};
  queue->wait({timeline.get(), 1});
  queue->launch(record, &recorder);
  queue->signal({done.get(), 7});
  timeline->fail(Status(Code::io_error, "no bytes"));
  timeline->fail(Status(Code::internal, "the second does not count"));
  const Status failed = queue->synchronize();
  EXPECT_EQ(failed.code(), Code::io_error);
  EXPECT_TRUE(order.empty());
  EXPECT_EQ(done->value(), 7u);
  EXPECT_EQ(timeline->wait(1).code(), Code::io_error);  // sticky
  queue->launch(record, &recorder);
  EXPECT_EQ(queue->synchronize().code(), Code::io_error);
  EXPECT_TRUE(order.empty());
  queue->clear_error();
  timeline->reset();
  timeline->signal(1);
  queue->wait({timeline.get(), 1});
  queue->launch(record, &recorder);
  EXPECT_TRUE(queue->synchronize().ok());
  EXPECT_EQ(order.size(), 1u);
  queue->launch(fail_now, nullptr);
  queue->launch(record, &recorder);
  EXPECT_EQ(queue->synchronize().code(), Code::invalid_argument);
  EXPECT_EQ(order.size(), 1u);
}

TEST_P(AnyDevice, ReachedValuesOutliveAFailure) {
  auto timeline = device->create_timeline().value();
  timeline->signal(4);
  timeline->signal(2);  // ignored
  EXPECT_EQ(timeline->value(), 4u);
  timeline->fail(Status(Code::io_error, "later"));
  EXPECT_TRUE(timeline->wait(4).ok());
  EXPECT_FALSE(timeline->wait(5).ok());
}

TEST_P(AnyDevice, DestructionEndsAWait) {
  auto timeline = device->create_timeline().value();
  auto done = device->create_timeline().value();
  {
    auto queue = device->create_queue("q", 8).value();
    queue->wait({timeline.get(), 1});
    queue->signal({done.get(), 1});
  }
  EXPECT_EQ(done->value(), 1u);
}

TEST_P(AnyDevice, ListenerHearsGrowthAndFailure) {
  auto timeline = device->create_timeline().value();
  std::atomic<int> heard{0};
  timeline->set_listener([&] { ++heard; });
  std::thread other([&] { timeline->signal(1); });
  other.join();
  timeline->signal(1);  // no growth
  timeline->fail(Status(Code::io_error, "x"));
  EXPECT_EQ(heard.load(), 2);
  timeline->set_listener({});
  timeline->signal(2);
  EXPECT_EQ(heard.load(), 2);
}

TEST(CpuFaults, NthOperationFailsOnceOrForGood) {
  for (const bool lasting : {false, true}) {
    CpuDeviceOptions options;
    DeviceFaultPlan plan;
    plan.op = DeviceOp::launch;
    plan.nth = 3;
    plan.lasting = lasting;
    plan.seed = 5;
    plan.max_delay_us = 50;
    options.hook = seeded_device_faults(plan);
    auto device = make_device(options);
    auto queue = device->create_queue("q", 4).value();
    std::vector<int> order;
    Recorder recorder{&order, 1};
    std::vector<bool> ok;
    for (int i = 0; i < 5; ++i) {
      queue->launch(record, &recorder);
      const Status status = queue->synchronize();
      ok.push_back(status.ok());
      EXPECT_TRUE(status.ok() || status.code() == Code::device_lost);
      queue->clear_error();
    }
    EXPECT_EQ(ok, (lasting ? std::vector<bool>{true, true, false, false, false} : std::vector<bool>{true, true, false, true, true}));
    EXPECT_EQ(order.size(), lasting ? 2u : 4u);
  }
}

TEST(CpuFaults, CommitMayBeRefused) {
  CpuDeviceOptions options;
  DeviceFaultPlan plan;
  plan.op = DeviceOp::commit;
  plan.nth = 2;
  plan.code = Code::out_of_memory;
  options.hook = seeded_device_faults(plan);
  auto device = make_device(options);
  auto arena = device->reserve_arena(1 << 20).value();
  EXPECT_TRUE(arena->commit(0, kPage).ok());
  EXPECT_EQ(arena->commit(kPage, kPage).code(), Code::out_of_memory);
  EXPECT_EQ(arena->committed_bytes(), kPage);
  EXPECT_TRUE(arena->commit(kPage, kPage).ok());
}

}  // namespace
}  // namespace forebay
