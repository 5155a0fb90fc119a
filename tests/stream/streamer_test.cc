// The streamer end to end: every byte that a step is given is compared, at many ring and resident sizes, engines, codecs and layouts.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/stream/stream_world.h"

namespace forebay::stream::test {
namespace {

constexpr std::uint64_t kEverything = ~0ull >> 1;

StreamerOptions small_reads(IoChoice io) {
  StreamerOptions options;
  options.io = io;
  options.read_bytes = 32 * 1024;  // so that chunks are read in pieces
  options.queue_depth = 6;
  return options;
}

bool uring_works() {
  WorldOptions w;
  w.weights = 1;
  World world(w);
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  Rig rig(world, set.generation, small_reads(IoChoice::uring));
  return rig.create_status.ok();
}

struct Variant {
  const char* name;
  IoChoice io;
  DirectIo direct;
  bool unaligned, digests;
  std::uint32_t bodies;
  int decode_threads;
  std::uint64_t host_cache;
  bool far = false;  // to a device through host memory
};

class StreamerVariants : public testing::TestWithParam<Variant> {};

TEST_P(StreamerVariants, EveryByteAtEverySize) {
  const Variant& v = GetParam();
  if (v.io == IoChoice::uring && !uring_works()) GTEST_SKIP() << "no io_uring here";
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    WorldOptions w;
    w.seed = seed;
    w.unaligned = v.unaligned;
    w.digests = v.digests;
    w.bodies = v.bodies;
    World world(w);
    const WeightSet set = world.make_weights(1, posix_file_system(), v.direct);
    StreamerOptions options = small_reads(v.io);
    options.direct = v.direct;
    options.decode_threads = v.decode_threads;
    options.host_cache_bytes = v.host_cache;
    Rig rig(world, set.generation, options, {}, v.far);
    ASSERT_TRUE(rig.create_status.ok()) << rig.create_status.to_string();
    const std::uint64_t total = rig.source->limits().resident_total_bytes;
    std::uint64_t streamed_passes = 0, passes = 0;
    for (const std::uint64_t ring_more : {0ull, 8192ull, 300'000ull, 4'000'000ull}) {
      for (const std::uint64_t share : {0ull, 1ull, 3ull, 5ull, 8ull}) {
        ASSERT_TRUE(rig.set_layout(ring_more, total * share / 8).ok());
        for (std::uint64_t pass = 0; pass < 3; ++pass) {
          const StreamCounters before = rig.source->counters();
          Rig::PassOptions run;
          run.seed = seed * 100 + pass;
          run.max_delay_us = pass == 1 ? 200 : 0;
          const auto result = rig.run_pass({&set}, run);
          ASSERT_TRUE(result.status.ok()) << result.status.to_string() << " seed " << seed << " ring " << ring_more << " share " << share;
          const StreamCounters after = rig.source->counters();
          ++passes;
          if (after.chunks_loaded > before.chunks_loaded) ++streamed_passes;
          if (share == 8 && pass == 2) {
            EXPECT_EQ(after.disk_bytes, before.disk_bytes);
          }
        }
        EXPECT_EQ(rig.source->fully_resident(), share == 8);
        EXPECT_LE(rig.source->counters().host_cache_bytes, v.host_cache + set.generation->binding.host_bytes);
      }
    }
    EXPECT_GE(2 * streamed_passes, passes);  // it really streams
  }
}

INSTANTIATE_TEST_SUITE_P(All, StreamerVariants,
                         testing::Values(Variant{"uring_direct", IoChoice::uring, DirectIo::prefer, false, true, 0, 1, 0},
                                         Variant{"uring_direct_unaligned", IoChoice::uring, DirectIo::prefer, true, false, 0, 2, 0},
                                         Variant{"uring_buffered", IoChoice::uring, DirectIo::off, true, true, 0, 1, 0},
                                         Variant{"uring_bodies", IoChoice::uring, DirectIo::prefer, true, true, 3, 2, 300'000},
                                         Variant{"threads_direct", IoChoice::threads, DirectIo::prefer, false, true, 0, 1, 0},
                                         Variant{"threads_direct_odd", IoChoice::threads, DirectIo::prefer, true, false, 0, 3, 500'000},
                                         Variant{"threads_buffered", IoChoice::threads, DirectIo::off, true, true, 2, 1, 0},
                                         Variant{"far_direct", IoChoice::uring, DirectIo::require, false, true, 0, 2, 0, true},
                                         Variant{"far_cached", IoChoice::threads, DirectIo::require, true, true, 0, 2, 500'000, true},
                                         Variant{"far_bodies", IoChoice::uring, DirectIo::require, true, true, 3, 2, 300'000, true}),
                         [](const auto& param) { return param.param.name; });

TEST(Streamer, HostCacheServesWhatItHolds) {
  WorldOptions w;
  w.host = false;
  World world(w);
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  StreamerOptions options = small_reads(IoChoice::automatic);
  options.host_cache_bytes = kEverything;
  Rig rig(world, set.generation, options);
  ASSERT_TRUE(rig.set_layout(100'000, 0).ok());
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  const StreamCounters before = rig.source->counters();
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  const StreamCounters after = rig.source->counters();
  EXPECT_EQ(after.disk_bytes, before.disk_bytes);
  EXPECT_GT(after.link_bytes, before.link_bytes);
  std::uint64_t stored = 0;
  for (const auto& chunk : set.generation->binding.chunks) stored += chunk.stored_bytes;
  EXPECT_LE(after.host_cache_bytes, stored);
  EXPECT_GT(after.host_cache_bytes, 0u);
}

TEST(Streamer, ResidentChunksSurviveBudgetChanges) {
  WorldOptions w;
  w.host = false;
  World world(w);
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  Rig rig(world, set.generation, small_reads(IoChoice::automatic));
  const std::uint64_t total = rig.source->limits().resident_total_bytes;
  ASSERT_TRUE(rig.set_layout(0, total).ok());
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  const std::uint64_t all = rig.source->counters().disk_bytes;
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  EXPECT_EQ(rig.source->counters().disk_bytes, all);
  ASSERT_TRUE(rig.set_layout(50'000, total / 2).ok());
  ASSERT_TRUE(rig.set_layout(0, total).ok());  // no pass between: only the upper half is to be filled again
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  const std::uint64_t again = rig.source->counters().disk_bytes - all;
  EXPECT_GT(again, 0u);
  EXPECT_LT(again, all * 3 / 4);
}

TEST(Streamer, RefusesLayoutsAndKeepsTheOld) {
  World world({});
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  Rig rig(world, set.generation, small_reads(IoChoice::automatic));
  EXPECT_EQ(rig.run_pass({&set}, {}).status.code(), Code::failed_precondition);
  ASSERT_TRUE(rig.set_layout(0, 200'000).ok());
  ArenaLayout layout;
  layout.arena_bytes = rig.arena().reserved_bytes();
  layout.ring_bytes = rig.source->limits().min_ring_bytes - 4096;
  bool resized = false;
  const auto resize = [&]() -> Status {
    resized = true;
    return {};
  };
  EXPECT_EQ(rig.source->reconfigure(layout, resize).code(), Code::resource_exhausted);
  layout.ring_bytes = layout.arena_bytes + 4096;
  EXPECT_EQ(rig.source->reconfigure(layout, resize).code(), Code::invalid_argument);
  EXPECT_FALSE(resized);
  EXPECT_TRUE(rig.run_pass({&set}, {}).status.ok());
  // A resize that fails: the old layout again, and what was resident is not trusted.
  layout.ring_offset = 3 * 4096;
  layout.ring_bytes = rig.source->limits().min_ring_bytes;
  layout.resident_bytes = 200'000 / 4096 * 4096;
  EXPECT_EQ(rig.source->reconfigure(layout, [] { return Status(Code::out_of_memory, "no"); }).code(), Code::out_of_memory);
  EXPECT_TRUE(rig.run_pass({&set}, {}).status.ok());
}

// Passes from several threads, budgets and generations changing between them all the while. Each pass sees one generation whole.
void stress(IoChoice io, std::uint32_t bodies, bool pin_everything, bool far = false) {
  WorldOptions w;
  w.seed = 5 + bodies;
  w.weights = 8;
  w.slab_bytes = 40 * 1024;
  w.unaligned = true;
  w.bodies = bodies;
  World world(w);
  std::vector<WeightSet> sets;
  for (std::uint64_t number = 1; number <= 3; ++number) sets.push_back(world.make_weights(number, posix_file_system(), DirectIo::prefer));
  std::vector<const WeightSet*> pointers;
  for (const WeightSet& set : sets) pointers.push_back(&set);
  StreamerOptions options = small_reads(io);
  options.host_cache_bytes = 100'000;
  if (far) options.direct = DirectIo::require;
  Rig rig(world, sets[0].generation, options, {}, far);
  ASSERT_TRUE(rig.create_status.ok()) << rig.create_status.to_string();
  const std::uint64_t total = rig.source->limits().resident_total_bytes;
  std::uint64_t ring = 0;  // a ring that holds for all sets
  for (const WeightSet& set : sets) ring = std::max(ring, rig.source->limits_for(*set.generation).min_ring_bytes);
  ASSERT_TRUE(rig.set_layout(ring, pin_everything ? total : 0).ok());
  std::atomic<bool> stop{false};
  std::atomic<int> failures{0}, passes{0};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 40; ++i) {
        Rig::PassOptions run;
        run.seed = t * 1000 + i;
        run.max_delay_us = i % 4 == 0 ? 50 : 0;
        const auto result = rig.run_pass(pointers, run);
        if (!result.status.ok()) {
          ++failures;
          ADD_FAILURE() << result.status.to_string();
          break;
        }
        ++passes;
      }
    });
  }
  std::thread control([&] {
    Random random(9);
    while (!stop.load()) {
      if (random.chance(2)) {
        const Status published = rig.source->publish(sets[random.below(3)].generation);
        if (!published.ok()) ADD_FAILURE() << published.to_string();
      } else {
        const Status changed = rig.set_layout(ring + 4096 * random.below(100), pin_everything ? total : random.below(total + 1));
        if (!changed.ok()) ADD_FAILURE() << changed.to_string();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  control.join();
  EXPECT_EQ(failures.load(), 0);
  EXPECT_EQ(passes.load(), 120);
}

TEST(Streamer, StressThreads) { stress(IoChoice::threads, 0, false); }
TEST(Streamer, StressUring) { stress(IoChoice::automatic, 0, false); }
TEST(Streamer, StressBodies) { stress(IoChoice::automatic, 2, false); }
TEST(Streamer, StressResident) { stress(IoChoice::automatic, 2, true); }
TEST(Streamer, StressFar) { stress(IoChoice::automatic, 0, false, true); }
TEST(Streamer, StressFarBodies) { stress(IoChoice::threads, 2, false, true); }

TEST(Streamer, PublishedGenerationsAreTakenByTheNextPass) {
  WorldOptions w;
  World world(w);
  const WeightSet a = world.make_weights(1, posix_file_system(), DirectIo::off);
  const WeightSet b = world.make_weights(2, posix_file_system(), DirectIo::off);
  Rig rig(world, a.generation, small_reads(IoChoice::automatic));
  const std::uint64_t ring = rig.source->limits_for(*b.generation).min_ring_bytes;
  ASSERT_TRUE(rig.set_layout(ring, 400'000).ok());
  EXPECT_EQ(rig.run_pass({&a, &b}, {}).generation, 1u);
  ASSERT_TRUE(rig.source->publish(b.generation).ok());
  EXPECT_EQ(rig.source->current()->number, 2u);
  for (int i = 0; i < 2; ++i) {
    const auto second = rig.run_pass({&a, &b}, {});
    EXPECT_TRUE(second.status.ok()) << second.status.to_string();
    EXPECT_EQ(second.generation, 2u);
  }
  // The same bytes under another number: what is resident stays.
  auto same = std::make_shared<plan::Generation>(*b.generation);
  same->number = 3;
  ASSERT_TRUE(rig.set_layout(ring, kEverything).ok());
  ASSERT_TRUE(rig.run_pass({&a, &b}, {}).status.ok());
  ASSERT_TRUE(rig.source->publish(same).ok());
  const std::uint64_t loads = rig.source->counters().chunks_loaded;
  const auto third = rig.run_pass({&a, &b, &b}, {});
  EXPECT_TRUE(third.status.ok());
  EXPECT_EQ(third.generation, 3u);
  EXPECT_EQ(rig.source->counters().chunks_loaded, loads);
  // And one of another plan is refused with the old one serving.
  auto wrong = std::make_shared<plan::Generation>(*b.generation);
  wrong->binding.chunks.pop_back();
  EXPECT_EQ(rig.source->publish(wrong).code(), Code::invalid_argument);
  EXPECT_TRUE(rig.run_pass({&a, &b, &b}, {}).status.ok());
}

void failed_passes(bool far) {
  World world({});
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  StreamerOptions options = small_reads(IoChoice::automatic);
  if (far) options.direct = DirectIo::require;
  Rig rig(world, set.generation, options, {}, far);
  ASSERT_TRUE(rig.set_layout(100'000, 300'000).ok());
  for (std::uint64_t i = 0; i < 20; ++i) {
    Rig::PassOptions run;
    run.seed = i;
    run.fail_a_kernel = i % 2 == 0;
    const auto result = rig.run_pass({&set}, run);
    EXPECT_TRUE(result.status.ok() || result.status.code() == Code::invalid_argument) << result.status.to_string();
    if (i % 2 == 1) {
      EXPECT_TRUE(result.status.ok()) << result.status.to_string();
    }
  }
}

TEST(Streamer, AFailedPassLeavesTheNextOneWhole) { failed_passes(false); }
TEST(Streamer, AFailedPassLeavesTheNextOneWholeOnAFarDevice) { failed_passes(true); }

void shut_down(bool far) {
  World world({});
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  StreamerOptions options = small_reads(IoChoice::automatic);
  if (far) options.direct = DirectIo::require;
  Rig rig(world, set.generation, options, {}, far);
  ASSERT_TRUE(rig.set_layout(0, 0).ok());
  std::vector<std::thread> threads;
  std::atomic<int> bad{0};
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 1000; ++i) {
        Rig::PassOptions run;
        run.seed = t + i;
        const Status status = rig.run_pass({&set}, run).status;
        if (status.ok()) continue;
        if (status.code() != Code::cancelled) ++bad;
        return;
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  rig.source->shutdown();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(bad.load(), 0);
  EXPECT_EQ(rig.source->begin_pass().status().code(), Code::cancelled);
  rig.source->shutdown();
}

TEST(Streamer, ShutdownCancelsWaitersAndDrains) { shut_down(false); }
TEST(Streamer, ShutdownCancelsWaitersAndDrainsOnAFarDevice) { shut_down(true); }

TEST(Streamer, GathersRowsHoweverTheyAreBound) {
  WorldOptions w;
  w.coded = true;
  w.unaligned = true;
  World world(w);
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  Rig rig(world, set.generation, small_reads(IoChoice::automatic));
  ASSERT_TRUE(rig.set_layout(0, 0).ok());
  auto lease = rig.source->begin_pass().value();
  std::uint64_t bytes = 0;
  for (plan::WeightId id = 0; id < world.plan()->weights.size(); ++id) {
    // The shape decides the rows: one per byte of a weight seen as [bytes].
    const plan::Weight& weight = world.plan()->weights[id];
    Bytes all;
    for (std::uint32_t p = 0; p < weight.part_count; ++p) {
      const Bytes& chunk = set.chunks[world.plan()->parts[weight.first_part + p].chunk];
      all.insert(all.end(), chunk.begin(), chunk.end());
    }
    if (all.empty()) continue;
    Bytes found(all.size());
    const std::vector<std::int64_t> rows = {0};  // rank 0: one row, the whole weight
    const Status status = lease->gather_rows(id, rows, found.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(found, all);
    bytes += all.size();
    const std::vector<std::int64_t> beyond = {1};
    EXPECT_EQ(lease->gather_rows(id, beyond, found.data()).code(), Code::invalid_argument);
  }
  EXPECT_EQ(rig.source->counters().gathered_bytes, bytes);
  lease->end(true);
  EXPECT_TRUE(rig.run_pass({&set}, {}).status.ok());
}

TEST(Streamer, GathersRowsByGroups) {
  // A table of 1000 rows of 300 bytes at an odd offset, with a digest per group.
  auto plan = std::make_shared<plan::Plan>();
  plan::Weight weight;
  weight.name = "table";
  weight.shape = Shape{1000, 75};
  weight.dtype = DType::f32;
  weight.bytes = 300'000;
  weight.part_count = 1;
  weight.gather_only = true;
  plan->weights.push_back(weight);
  plan::Part part;
  part.weight = part.chunk = 0;
  part.row_count = 1000;
  part.bytes = weight.bytes;
  plan->parts.push_back(part);
  plan->chunk_parts.push_back(0);
  plan->chunks.push_back({0, 1, weight.bytes});
  forebay::test::TempFolder folder;
  Bytes file(777 + weight.bytes);
  Random(3).fill(file);
  World::write(folder / "table.bin", file);
  auto generation = std::make_shared<plan::Generation>();
  generation->number = 1;
  plan::BoundFile bound;
  bound.name = "table.bin";
  bound.buffered = posix_file_system().open_read(folder / "table.bin", DirectIo::off).value();
  bound.identity = bound.buffered->identity().value();
  generation->binding.files.push_back(bound);
  plan::ChunkBinding chunk;
  chunk.offset = 777;
  chunk.stored_bytes = weight.bytes;
  generation->binding.chunks.push_back(chunk);
  plan::RowBinding rows;
  rows.available = true;
  rows.offset = 777;
  rows.row_bytes = 300;
  for (std::uint64_t at = 0; at < weight.bytes; at += plan::RowBinding::kGroupBytes) {
    const std::uint64_t bytes = std::min(plan::RowBinding::kGroupBytes, weight.bytes - at);
    rows.group_digests.push_back(xxh128(std::span<const std::byte>(file).subspan(777 + at, bytes)));
  }
  generation->binding.rows.push_back(rows);
  auto device = create_cpu_device().value();
  auto arena = device->reserve_arena(1 << 20).value();
  auto source = create_streamer(*device, *arena, plan, PassProgram(), generation, {}, null_logger()).value();
  ArenaLayout layout;
  layout.arena_bytes = 1 << 20;
  ASSERT_TRUE(source->reconfigure(layout, {}).ok());
  auto lease = source->begin_pass().value();
  const std::vector<std::int64_t> wanted = {999, 0, 218, 219, 218, 700};  // 218 straddles the first two groups
  Bytes found(wanted.size() * 300);
  ASSERT_TRUE(lease->gather_rows(0, wanted, found.data()).ok());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(std::memcmp(found.data() + i * 300, file.data() + 777 + static_cast<std::size_t>(wanted[i]) * 300, 300), 0) << wanted[i];
  }
  // Many rows are copied by several threads.
  std::vector<std::int64_t> many(3000);
  std::mt19937_64 random(7);
  for (std::int64_t& row : many) row = static_cast<std::int64_t>(random() % 218);  // of the first group
  Bytes all(many.size() * 300);
  ASSERT_TRUE(lease->gather_rows(0, many, all.data()).ok());
  for (std::size_t i = 0; i < many.size(); ++i) {
    ASSERT_EQ(std::memcmp(all.data() + i * 300, file.data() + 777 + static_cast<std::size_t>(many[i]) * 300, 300), 0) << i;
  }
  lease->end(false);
  // A flipped byte in the middle group is found, and only there; what was checked before stays as it was.
  file[777 + 150'000] ^= std::byte{1};
  World::write(folder / "table.bin", file);
  lease = source->begin_pass().value();
  const std::vector<std::int64_t> hit = {500}, away = {3};
  EXPECT_TRUE(lease->gather_rows(0, away, found.data()).ok());
  EXPECT_EQ(std::memcmp(found.data(), file.data() + 777 + 3 * 300, 300), 0);
  const Status status = lease->gather_rows(0, hit, found.data());
  EXPECT_EQ(status.code(), Code::corruption);
  EXPECT_EQ(status.problems()[0].tensor, "table");
  EXPECT_EQ(status.problems()[0].file, "table.bin");
  lease->end(true);
}

}  // namespace
}  // namespace forebay::stream::test
