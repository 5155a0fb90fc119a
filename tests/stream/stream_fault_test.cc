// Faults F1 to F13 and F16 against the streamer: the right bytes or one clear error, and the next pass whole once the fault is gone.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <cstddef>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "stream/io_engine.h"
#include "support/fault_fs.h"
#include "tests/stream/stream_world.h"

namespace forebay::stream::test {
namespace {

using forebay::test::Fault;
using forebay::test::FaultFs;
using forebay::test::FaultKind;
using forebay::test::FaultOp;

StreamerOptions options_for(IoChoice io) {
  StreamerOptions options;
  options.io = io;
  options.read_bytes = 32 * 1024;
  options.queue_depth = 4;
  return options;
}

WorldOptions small_world(std::uint64_t seed) {
  WorldOptions w;
  w.seed = seed;
  w.weights = 6;
  w.slab_bytes = 80 * 1024;
  w.host = false;
  return w;
}

// A file read past the page cache that refuses, as the kernel does, what is not a multiple of its alignment.
class StrictFile final : public File {
 public:
  StrictFile(std::shared_ptr<File> inner, std::uint32_t alignment, std::uint64_t refuse_after)
      : inner_(std::move(inner)), alignment_(alignment), refuse_after_(refuse_after) {}
  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    const bool multiple = offset % alignment_ == 0 && out.size() % alignment_ == 0 && reinterpret_cast<std::uintptr_t>(out.data()) % alignment_ == 0;
    if (!multiple || ++reads > refuse_after_) return Status(Code::io_error, "Invalid argument (errno 22)");
    return inner_->read_at(offset, out);
  }
  Result<std::size_t> write_at(std::uint64_t, std::span<const std::byte>) override { return Status(Code::unsupported, "read only"); }
  Status sync() override { return {}; }
  Status truncate(std::uint64_t) override { return Status(Code::unsupported, "read only"); }
  Result<FileIdentity> identity() override { return inner_->identity(); }
  int descriptor() const override { return -1; }
  bool direct() const override { return true; }
  std::uint32_t alignment() const override { return alignment_; }
  const std::string& name() const override { return inner_->name(); }
  std::atomic<std::uint64_t> reads{0};

