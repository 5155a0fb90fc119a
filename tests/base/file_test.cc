// The POSIX file system: containment (F41), short transfers and interruptions (F3, F4), O_DIRECT and its refusal (F8).
#include "base/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/posix_calls.h"
#include "support/fault_fs.h"
#include "support/random.h"
#include "support/status_test.h"
#include "support/temp_folder.h"

namespace forebay {
namespace {

using test::TempFolder;

std::string random_text(std::size_t bytes, std::uint64_t seed) {
  std::string text(bytes, '\0');
  test::Random(seed).fill(std::as_writable_bytes(std::span(text)));
  return text;
}

// Bends the results of the kernel.
class BentCalls final : public PosixCalls {
 public:
  std::atomic<int> interrupts{0};  // so many calls give EINTR first
  std::atomic<bool> halves{false};
  std::atomic<int> contained_error{0};
  std::atomic<bool> no_direct{false};
  std::atomic<int> sync_error{0};
  std::atomic<int> syncs{0};

  ssize_t read_at(int fd, void* to, std::size_t bytes, std::int64_t offset) override {
    if (interrupted()) return -1;
    return PosixCalls::read_at(fd, to, cut(bytes), offset);
  }
  ssize_t write_at(int fd, const void* from, std::size_t bytes, std::int64_t offset) override {
    if (interrupted()) return -1;
    return PosixCalls::write_at(fd, from, cut(bytes), offset);
  }
  int sync(int fd) override {
    ++syncs;
    if (sync_error != 0) {
      errno = sync_error;
      return -1;
    }
    return PosixCalls::sync(fd);
  }
  int open_contained(int folder, const char* name, int flags) override {
    if (refused(flags)) return -1;
    if (contained_error != 0) {
      errno = contained_error;
      return -1;
    }
    return PosixCalls::open_contained(folder, name, flags);
  }
  int open_plain(const char* path, int flags, unsigned mode) override {
    if (refused(flags)) return -1;
    return PosixCalls::open_plain(path, flags, mode);
  }

