// Weights that the page cache holds, and fills of a device whose arena the host does not address: every byte that a step is given is
// compared.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/stream/stream_world.h"

namespace forebay::stream::test {
namespace {

StreamerOptions automatic(int threads) {
  StreamerOptions options;
  options.read_bytes = 32 * 1024;
  options.queue_depth = 6;
  options.decode_threads = threads;
  return options;
}

// Whether the kernel says what its page cache holds. The files of these tests were just written.
bool kernel_tells() {
  WorldOptions w;
  w.weights = 2;
  World world(w);
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  Rig rig(world, set.generation, automatic(1));
  if (!rig.set_layout(0, 0).ok() || !rig.run_pass({&set}, {}).status.ok()) return false;
  return io_report(*rig.source).page_cache_bytes > 0;
}

struct Case {
  const char* name;
  bool far, unaligned, coded;
  DirectIo direct;
  std::uint32_t bodies;
  std::uint64_t host_cache, staging;
};

class PageCache : public testing::TestWithParam<Case> {};

TEST_P(PageCache, EveryByteAtEverySize) {
  const Case& c = GetParam();
  const bool tells = kernel_tells();
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    WorldOptions w;
    w.seed = seed;
    w.unaligned = c.unaligned;
    w.coded = c.coded;
    w.digests = seed % 2 == 0;
    w.bodies = c.bodies;
    World world(w);
    const WeightSet set = world.make_weights(1, posix_file_system(), c.direct);
    StreamerOptions options = automatic(4);
    options.direct = c.direct;
    options.host_cache_bytes = c.host_cache;
    options.staging_bytes = c.staging;
    Rig rig(world, set.generation, options, {}, c.far);
    ASSERT_TRUE(rig.create_status.ok()) << rig.create_status.to_string();
    const std::uint64_t total = rig.source->limits().resident_total_bytes;
    for (const std::uint64_t share : {0ull, 3ull, 5ull, 8ull}) {
      for (const std::uint64_t ring_more : {0ull, 300'000ull}) {
        ASSERT_TRUE(rig.set_layout(ring_more, total * share / 8).ok());
        for (std::uint64_t pass = 0; pass < 3; ++pass) {
          Rig::PassOptions run;
          run.seed = seed * 100 + pass;
          run.max_delay_us = pass == 1 ? 200 : 0;
          const auto result = rig.run_pass({&set}, run);
          ASSERT_TRUE(result.status.ok()) << result.status.to_string() << " seed " << seed << " share " << share;
        }
      }
    }
    const IoReport report = io_report(*rig.source);
    EXPECT_EQ(report.page_cache_bytes > 0, tells);
    EXPECT_LE(report.page_cache_bytes, rig.source->counters().disk_bytes);  // the system may take pages back at any time
    EXPECT_GT(report.loaded_bytes, 0u);
    EXPECT_GT(report.load_ns, 0u);
  }
  if (!tells) GTEST_SKIP() << "the kernel does not say what its page cache holds: the reads went the other way, and were right";
}

INSTANTIATE_TEST_SUITE_P(All, PageCache,
                         testing::Values(Case{"near", false, false, true, DirectIo::prefer, 0, 0, 0},
                                         Case{"near_unaligned_buffered", false, true, true, DirectIo::off, 2, 300'000, 0},
                                         Case{"far", true, false, true, DirectIo::prefer, 0, 0, 0},
                                         Case{"far_unaligned", true, true, false, DirectIo::prefer, 2, 300'000, 0},
                                         Case{"far_small_staging", true, true, true, DirectIo::prefer, 0, 0, 250'000},
                                         Case{"far_least_staging", true, false, true, DirectIo::off, 1, 200'000, 1}),
                         [](const auto& param) { return param.param.name; });

// Fills of a far device from the disk's engines: their room is used again and again.
TEST(FarFills, FromEveryEngine) {
  for (const IoChoice io : {IoChoice::automatic, IoChoice::threads}) {
    WorldOptions w;
    w.seed = 5;
    w.unaligned = true;
    World world(w);
    const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
    StreamerOptions options = automatic(3);
    options.io = io;
    options.direct = DirectIo::require;
    options.staging_bytes = 200'000;
    Rig rig(world, set.generation, options, {}, true);
    ASSERT_TRUE(rig.create_status.ok()) << rig.create_status.to_string();
    for (const std::uint64_t share : {4ull, 8ull, 2ull}) {
      ASSERT_TRUE(rig.set_layout(100'000, rig.source->limits().resident_total_bytes * share / 8).ok());
      for (int pass = 0; pass < 2; ++pass) {
        const auto result = rig.run_pass({&set}, {});
        ASSERT_TRUE(result.status.ok()) << result.status.to_string();
      }
    }
    EXPECT_EQ(io_report(*rig.source).page_cache_bytes, 0u);  // --direct on means it
  }
}

// A refit in the middle: the new generation's fills pass through the same room, grown where it must.
TEST(FarFills, ARefitFillsAgain) {
  WorldOptions w;
  w.seed = 9;
  World world(w);
  const WeightSet first = world.make_weights(1, posix_file_system(), DirectIo::prefer);
  const WeightSet second = world.make_weights(2, posix_file_system(), DirectIo::prefer);
  StreamerOptions options = automatic(2);
  options.staging_bytes = 1;
  Rig rig(world, first.generation, options, {}, true);
  ASSERT_TRUE(rig.set_layout(200'000, rig.source->limits().resident_total_bytes / 2).ok());
  ASSERT_TRUE(rig.run_pass({&first, &second}, {}).status.ok());
  ASSERT_TRUE(rig.source->publish(second.generation).ok());
  for (int pass = 0; pass < 2; ++pass) {
    const auto result = rig.run_pass({&first, &second}, {});
    ASSERT_TRUE(result.status.ok()) << result.status.to_string();
    EXPECT_EQ(result.generation, 2u);
  }
}

// A byte that changed in the page cache is found by the digest, and named; put right again, the source serves.
TEST(PageCacheFaults, AChangedByteIsFound) {
  for (const bool far : {false, true}) {
    WorldOptions w;
    w.seed = 3;
    w.coded = false;
    w.host = false;
    World world(w);
    const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
    Rig rig(world, set.generation, automatic(3), {}, far);
    ASSERT_TRUE(rig.set_layout(100'000, 0).ok());
    ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
    std::uint64_t at = 0;
    for (const auto& chunk : set.generation->binding.chunks) at = chunk.stored_bytes > 0 ? chunk.offset + chunk.stored_bytes / 2 : at;
    const auto flip = [&] {
      std::fstream file(set.path, std::ios::binary | std::ios::in | std::ios::out);
      file.seekg(static_cast<std::streamoff>(at));
      const auto byte = static_cast<char>(file.get() ^ 1);
      file.seekp(static_cast<std::streamoff>(at));
      file.put(byte);
    };
    flip();
    Status status;
    for (int pass = 0; pass < 3 && status.ok(); ++pass) status = rig.run_pass({&set}, {}).status;  // some was prefetched
    EXPECT_EQ(status.code(), Code::corruption) << status.to_string();
    ASSERT_FALSE(status.problems().empty());
    EXPECT_EQ(status.problems()[0].file, "weights1.bin");
    flip();
    for (int pass = 0; pass < 2; ++pass) {
      const auto result = rig.run_pass({&set}, {});
      EXPECT_TRUE(result.status.ok()) << result.status.to_string();
    }
  }
}

}  // namespace
}  // namespace forebay::stream::test