 private:
  const std::shared_ptr<File> inner_;
  const std::uint32_t alignment_;
  const std::uint64_t refuse_after_;
};

// Runs one read fault at a time, the n-th read failing for a spread of n; checks what `transparent` promises.
// `far`: on the way to a device that the host does not address.
void sweep_once(const Fault& base, bool transparent, Code code, bool digests, bool far) {
  WorldOptions w = small_world(3);
  w.digests = digests;
  w.unaligned = !digests;
  World world(w);
  FaultFs fs;
  const WeightSet set = world.make_weights(1, fs, DirectIo::off);
  Rig rig(world, set.generation, options_for(IoChoice::threads), {}, far);
  ASSERT_TRUE(rig.set_layout(60'000, 150'000).ok());
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  std::uint64_t injected = 0, failed = 0;
  for (std::uint64_t n = 1; n < 90; n += forebay::test::full_fault_sweep() ? 1 : 1 + n / 6) {
    Fault fault = base;
    fault.op = FaultOp::read;
    fault.nth = n;
    fault.seed = n;
    const int before = testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count();
    fs.arm(fault);
    const auto result = rig.run_pass({&set}, {});
    const bool met = fs.met();
    fs.disarm();
    injected += met ? 1 : 0;
    if (!result.status.ok()) {
      ++failed;
      EXPECT_FALSE(transparent) << result.status.to_string();
      EXPECT_EQ(result.status.code(), code) << result.status.to_string();
      EXPECT_EQ(result.status.problems()[0].file, "weights1.bin");  // I5
      EXPECT_FALSE(result.status.problems()[0].tensor.empty());
      EXPECT_TRUE(result.status.problems()[0].offset.has_value());
    }
    for (int again = 0; again < 2; ++again) {  // I7; the first may still hold a failed prefetch
      const auto after = rig.run_pass({&set}, {});
      EXPECT_TRUE(after.status.ok()) << after.status.to_string();
    }
    if (met) forebay::test::note_fault(testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count() == before);
  }
  EXPECT_GT(injected, 5u);
  // What fails before its pass begins is read once more: on the way to a far device that may be all of a small world.
  if (!transparent && !far) {
    EXPECT_GT(failed, 0u);
  }
}

void sweep(const Fault& base, bool transparent, Code code, bool digests = true) {
  for (const bool far : {false, true}) sweep_once(base, transparent, code, digests, far);
}

TEST(StreamFaults, F1OneErrorIsRetried) { sweep({.error = EIO}, true, Code::ok); }
TEST(StreamFaults, F2LastingErrorsFailThePass) { sweep({.error = EIO, .lasting = true}, false, Code::io_error); }
TEST(StreamFaults, F3ShortReads) {
  sweep({.kind = FaultKind::short_transfer}, true, Code::ok);
  sweep({.kind = FaultKind::short_transfer, .lasting = true}, true, Code::ok, false);
}
TEST(StreamFaults, F11FlippedBitsAreFound) { sweep({.kind = FaultKind::flip}, false, Code::corruption); }
TEST(StreamFaults, F11FlippedBitsAreFoundAgainstTheFirstRead) { sweep({.kind = FaultKind::flip}, false, Code::corruption, false); }
TEST(StreamFaults, F16MisdirectedReadsAreFound) { sweep({.kind = FaultKind::misdirect}, false, Code::corruption); }

// F2: no retry storm.
TEST(StreamFaults, LastingErrorsAreNotReadForEver) {
  World world(small_world(4));
  FaultFs fs;
  const WeightSet set = world.make_weights(1, fs, DirectIo::off);
  Rig rig(world, set.generation, options_for(IoChoice::threads));
  ASSERT_TRUE(rig.set_layout(60'000, 0).ok());
  fs.arm({.op = FaultOp::read, .error = EIO, .lasting = true});
  EXPECT_EQ(rig.run_pass({&set}, {}).status.code(), Code::io_error);
  EXPECT_LT(fs.count(FaultOp::read), 200u);
}

// Wraps an engine: completions come with errors, late and out of order. For the engine that reads descriptors.
class FaultyEngine final : public IoEngine {
 public:
  FaultyEngine(std::unique_ptr<IoEngine> inner, std::uint64_t seed, bool fail) : inner_(std::move(inner)), random_(seed), fail_(fail) {}
  const char* name() const override { return inner_->name(); }
  std::uint32_t capacity() const override { return inner_->capacity(); }
  std::uint32_t in_flight() const override { return inner_->in_flight() + static_cast<std::uint32_t>(held_.size()); }
  void start(const ReadRequest& request) override { inner_->start(request); }
  std::size_t collect(std::span<ReadDone> out, bool wait) override {
    std::vector<ReadDone> done(out.size());
    const std::size_t n = inner_->collect(done, wait && held_.empty());
    for (std::size_t i = 0; i < n; ++i) {
      if (fail_ && random_.chance(60)) done[i].status = Status(Code::io_error, "injected").with_file("weights1.bin");
      held_.push_back(std::move(done[i]));
    }
    std::size_t given = 0;
    while (!held_.empty() && given < out.size() && (n == 0 || random_.chance(2))) {
      const std::size_t pick = random_.below(held_.size());
      out[given++] = std::move(held_[pick]);
      held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(pick));
    }
    return given;
  }
  void wake() override { inner_->wake(); }
  Status register_memory(std::span<std::byte> memory) override { return inner_->register_memory(memory); }
  void unregister_memory() override { inner_->unregister_memory(); }
  bool registered() const override { return inner_->registered(); }
  std::uint64_t retries() const override { return inner_->retries(); }

 private:
  std::unique_ptr<IoEngine> inner_;
  Random random_;
  const bool fail_;
  std::vector<ReadDone> held_;
};

TEST(StreamFaults, CompletionsInAnyOrder) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    World world(small_world(seed));
    const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
    StreamerOptions options = options_for(IoChoice::automatic);
    options.wrap_engine = [&](std::unique_ptr<IoEngine> inner) { return std::make_unique<FaultyEngine>(std::move(inner), seed, false); };
    Rig rig(world, set.generation, options);
    ASSERT_TRUE(rig.set_layout(200'000, 100'000).ok());
    for (int pass = 0; pass < 5; ++pass) {
      const auto result = rig.run_pass({&set}, {});
      EXPECT_TRUE(result.status.ok()) << result.status.to_string();
    }
  }
}

// Sees the size of every read.
class WatchedEngine final : public IoEngine {
 public:
  WatchedEngine(std::unique_ptr<IoEngine> inner, std::vector<std::uint32_t>& reads) : inner_(std::move(inner)), reads_(reads) {}
  const char* name() const override { return inner_->name(); }
  std::uint32_t capacity() const override { return inner_->capacity(); }
  std::uint32_t in_flight() const override { return inner_->in_flight(); }
  void start(const ReadRequest& request) override {
    reads_.push_back(request.bytes);
    inner_->start(request);
  }
  std::size_t collect(std::span<ReadDone> out, bool wait) override { return inner_->collect(out, wait); }
  void wake() override { inner_->wake(); }
  Status register_memory(std::span<std::byte> memory) override { return inner_->register_memory(memory); }
  void unregister_memory() override { inner_->unregister_memory(); }
  bool registered() const override { return inner_->registered(); }
  std::uint64_t retries() const override { return inner_->retries(); }

