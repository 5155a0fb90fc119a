// Durable writes under every injected fault (F21-F24, F27), after power cuts (F26), and the temporaries of killed writers (F25).
// Invariant: the name shows the whole old content or the whole new one, and a failed writer leaves no temporary.
#include <cerrno>
#include <csignal>
#include <filesystem>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "support/fault_fs.h"
#include "support/memory_fs.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::FaultFs;
using test::FaultKind;
using test::FaultOp;
using test::TempFolder;

const std::string kOld = "the old content";

std::string new_content() {
  std::string text(20'000, '\0');
  test::Random(9).fill(std::as_writable_bytes(std::span(text)));
  return text;
}

// Writes new_content() in pieces, as the writers of plans and shards do.
Status write_new(FileSystem& fs, const std::string& path) {
  const std::string text = new_content();
  FB_ASSIGN(const auto file, DurableFile::create(fs, path, text.size()));
  const auto bytes = std::as_bytes(std::span(text));
  for (std::size_t at = 0; at < bytes.size(); at += 6000)
    FB_TRY(file->append(bytes.subspan(at, std::min<std::size_t>(6000, bytes.size() - at))));
  FB_TRY(file->write_at(0, bytes.first(16)));
  return file->commit();
}

std::size_t entries(const TempFolder& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator()));
}

TEST(DurableFile, ReplacesAtOnce) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  test::write_file(folder / "a", kOld);
  {
    ASSERT_VALUE(const auto file, DurableFile::create(fs, folder / "a", 0));
    ASSERT_OK(file->append(std::as_bytes(std::span(kOld))));
    ASSERT_OK(file->pad_to(4096));
    EXPECT_EQ(file->size(), 4096u);
    EXPECT_EQ(test::read_file(folder / "a"), kOld);
    EXPECT_EQ(entries(folder), 2u);
  }
  EXPECT_EQ(entries(folder), 1u) << "an object destroyed before commit removes its temporary";
  ASSERT_OK(write_new(fs, folder / "a"));
  EXPECT_EQ(test::read_file(folder / "a"), new_content());
  EXPECT_EQ(entries(folder), 1u);
  EXPECT_CODE(DurableFile::create(fs, folder / "missing/a", 0), Code::not_found);
  EXPECT_CODE(DurableFile::create(fs, folder.path(), 0), Code::invalid_argument);
  EXPECT_CODE(DurableFile::create(fs, folder / "", 0), Code::invalid_argument);
}

TEST(DurableFile, TwoWritersOfOneName) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  ASSERT_VALUE(const auto first, DurableFile::create(fs, folder / "a", 0));
  ASSERT_VALUE(const auto second, DurableFile::create(fs, folder / "a", 0));
  ASSERT_OK(first->append(std::as_bytes(std::span("1", 1))));
  ASSERT_OK(second->append(std::as_bytes(std::span("22", 2))));
  ASSERT_OK(first->commit());
  EXPECT_CODE(first->commit(), Code::failed_precondition);
  EXPECT_CODE(first->append({}), Code::failed_precondition);
  ASSERT_OK(second->commit());
  EXPECT_EQ(test::read_file(folder / "a"), "22");
  EXPECT_EQ(entries(folder), 1u);
}

TEST(DurableFile, RoomIsCheckedFirst) {
  test::MemoryFs fs;
  fs.put("/d/a", kOld);
  fs.set_free_bytes(1000);
  const Status status = DurableFile::create(fs, "/d/a", 2000).status();
  EXPECT_CODE(status, Code::io_error);
  EXPECT_NE(status.message().find("2000"), std::string::npos);
  EXPECT_NE(status.message().find("1000"), std::string::npos);
  EXPECT_EQ(fs.paths(), (std::vector<std::string>{"/d/a"}));
}

// The loop form: every operation fails in turn, once and from then on.
class DurableFaults : public ::testing::TestWithParam<std::tuple<FaultOp, int, bool>> {};

TEST_P(DurableFaults, OldOrNewAndNoTemporary) {
  const auto [op, error, lasting] = GetParam();
  FaultFs fs;
  std::uint64_t failures = 0;
  const std::uint64_t injected = test::fault_loop(fs, {.op = op, .error = error, .lasting = lasting}, [&](std::uint64_t nth) {
    const TempFolder folder;
    test::write_file(folder / "a", kOld);
    const Status status = write_new(fs, folder / "a");
    const bool met = fs.met();
    const std::string now = test::read_file(folder / "a");
    EXPECT_TRUE(now == kOld || now == new_content()) << "fault " << nth;
    if (status.ok()) {
      EXPECT_EQ(now, new_content());
    } else {
      ++failures;
      EXPECT_TRUE(met);
      EXPECT_FALSE(status.problems().front().file.empty()) << status.to_string();
      // Only a failed sync of the folder comes after the new name is there.
      if (op != FaultOp::sync_folder && op != FaultOp::any) {
        EXPECT_EQ(now, kOld) << status.to_string();
      }
      if ((error == ENOSPC) && op == FaultOp::write) {
        EXPECT_NE(status.message().find("free"), std::string::npos) << status.to_string();
        EXPECT_FALSE(status.problems().front().hint.empty());
      }
    }
    // A lasting fault of every operation meets the removal of the temporary too.
    if (op != FaultOp::any || !lasting) {
      EXPECT_EQ(entries(folder), 1u) << "fault " << nth << ": " << status.to_string();
    }
    fs.disarm();
    EXPECT_OK(write_new(fs, folder / "a"));  // I7
    EXPECT_EQ(test::read_file(folder / "a"), new_content());
  });
  if (op == FaultOp::write || op == FaultOp::sync || op == FaultOp::rename || op == FaultOp::create || op == FaultOp::sync_folder) {
    EXPECT_GT(failures, 0u);
  }
  RecordProperty("injected", static_cast<int>(injected));
}

