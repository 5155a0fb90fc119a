// The two read engines and their shared progress, against files that fail in every ordinary way.
#include "stream/io_engine.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>

#include "support/random.h"
#include "support/temp_folder.h"

namespace forebay::stream {
namespace {

using forebay::test::Random;
using forebay::test::TempFolder;
using Bytes = std::vector<std::byte>;

struct Aligned {
  explicit Aligned(std::size_t bytes) : size(bytes), data(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))) {}
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  std::size_t size;
  std::byte* data;
};

// A file whose read_at is scripted; no descriptor, so that every engine goes through it.
class ScriptedFile final : public File {
 public:
  ScriptedFile(Bytes bytes, bool direct) : bytes_(std::move(bytes)), direct_(direct) {}
  std::function<Result<std::size_t>(std::uint64_t offset, std::span<std::byte> out, int call)> script;
  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    const int call = calls++;
    if (script) {
      auto result = script(offset, out, call);
      if (!result.ok()) return result;
      out = out.first(std::min(out.size(), *result));
    }
    if (offset >= bytes_.size()) return std::size_t{0};
    const std::size_t got = std::min<std::size_t>(out.size(), bytes_.size() - offset);
    std::memcpy(out.data(), bytes_.data() + offset, got);
    return got;
  }
  Result<std::size_t> write_at(std::uint64_t, std::span<const std::byte>) override { return Status(Code::unsupported, "read only"); }
  Status sync() override { return {}; }
  Status truncate(std::uint64_t) override { return Status(Code::unsupported, "read only"); }
  Result<FileIdentity> identity() override { return FileIdentity(); }
  int descriptor() const override { return -1; }
  bool direct() const override { return direct_; }
  std::uint32_t alignment() const override { return direct_ ? 4096 : 1; }
  const std::string& name() const override { return name_; }
  std::atomic<int> calls{0};

 private:
  Bytes bytes_;
  bool direct_;
  std::string name_ = "scripted";
};

Bytes pattern(std::size_t bytes) {
  Bytes made(bytes);
  Random(42).fill(made);
  return made;
}

void write_bytes(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

std::vector<ReadDone> collect_all(IoEngine& engine, std::size_t count) {
  std::vector<ReadDone> all;
  ReadDone done[8];
  while (all.size() < count) {
    const std::size_t n = engine.collect(done, true);
    for (std::size_t i = 0; i < n; ++i) all.push_back(std::move(done[i]));
  }
  return all;
}

using Maker = std::function<Result<std::unique_ptr<IoEngine>>(std::uint32_t depth)>;

class Engines : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<IoEngine> make(std::uint32_t depth, std::uint64_t die_after = 0) {
    auto engine = std::string_view(GetParam()) == "threads" ? create_threads_engine(depth)
                                                            : create_uring_engine(depth, null_logger(), UringFaults{die_after, 0, 0});
    return engine.ok() ? std::move(engine).value() : nullptr;
  }
};

TEST_P(Engines, ManyReadsDirectAndBuffered) {
  TempFolder folder;
  const Bytes bytes = pattern(3 * 1024 * 1024 + 777);
  write_bytes(folder / "f", bytes);
  std::shared_ptr<File> buffered = posix_file_system().open_read(folder / "f", DirectIo::off).value();
  std::shared_ptr<File> direct = posix_file_system().open_read(folder / "f", DirectIo::prefer).value();
  for (const bool with_registered : {false, true}) {
    for (File* file : {buffered.get(), direct.get()}) {
      auto engine = make(7);
      if (engine == nullptr) GTEST_SKIP() << "no io_uring here";
      Aligned memory(4 << 20);
      if (with_registered && !engine->register_memory({memory.data, memory.size}).ok() && std::string_view(GetParam()) == "uring") continue;
      constexpr std::uint32_t kPiece = 64 * 1024;
      const std::uint64_t pieces = (bytes.size() + kPiece - 1) / kPiece;
      std::uint64_t started = 0, finished = 0;
      ReadDone done[4];
      while (finished < pieces) {
        while (started < pieces && engine->in_flight() < engine->capacity()) {
          ReadRequest request;
          request.file = file;
          request.buffered = buffered.get();
          request.offset = started * kPiece;
          request.to = memory.data + started * kPiece;
          request.bytes = kPiece;
          request.needed = static_cast<std::uint32_t>(std::min<std::uint64_t>(kPiece, bytes.size() - request.offset));
          request.tag = started++;
          engine->start(request);
        }
        const std::size_t n = engine->collect(done, true);
        for (std::size_t i = 0; i < n; ++i) {
          ASSERT_TRUE(done[i].status.ok()) << done[i].status.to_string();
          EXPECT_GE(done[i].bytes, std::min<std::uint64_t>(kPiece, bytes.size() - done[i].tag * kPiece));
          ++finished;
        }
      }
      EXPECT_EQ(engine->in_flight(), 0u);
      EXPECT_EQ(std::memcmp(memory.data, bytes.data(), bytes.size()), 0);
      engine->unregister_memory();
    }
  }
}