 private:
  std::unique_ptr<IoEngine> inner_;
  std::vector<std::uint32_t>& reads_;
};

TEST(StreamFaults, ChunksHaveNoShortRest) {
  World world(small_world(3));
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
  StreamerOptions options = options_for(IoChoice::automatic);
  options.read_bytes = 16 * 1024;
  std::vector<std::uint32_t> reads;
  options.wrap_engine = [&](std::unique_ptr<IoEngine> inner) { return std::make_unique<WatchedEngine>(std::move(inner), reads); };
  {
    Rig rig(world, set.generation, options);
    ASSERT_TRUE(rig.set_layout(200'000, 0).ok());
    ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
  }
  std::uint64_t chunks = 0, longer = 0, shorter = 0;
  for (const auto& chunk : set.generation->binding.chunks) chunks += chunk.where == plan::ChunkBinding::Where::file ? 1 : 0;
  for (const std::uint32_t bytes : reads) {
    EXPECT_LE(bytes, 20u * 1024);
    longer += bytes > 16 * 1024 ? 1 : 0;
    shorter += bytes <= 4 * 1024 ? 1 : 0;
  }
  EXPECT_GT(longer, 0u);
  EXPECT_LE(shorter, chunks / 4) << "only chunks that are that small";
}

TEST(StreamFaults, ErrorsOfCompletionsFailOnePassOnly) {
  std::uint64_t failed = 0, passed = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    World world(small_world(seed));
    const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
    StreamerOptions options = options_for(IoChoice::automatic);
    options.wrap_engine = [&](std::unique_ptr<IoEngine> inner) { return std::make_unique<FaultyEngine>(std::move(inner), seed, true); };
    Rig rig(world, set.generation, options, {}, seed % 2 == 0);
    ASSERT_TRUE(rig.set_layout(200'000, 100'000).ok());
    for (int pass = 0; pass < 12; ++pass) {
      const auto result = rig.run_pass({&set}, {});
      (result.status.ok() ? passed : failed) += 1;
      if (!result.status.ok()) {
        EXPECT_EQ(result.status.code(), Code::io_error) << result.status.to_string();
      }
    }
  }
  EXPECT_GT(failed, 0u);
  EXPECT_GT(passed, 0u);
}

// From now on io_uring_setup fails with `error` on this thread and those it starts.
bool forbid_io_uring(int error) {
  sock_filter program[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, __NR_io_uring_setup},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog filter{4, program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// F6: the same bytes, one log line; asked for by name, a clear refusal.
TEST(StreamFaults, F6NoIoUring) {
  World world(small_world(7));
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
  for (const int error : {ENOSYS, EPERM, ENOMEM}) {
    bool forbidden = false;
    std::thread elsewhere([&] {
      forbidden = forbid_io_uring(error);
      if (!forbidden) return;
      Rig rig(world, set.generation, options_for(IoChoice::automatic));
      const IoReport report = io_report(*rig.source);
      EXPECT_EQ(report.engine, "threads");
      EXPECT_FALSE(report.why.empty());
      EXPECT_EQ(rig.logger.lines.size(), 1u);
      ASSERT_TRUE(rig.set_layout(50'000, 100'000).ok());
      for (int pass = 0; pass < 3; ++pass) {
        const auto result = rig.run_pass({&set}, {});
        EXPECT_TRUE(result.status.ok()) << result.status.to_string();
      }
      Rig refused(world, set.generation, options_for(IoChoice::uring));
      EXPECT_EQ(refused.create_status.code(), Code::unavailable);
    });
    elsewhere.join();
    if (!forbidden) GTEST_SKIP() << "seccomp filters are not allowed here";
  }
}

// F7 through the streamer.
TEST(StreamFaults, F7TheRingDiesMidway) {
  for (const std::uint64_t death : {1u, 5u, 17u, 40u, 120u}) {
    World world(small_world(2));
    const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::prefer);
    StreamerOptions options = options_for(IoChoice::automatic);
    RecordingLogger lines;
    bool there = true;
    options.wrap_engine = [&](std::unique_ptr<IoEngine> inner) {
      auto dying = create_uring_engine(inner->capacity(), lines, UringFaults{death});
      there = dying.ok();
      return there ? std::move(dying).value() : std::move(inner);
    };
    Rig rig(world, set.generation, options);
    if (!there) GTEST_SKIP() << "no io_uring here";
    ASSERT_TRUE(rig.set_layout(100'000, 0).ok());
    for (int pass = 0; pass < 6; ++pass) {
      const auto result = rig.run_pass({&set}, {});
      EXPECT_TRUE(result.status.ok()) << result.status.to_string();
    }
    EXPECT_EQ(io_report(*rig.source).engine, "threads");
    EXPECT_EQ(lines.lines.size(), 1u);
  }
}

// F9: truncated before open, at each chunk's edge and one byte around it.
TEST(StreamFaults, F8AnyAlignmentOrRefusalGivesTheSameBytes) {
  for (const std::uint32_t alignment : {512u, 4096u, 65536u}) {
    for (const std::uint64_t refuse_after : {~0ull, 0ull, 7ull}) {
      WorldOptions w = small_world(11);
      w.unaligned = true;
      World world(w);
      const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
      auto generation = std::make_shared<plan::Generation>(*set.generation);
      const auto strict = std::make_shared<StrictFile>(generation->binding.files[0].buffered, alignment, refuse_after);
      generation->binding.files[0].direct = strict;
      Rig rig(world, generation, options_for(IoChoice::threads));
      ASSERT_TRUE(rig.set_layout(60'000, 150'000).ok());
      for (int pass = 0; pass < 3; ++pass) {
        const auto result = rig.run_pass({&set}, {});
        EXPECT_TRUE(result.status.ok()) << "alignment " << alignment << ": " << result.status.to_string();
      }
      // Coarser than a ring place is aligned to: all of it through the page cache.
      EXPECT_EQ(strict->reads.load() == 0, alignment == 65536) << alignment;
    }
  }
}

TEST(StreamFaults, F9TruncatedBeforeOpen) {
  World world(small_world(6));
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  for (const auto& chunk : set.generation->binding.chunks) {
    for (const std::int64_t more : {-1, 0, 1}) {
      const std::uint64_t edge = chunk.offset + chunk.stored_bytes;
      std::uint64_t need = 0;
      for (const auto& other : set.generation->binding.chunks) need = std::max(need, other.offset + other.stored_bytes);
      const std::uint64_t size = edge + static_cast<std::uint64_t>(more);
      if (size >= need) continue;
      const std::string path = world.folder() / "cut.bin";
      std::filesystem::copy_file(set.path, path, std::filesystem::copy_options::overwrite_existing);
      std::filesystem::resize_file(path, size);
      auto generation = std::make_shared<plan::Generation>(*set.generation);
      generation->binding.files[0].buffered = posix_file_system().open_read(path, DirectIo::off).value();
      auto device = create_cpu_device().value();
      auto arena = device->reserve_arena(1 << 20).value();
      const auto created =
          create_streamer(*device, *arena, world.plan(), world.program(), generation, options_for(IoChoice::threads), null_logger());
      ASSERT_FALSE(created.ok());
      EXPECT_EQ(created.status().code(), Code::corruption);
      EXPECT_NE(created.status().message().find(std::to_string(size)), std::string::npos) << created.status().message();
    }
  }
}

// F10, F11, F12, F13 on the open file. `direct`: with descriptors, through the automatic engine.
void change_file(const std::function<void(const WeightSet&)>& change, const std::function<void(const WeightSet&)>& restore, bool digests,
                 Code expected) {
  for (const DirectIo direct : {DirectIo::off, DirectIo::prefer}) {
    WorldOptions w = small_world(8);
    w.digests = digests;
    w.unaligned = !digests;
    World world(w);
    const WeightSet set = world.make_weights(1, posix_file_system(), direct);
    StreamerOptions options = options_for(IoChoice::automatic);
    options.direct = direct;
    Rig rig(world, set.generation, options);
    ASSERT_TRUE(rig.set_layout(50'000, 0).ok());
    ASSERT_TRUE(rig.run_pass({&set}, {}).status.ok());
    const std::string kept = set.path + ".kept";
    std::filesystem::copy_file(set.path, kept);
    change(set);
    Status status;
    for (int pass = 0; pass < 3 && status.ok(); ++pass) status = rig.run_pass({&set}, {}).status;  // some was prefetched
    EXPECT_EQ(status.code(), expected) << status.to_string();
    if (expected != Code::ok) {
      EXPECT_EQ(status.problems()[0].file, "weights1.bin");
    }
    if (restore) {
      restore(set);
      for (int pass = 0; pass < 2; ++pass) {
        const auto result = rig.run_pass({&set}, {});
        EXPECT_TRUE(result.status.ok()) << result.status.to_string();
      }
    }
  }
}

void rewrite_from_kept(const WeightSet& set) {  // the same inode
  const std::string bytes = forebay::test::read_file(set.path + ".kept");
  std::ofstream out(set.path, std::ios::binary | std::ios::in | std::ios::out);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

TEST(StreamFaults, F10TruncatedWhileStreaming) {
  const auto cut = [](const WeightSet& set) { std::filesystem::resize_file(set.path, std::filesystem::file_size(set.path) / 2); };
  change_file(cut, rewrite_from_kept, true, Code::corruption);
}

TEST(StreamFaults, F11OverwrittenInPlace) {
  const auto overwrite = [](const WeightSet& set) {
    std::string bytes = forebay::test::read_file(set.path);
    for (std::size_t i = 0; i < bytes.size(); i += 97) bytes[i] = static_cast<char>(bytes[i] ^ 1);
    std::ofstream out(set.path, std::ios::binary | std::ios::in | std::ios::out);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  change_file(overwrite, rewrite_from_kept, true, Code::corruption);
  change_file(overwrite, {}, false, Code::corruption);  // the user's own file: it is not the same file any more
}

TEST(StreamFaults, F12ReplacedByRename) {
  change_file(
      [](const WeightSet& set) {
        std::ofstream(set.path + ".new") << "other content";
        std::filesystem::rename(set.path + ".new", set.path);
      },
      {}, true, Code::ok);
}

TEST(StreamFaults, F13Deleted) {
  change_file([](const WeightSet& set) { std::filesystem::remove(set.path); }, {}, true, Code::ok);
  change_file([](const WeightSet& set) { std::filesystem::remove(set.path); }, {}, false, Code::ok);
}

// F62 at the streamer: a publish that is refused, and reads of the new weights that fail, leave the choice of going back.
TEST(StreamFaults, FailingReadsOfANewGeneration) {
  World world(small_world(9));
  FaultFs fs;
  const WeightSet a = world.make_weights(1, posix_file_system(), DirectIo::off), b = world.make_weights(2, fs, DirectIo::off);
  Rig rig(world, a.generation, options_for(IoChoice::threads));
  ASSERT_TRUE(rig.set_layout(rig.source->limits_for(*b.generation).min_ring_bytes, 200'000).ok());
  ASSERT_TRUE(rig.run_pass({&a, &b}, {}).status.ok());
  ASSERT_TRUE(rig.source->publish(b.generation).ok());
  fs.arm({.op = FaultOp::read, .error = EIO, .nth = 3, .lasting = true});
  EXPECT_EQ(rig.run_pass({&a, &b}, {}).status.code(), Code::io_error);
  ASSERT_TRUE(rig.source->publish(a.generation).ok());
  auto back = rig.run_pass({&a, &b}, {});
  EXPECT_TRUE(back.status.ok()) << back.status.to_string();
  EXPECT_EQ(back.generation, 1u);
  fs.disarm();
  ASSERT_TRUE(rig.source->publish(b.generation).ok());
  back = rig.run_pass({&a, &b}, {});
  EXPECT_TRUE(back.status.ok()) << back.status.to_string();
  EXPECT_EQ(back.generation, 2u);
}

// Identical plans: the SHA-256 is checked on first arrival.
TEST(StreamFaults, Sha256OfIdenticalPlans) {
  WorldOptions w = small_world(10);
  w.coded = false;
  w.digests = false;
  World world(w);
  const WeightSet set = world.make_weights(1, posix_file_system(), DirectIo::off);
  for (const bool wrong : {false, true}) {
    auto generation = std::make_shared<plan::Generation>(*set.generation);
    for (std::size_t i = 0; i < set.chunks.size(); ++i) {
      generation->binding.chunks[i].has_sha256 = true;
      generation->binding.chunks[i].slab_sha256 = sha256(set.chunks[i]);
    }
    if (wrong) generation->binding.chunks[world.program().uses[4]].slab_sha256[5] ^= 1;
    Rig rig(world, generation, options_for(IoChoice::automatic));
    ASSERT_TRUE(rig.set_layout(60'000, 0).ok());
    const auto result = rig.run_pass({&set}, {});
    EXPECT_EQ(result.status.code(), wrong ? Code::weight_mismatch : Code::ok) << result.status.to_string();
    if (!wrong) {
      EXPECT_TRUE(rig.run_pass({&set}, {}).status.ok());
    }
  }
}

}  // namespace
}  // namespace forebay::stream::test