 private:
  bool interrupted() {
    if (interrupts <= 0) return false;
    --interrupts;
    errno = interrupts % 2 == 0 ? EINTR : EAGAIN;
    return true;
  }
  std::size_t cut(std::size_t bytes) const { return halves && bytes > 1 ? bytes / 2 : bytes; }
  bool refused(int flags) const {
    if (!no_direct || (flags & O_DIRECT) == 0) return false;
    errno = EINVAL;
    return true;
  }
};

TEST(PosixFile, ReadsAndWritesRanges) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  const std::string text = random_text(100'000, 1);
  ASSERT_VALUE(const auto file, fs.create_new(folder / "a"));
  ASSERT_OK(file->write_all(0, std::as_bytes(std::span(text))));
  ASSERT_OK(file->sync());
  EXPECT_CODE(fs.create_new(folder / "a"), Code::failed_precondition);
  ASSERT_VALUE(const auto again, fs.open_read(folder / "a", DirectIo::off));
  std::string got(5000, '\0');
  ASSERT_OK(again->read_exactly(777, std::as_writable_bytes(std::span(got))));
  EXPECT_EQ(got, text.substr(777, 5000));
  ASSERT_VALUE(const FileIdentity identity, again->identity());
  EXPECT_EQ(identity.bytes, text.size());
  EXPECT_EQ(identity.links, 1u);
  EXPECT_EQ(again->name(), "a");
  // Short file: corruption with both sizes.
  const Status cut = again->read_exactly(99'000, std::as_writable_bytes(std::span(got)));
  EXPECT_CODE(cut, Code::corruption);
  EXPECT_NE(cut.message().find("104000"), std::string::npos) << cut.to_string();
  EXPECT_NE(cut.message().find("100000"), std::string::npos) << cut.to_string();
  EXPECT_CODE(again->read_at(UINT64_MAX - 3, std::as_writable_bytes(std::span(got))), Code::invalid_argument);
}

TEST(PosixFile, OnlyRegularFilesAndNeverBlocks) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  EXPECT_CODE(fs.open_read(folder / "fifo", DirectIo::off), Code::invalid_argument);
  EXPECT_CODE(fs.open_read(folder.path(), DirectIo::off), Code::invalid_argument);
  EXPECT_CODE(fs.open_read("/dev/null", DirectIo::prefer), Code::invalid_argument);
  const Status missing = fs.open_read(folder / "nothing", DirectIo::off).status();
  EXPECT_CODE(missing, Code::not_found);
  EXPECT_EQ(missing.problems().front().file, "nothing");
}

// F41: nothing that a model names may lead out of its folder.
TEST(PosixFile, NamesFromFilesStayInTheFolder) {
  const TempFolder outside;
  test::write_file(outside / "secret", "outside");
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  test::write_file(folder / "w.bin", "weights");
  std::filesystem::create_directory(folder / "sub");
  test::write_file(folder / "sub/v.bin", "deeper");
  ASSERT_EQ(::symlink((outside / "secret").c_str(), (folder / "link").c_str()), 0);
  ASSERT_EQ(::symlink("w.bin", (folder / "near_link").c_str()), 0);
  ASSERT_EQ(::symlink(outside.path().c_str(), (folder / "link_folder").c_str()), 0);
  ASSERT_EQ(::link((outside / "secret").c_str(), (folder / "hard").c_str()), 0);
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  const std::string escape = "../" + std::filesystem::path(outside.path()).filename().string() + "/secret";
  BentCalls no_openat2;
  no_openat2.contained_error = ENOSYS;
  BentCalls blocked;
  blocked.contained_error = EPERM;
  const auto without = make_posix_file_system(no_openat2);
  const auto sandboxed = make_posix_file_system(blocked);
  for (FileSystem* each : {&fs, without.get(), sandboxed.get()}) {
    ASSERT_VALUE(const auto good, each->open_beneath(folder.path(), "w.bin", DirectIo::off));
    EXPECT_EQ(good->name(), "w.bin");
    EXPECT_OK(each->open_beneath(folder.path(), "sub/v.bin", DirectIo::off));
    EXPECT_OK(each->open_beneath(folder.path(), "./sub/./v.bin", DirectIo::off));
    for (const std::string& name :
         {escape, outside / "secret", std::string("link"), std::string("near_link"), std::string("link_folder/secret"), std::string("hard"),
          std::string("fifo"), std::string("sub"), std::string(), std::string("sub/../w.bin"), std::string(".."),
          std::string("w.bin\0x", 7), std::string(100'000, 'a'), std::string("sub/")}) {
      const Status status = each->open_beneath(folder.path(), name, DirectIo::off).status();
      EXPECT_FALSE(status.ok()) << name.substr(0, 40);
      EXPECT_TRUE(status.code() == Code::invalid_model || status.code() == Code::not_found) << status.to_string();
      EXPECT_EQ(status.to_string().find("forebay_test_") == std::string::npos || name.find("forebay_test_") != std::string::npos, true)
          << "a path outside of the folder is shown: " << status.to_string();
    }
    EXPECT_CODE(each->open_beneath(folder.path(), "missing.bin", DirectIo::off), Code::not_found);
  }
}

// A Hugging Face cache: the entries of a snapshot are links to blobs beside it. Only that shape is
// followed.
TEST(PosixFile, SnapshotsOfAHubCacheAreFollowedToTheirBlobs) {
  const TempFolder cache;
  const std::string hash(64, 'a'), model = cache / "models--org--name";
  const std::string revision = model + "/snapshots/" + std::string(40, 'b');
  std::filesystem::create_directories(revision + "/onnx");
  std::filesystem::create_directories(model + "/blobs");
  std::filesystem::create_directories(cache / "plain/below");
  std::filesystem::create_directories(cache / "blobs");
  test::write_file(model + "/blobs/" + hash, "weights");
  test::write_file(cache / ("blobs/" + hash), "another model's");
  test::write_file(model + "/secret", "secret");
  const auto link = [](const std::string& to, const std::string& at) { ASSERT_EQ(::symlink(to.c_str(), at.c_str()), 0); };
  link("../../blobs/" + hash, revision + "/w.bin");
  link("../../../blobs/" + hash, revision + "/onnx/w.bin");
  link("../../../../blobs/" + hash, revision + "/onnx/too_far");
  link("../blobs/" + hash, revision + "/too_near");
  link("../../blobs/../secret", revision + "/named");
  link("../../blobs/" + std::string(64, 'c'), revision + "/gone");
  link("../../blobs/" + hash, cache / "plain/below/no_snapshot");
  BentCalls no_openat2;
  no_openat2.contained_error = ENOSYS;
  const auto without = make_posix_file_system(no_openat2);
  for (FileSystem* each : {&posix_file_system(), without.get()}) {
    for (const auto& [folder, name] : {std::pair(revision, "w.bin"), {revision, "onnx/w.bin"}, {revision + "/onnx", "w.bin"}}) {
      ASSERT_VALUE(const auto file, each->open_beneath(folder, name, DirectIo::off));
      std::string text(7, 0);
      ASSERT_OK(file->read_exactly(0, std::as_writable_bytes(std::span(text))));
      EXPECT_EQ(text, "weights");
      EXPECT_EQ(file->name(), name);
    }
    for (const char* name : {"onnx/too_far", "too_near", "named"})
      EXPECT_CODE(each->open_beneath(revision, name, DirectIo::off), Code::invalid_model);
    EXPECT_CODE(each->open_beneath(revision, "gone", DirectIo::off), Code::not_found);
    EXPECT_CODE(each->open_beneath(cache / "plain/below", "no_snapshot", DirectIo::off), Code::invalid_model);
  }
  // A blob that is a link, or has a second name, is refused like any other.
  link("../secret", model + "/blobs/" + std::string(40, 'd'));
  link("../../blobs/" + std::string(40, 'd'), revision + "/twice");
  EXPECT_CODE(posix_file_system().open_beneath(revision, "twice", DirectIo::off), Code::invalid_model);
  ASSERT_EQ(::link((model + "/blobs/" + hash).c_str(), (cache / "second").c_str()), 0);
  EXPECT_CODE(posix_file_system().open_beneath(revision, "w.bin", DirectIo::off), Code::invalid_model);
}

TEST(PosixFile, InterruptionsAndShortCountsAreInvisible) {
  const TempFolder folder;
  BentCalls calls;
  const auto fs = make_posix_file_system(calls);
  const std::string text = random_text(65'537, 2);
  calls.halves = true;
  calls.interrupts = 500;
  ASSERT_VALUE(const auto file, fs->create_new(folder / "a"));
  ASSERT_OK(file->write_all(0, std::as_bytes(std::span(text))));
  calls.interrupts = 500;
  std::string got(text.size(), '\0');
  ASSERT_OK(file->read_exactly(0, std::as_writable_bytes(std::span(got))));
  EXPECT_EQ(got, text);
  EXPECT_EQ(test::read_file(folder / "a"), text);
  // Interrupted for ever is an error, not a spin.
  calls.interrupts = 1 << 30;
  EXPECT_CODE(file->read_exactly(0, std::as_writable_bytes(std::span(got))), Code::io_error);
}

TEST(PosixFile, FailedSyncIsNotRetried) {
  const TempFolder folder;
  BentCalls calls;
  const auto fs = make_posix_file_system(calls);
  ASSERT_VALUE(const auto file, fs->create_new(folder / "a"));
  calls.sync_error = EIO;
  EXPECT_CODE(file->sync(), Code::io_error);
  EXPECT_EQ(calls.syncs, 1);
}

TEST(PosixFile, DirectReadsOrBufferedOnes) {
  const TempFolder folder;
  const std::string text = random_text(64 * 1024 + 100, 3);
  test::write_file(folder / "a", text);
  BentCalls refusing;
  refusing.no_direct = true;
  const auto fs = make_posix_file_system(refusing);
  ASSERT_VALUE(const auto buffered, fs->open_read(folder / "a", DirectIo::prefer));
  EXPECT_FALSE(buffered->direct());
  EXPECT_EQ(buffered->alignment(), 1u);
  EXPECT_FALSE(fs->open_read(folder / "a", DirectIo::require).ok());
  ASSERT_VALUE(const auto file, posix_file_system().open_read(folder / "a", DirectIo::prefer));
  EXPECT_EQ(::fcntl(file->descriptor(), F_GETFL) & O_NONBLOCK, 0) << "io_uring would never wait";
  if (!file->direct()) GTEST_SKIP() << "no O_DIRECT in " << folder.path();
  EXPECT_LE(file->alignment(), kBlockBytes);
  const std::unique_ptr<std::byte, void (*)(void*)> memory(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, 64 * 1024)), &std::free);
  const std::span<std::byte> out(memory.get(), 64 * 1024);
  ASSERT_OK(file->read_exactly(0, out));
  EXPECT_EQ(std::memcmp(out.data(), text.data(), out.size()), 0);
}

TEST(PosixFile, FoldersAndNames) {
  const TempFolder folder;
  FileSystem& fs = posix_file_system();
  ASSERT_OK(fs.make_folder(folder / "d"));
  ASSERT_OK(fs.make_folder(folder / "d"));
  test::write_file(folder / "d/b", "");
  test::write_file(folder / "d/a", "");
  EXPECT_FALSE(fs.make_folder(folder / "d/a").ok());
  ASSERT_VALUE(const auto names, fs.list(folder / "d"));
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(*fs.is_folder(folder / "d"));
  EXPECT_FALSE(*fs.is_folder(folder / "d/a"));
  EXPECT_CODE(fs.is_folder(folder / "none"), Code::not_found);
  EXPECT_OK(fs.remove(folder / "none"));
  EXPECT_OK(fs.sync_folder(folder.path()));
  EXPECT_GT(*fs.free_bytes(folder.path()), 0u);
  EXPECT_EQ(folder_of("a/b/c"), "a/b");
  EXPECT_EQ(folder_of("c"), ".");
  EXPECT_EQ(folder_of("/c"), "/");
  EXPECT_EQ(file_name_of("a/b/c"), "c");
  EXPECT_EQ(join_path(".", "c"), "c");
  EXPECT_EQ(join_path("/", "c"), "/c");
}

TEST(PosixFile, DescriptorsDoNotLeak) {
  const TempFolder folder;
  test::write_file(folder / "a", "x");
  FileSystem& fs = posix_file_system();
  const auto open_now = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  const auto before = open_now();
  for (int i = 0; i < 50; ++i) {
    EXPECT_OK(fs.open_beneath(folder.path(), "a", DirectIo::prefer));
    EXPECT_FALSE(fs.open_beneath(folder.path(), "../a", DirectIo::off).ok());
    EXPECT_FALSE(fs.open_read(folder.path(), DirectIo::off).ok());
  }
  EXPECT_EQ(open_now(), before);
}

TEST(FaultFs, InjectsWhatItIsAsked) {
  const TempFolder folder;
  const std::string text = random_text(10'000, 5);
  test::write_file(folder / "a", text);
  test::FaultFs fs;
  std::string got(text.size(), '\0');
  const auto read = [&]() -> Status {
    auto file = fs.open_read(folder / "a", DirectIo::off);
    if (!file.ok()) return std::move(file).status();
    return (*file)->read_exactly(0, std::as_writable_bytes(std::span(got)));
  };
  const std::uint64_t injected = test::fault_loop(fs, {.error = EIO}, [&](std::uint64_t) {
    const bool ok = read().ok();
    EXPECT_EQ(ok, !fs.met());
  });
  EXPECT_EQ(injected, 2u);  // open, read
  fs.arm({.op = test::FaultOp::read, .kind = test::FaultKind::short_transfer, .lasting = true});
  EXPECT_OK(read());
  EXPECT_EQ(got, text);
  EXPECT_GT(fs.count(test::FaultOp::read), 2u);
  fs.arm({.op = test::FaultOp::read, .kind = test::FaultKind::flip});
  EXPECT_OK(read());
  EXPECT_NE(got, text);
}

}  // namespace
}  // namespace forebay