TEST_P(Engines, EndOfFileIsReportedNotRetried) {
  auto engine = make(4);
  if (engine == nullptr) GTEST_SKIP() << "no io_uring here";
  ScriptedFile file(pattern(1000), false);
  Aligned memory(4096);
  ReadRequest request;
  request.file = request.buffered = &file;
  request.to = memory.data;
  request.bytes = request.needed = 4096;
  engine->start(request);
  const auto done = collect_all(*engine, 1);
  EXPECT_TRUE(done[0].status.ok());
  EXPECT_EQ(done[0].bytes, 1000u);
}

TEST_P(Engines, WakeEndsASleep) {
  auto engine = make(4);
  if (engine == nullptr) GTEST_SKIP() << "no io_uring here";
  ReadDone done[2];
  for (int i = 0; i < 50; ++i) {
    engine->wake();  // before
    EXPECT_EQ(engine->collect(done, true), 0u);
    std::thread other([&] { engine->wake(); });  // during, or before
    EXPECT_EQ(engine->collect(done, true), 0u);
    other.join();
    static_cast<void>(engine->collect(done, false));
  }
}

TEST_P(Engines, DestructionWaitsForWhatIsInFlight) {
  auto engine = make(4);
  if (engine == nullptr) GTEST_SKIP() << "no io_uring here";
  ScriptedFile file(pattern(8192), false);
  file.script = [](std::uint64_t, std::span<std::byte> out, int) -> Result<std::size_t> {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return out.size();
  };
  Aligned memory(8192);
  for (int i = 0; i < 4; ++i) {
    ReadRequest request;
    request.file = request.buffered = &file;
    request.to = memory.data;
    request.bytes = request.needed = 4096;
    engine->start(request);
  }
  engine.reset();
  EXPECT_EQ(file.calls.load(), 4);
}

INSTANTIATE_TEST_SUITE_P(Both, Engines, testing::Values("threads", "uring"), [](const auto& param) { return std::string(param.param); });

TEST(Threads, ShortReadsAreTransparent) {
  const Bytes bytes = pattern(64 * 1024);
  for (const bool direct : {false, true}) {
    for (const std::size_t piece : {std::size_t{1}, std::size_t{512}, std::size_t{6000}, std::size_t{4096}}) {
      auto engine = create_threads_engine(2).value();
      ScriptedFile file(bytes, direct), buffered(bytes, false);
      file.script = [&](std::uint64_t offset, std::span<std::byte> out, int call) -> Result<std::size_t> {
        if (direct) {
          EXPECT_EQ(offset % 4096, 0u);  // a direct read starts at a block, whatever came before
          EXPECT_EQ(out.size() % 4096, 0u);
          EXPECT_EQ(reinterpret_cast<std::uintptr_t>(out.data()) % 4096, 0u);
        }
        return call % 2 == 0 ? std::min(piece, out.size()) : out.size();
      };
      Aligned memory(bytes.size());
      ReadRequest request;
      request.file = &file;
      request.buffered = &buffered;
      request.to = memory.data;
      request.bytes = request.needed = static_cast<std::uint32_t>(bytes.size());
      engine->start(request);
      const auto done = collect_all(*engine, 1);
      EXPECT_TRUE(done[0].status.ok());
      EXPECT_EQ(std::memcmp(memory.data, bytes.data(), bytes.size()), 0);
    }
  }
}

TEST(Progress, ErrorsAreRetriedTwiceAndNoMore) {
  ScriptedFile file(pattern(4096), false);
  ReadRequest request;
  request.file = request.buffered = &file;
  request.bytes = request.needed = 4096;
  ReadProgress progress;
  progress.begin(request);
  EXPECT_EQ(progress.on_result(-EIO), ReadProgress::Next::again);
  EXPECT_EQ(progress.on_result(-EIO), ReadProgress::Next::again);
  EXPECT_EQ(progress.on_result(-EIO), ReadProgress::Next::finished);
  const ReadDone done = progress.take();
  EXPECT_EQ(done.status.code(), Code::io_error);
  EXPECT_EQ(done.status.problems()[0].file, "scripted");
  // Twice, then well: transparent.
  progress.begin(request);
  EXPECT_EQ(progress.on_result(-EIO), ReadProgress::Next::again);
  EXPECT_EQ(progress.on_result(1000), ReadProgress::Next::again);
  EXPECT_EQ(progress.on_result(-EIO), ReadProgress::Next::again);
  EXPECT_EQ(progress.offset(), 1000u);
  EXPECT_EQ(progress.on_result(3096), ReadProgress::Next::finished);
  EXPECT_TRUE(progress.take().status.ok());
}