INSTANTIATE_TEST_SUITE_P(All, DurableFaults,
                         ::testing::Combine(::testing::Values(FaultOp::write, FaultOp::sync, FaultOp::rename, FaultOp::sync_folder,
                                                              FaultOp::create, FaultOp::list, FaultOp::free_bytes, FaultOp::any),
                                            ::testing::Values(ENOSPC, EDQUOT, EROFS, EACCES, EIO), ::testing::Bool()));

// F27: the first fault, and then the clean-up fails too.
TEST(DurableFile, FailingCleanUp) {
  const TempFolder folder;
  test::write_file(folder / "a", kOld);
  FaultFs fs;
  fs.arm({.op = FaultOp::any, .error = EIO, .nth = 6, .lasting = true});
  EXPECT_FALSE(write_new(fs, folder / "a").ok());
  EXPECT_EQ(test::read_file(folder / "a"), kOld);
}

TEST(DurableFile, ShortWritesAreInvisible) {
  const TempFolder folder;
  FaultFs fs;
  fs.arm({.op = FaultOp::write, .kind = FaultKind::short_transfer, .lasting = true, .seed = 4});
  ASSERT_OK(write_new(fs, folder / "a"));
  EXPECT_EQ(test::read_file(folder / "a"), new_content());
}

// F25: a writer killed at every operation; the next one cleans up after it.
TEST(DurableFile, KilledWriters) {
  for (const FaultKind kind : {FaultKind::kill, FaultKind::torn_kill}) {
    for (std::uint64_t nth = 1;; ++nth) {
      const TempFolder folder;
      test::write_file(folder / "a", kOld);
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        FaultFs fs;
        fs.arm({.op = kind == FaultKind::kill ? FaultOp::any : FaultOp::write, .kind = kind, .nth = nth});
        const Status status = write_new(fs, folder / "a");
        ::_exit(status.ok() ? 0 : 1);
      }
      int how = 0;
      ASSERT_EQ(::waitpid(child, &how, 0), child);
      const bool killed = WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL;
      const std::string now = test::read_file(folder / "a");
      EXPECT_TRUE(now == kOld || now == new_content()) << "killed at " << nth;
      EXPECT_LE(entries(folder), 2u);
      ASSERT_OK(write_new(posix_file_system(), folder / "a"));
      EXPECT_EQ(entries(folder), 1u) << "the stray of a killed writer stays, killed at " << nth;
      if (!killed) {
        EXPECT_TRUE(WIFEXITED(how) && WEXITSTATUS(how) == 0);
        EXPECT_GT(nth, 2u);
        break;
      }
    }
  }
}

TEST(DurableFile, OnlyStraysAreRemoved) {
  const TempFolder folder;
  const std::string alive = ".a." + std::to_string(::getpid()) + "-77.tmp";
  for (const std::string& name : {alive, std::string(".a.tmp"), std::string(".a.x-1.tmp"), std::string(".b.999999999-0.tmp"),
                                  std::string(".a.1-.tmp"), std::string("a.999999999-0.tmp")}) {
    test::write_file(folder / name, "keep");
  }
  test::write_file(folder / ".a.999999999-0.tmp", "stray");  // above the largest process id
  ASSERT_OK(write_new(posix_file_system(), folder / "a"));
  EXPECT_EQ(entries(folder), 7u);
  EXPECT_FALSE(std::filesystem::exists(folder / ".a.999999999-0.tmp"));
}

// F26: power lost at every operation, many outcomes each: unsynced sectors torn, names dropped.
TEST(DurableFile, PowerCuts) {
  std::uint64_t cuts = 0;
  for (std::uint64_t nth = 1;; ++nth) {
    test::MemoryFs disk;
    disk.put("/d/a", kOld);
    FaultFs fs(disk);
    // Lasting errors stop the writer at that point; what is on the disk then is what a power cut would meet.
    fs.arm({.op = FaultOp::any, .error = EIO, .nth = nth, .lasting = true});
    const Status status = write_new(fs, "/d/a");
    for (std::uint64_t seed = 0; seed < 200; ++seed, ++cuts) {
      const auto after = disk.after_power_cut(seed * 1000 + nth);
      const std::string now = after->content("/d/a");
      ASSERT_TRUE(now == kOld || now == new_content()) << "operation " << nth << ", seed " << seed;
      if (status.ok()) {
        ASSERT_EQ(now, new_content()) << "a committed file is lost, seed " << seed;
      }
    }
    if (!fs.met()) break;
  }
  EXPECT_GT(cuts, 2000u);
}

}  // namespace
}  // namespace forebay