TEST(Progress, BurstsOfInterruptsAreBounded) {
  ScriptedFile file(pattern(4096), false);
  ReadRequest request;
  request.file = request.buffered = &file;
  request.bytes = request.needed = 4096;
  Aligned memory(4096);
  request.to = memory.data;
  ReadProgress progress;
  progress.begin(request);
  int turns = 0;
  while (progress.on_result(turns % 2 == 0 ? -EAGAIN : -EINTR) == ReadProgress::Next::again) ASSERT_LT(++turns, 1000);
  progress.finish_blocking();
  const ReadDone done = progress.take();
  EXPECT_TRUE(done.status.ok());
  EXPECT_EQ(done.bytes, 4096u);
}

TEST(Progress, RefusedDirectReadsFallBackToBuffered) {
  ScriptedFile direct(pattern(4096), true), buffered(pattern(4096), false);
  ReadRequest request;
  request.file = &direct;
  request.buffered = &buffered;
  request.bytes = request.needed = 4096;
  Aligned memory(4096);
  request.to = memory.data;
  ReadProgress progress;
  progress.begin(request);
  EXPECT_EQ(progress.on_result(-EINVAL), ReadProgress::Next::blocking);
  progress.finish_blocking();
  EXPECT_TRUE(progress.take().status.ok());
  EXPECT_EQ(buffered.calls.load(), 1);
}

class UringWithFaults : public testing::Test {
 protected:
  static constexpr std::uint64_t kReads = 40;
  void SetUp() override {
    bytes_ = pattern(kReads * 4096);
    write_bytes(folder_ / "f", bytes_);
    file_ = posix_file_system().open_read(folder_ / "f", DirectIo::prefer).value();
    buffered_ = posix_file_system().open_read(folder_ / "f", DirectIo::off).value();
    if (auto made = create_uring_engine(6, null_logger()); !made.ok()) GTEST_SKIP() << made.status().to_string();
  }

  // As many reads as the engine takes at a time; each arrives once, with its bytes.
  void read_all(IoEngine& engine) {
    Aligned memory(bytes_.size());
    std::vector<int> seen(kReads);
    std::uint64_t started = 0, finished = 0;
    ReadDone done[3];
    while (finished < kReads) {
      while (started < kReads && engine.in_flight() < engine.capacity()) {
        ReadRequest request;
        request.file = file_.get();
        request.buffered = buffered_.get();
        request.offset = started * 4096;
        request.to = memory.data + started * 4096;
        request.bytes = request.needed = 4096;
        request.tag = started++;
        engine.start(request);
      }
      const std::size_t n = engine.collect(done, true);
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(done[i].status.ok());
        seen[done[i].tag]++;
        ++finished;
      }
    }
    EXPECT_EQ(seen, std::vector<int>(kReads, 1));
    EXPECT_EQ(std::memcmp(memory.data, bytes_.data(), bytes_.size()), 0);
  }

  TempFolder folder_;
  Bytes bytes_;
  std::shared_ptr<File> file_, buffered_;
};

// F7: the ring dies midway, at every submission in turn. No read is lost.
TEST_F(UringWithFaults, F7DeathMidwayLosesNoRead) {
  for (std::uint64_t death = 1; death < 44; death += 3) {
    UringFaults faults;
    faults.die_after = death;
    auto engine = create_uring_engine(6, null_logger(), faults).value();
    EXPECT_STREQ(engine->name(), "uring");
    read_all(*engine);
    EXPECT_STREQ(engine->name(), death < kReads ? "threads" : "uring");
  }
}

// F5: queues far smaller than what is in flight, so that completions overflow, and a kernel that is busy now and then.
TEST_F(UringWithFaults, F5OverflowAndBusyAreTransparent) {
  for (const std::uint32_t entries : {0u, 1u, 2u, 4u}) {
    for (const std::uint32_t busy_every : {0u, 2u, 3u}) {
      UringFaults faults;
      faults.entries = entries;
      faults.busy_every = busy_every;
      auto engine = create_uring_engine(32, null_logger(), faults).value();
      read_all(*engine);
      EXPECT_STREQ(engine->name(), "uring") << entries << " entries, busy every " << busy_every;
    }
  }
}

TEST(Choice, AlwaysFindsAnEngine) {
  std::string why;
  auto engine = create_io_engine(IoChoice::automatic, 8, null_logger(), &why);
  ASSERT_TRUE(engine.ok());
  EXPECT_EQ(std::string((*engine)->name()) == "threads", !why.empty());
  auto threads = create_io_engine(IoChoice::threads, 8, null_logger(), &why);
  ASSERT_TRUE(threads.ok());
  EXPECT_STREQ((*threads)->name(), "threads");
}

}  // namespace
}  // namespace forebay::stream
