// The POSIX FileSystem. Opening never blocks (O_NONBLOCK, then fstat, then the flag is cleared again: io_uring would take it for
// "never wait"). Only regular files are given out.
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/posix_calls.h"
#include "base/printable.h"

namespace forebay {

ssize_t PosixCalls::read_at(int fd, void* to, std::size_t bytes, std::int64_t offset) { return ::pread(fd, to, bytes, offset); }
ssize_t PosixCalls::write_at(int fd, const void* from, std::size_t bytes, std::int64_t offset) {
  return ::pwrite(fd, from, bytes, offset);
}
int PosixCalls::sync(int fd) { return ::fsync(fd); }
int PosixCalls::open_contained(int folder_fd, const char* name, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(::syscall(SYS_openat2, folder_fd, name, &how, sizeof how));
}
int PosixCalls::open_plain(const char* path, int flags, unsigned mode) { return ::open(path, flags, mode); }

namespace {

constexpr int kInterruptsMax = 1000;              // in a row; then it is an error, so that nothing spins for ever
constexpr std::uint64_t kWritebackBytes = 16u << 20;
constexpr std::size_t kCallBytesMax = 1u << 30;   // Linux moves at most 2 GiB - 4 KiB a call
constexpr int kOpenFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

bool transient(int error) { return error == EINTR || error == EAGAIN; }

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// Calls `attempt` again while it is interrupted.
template <typename Attempt>
auto retry_interrupted(Attempt attempt) {
  auto result = attempt();
  for (int i = 0; result < 0 && transient(errno) && i < kInterruptsMax; ++i) result = attempt();
  return result;
}

std::int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

class PosixFile final : public File {
 public:
  PosixFile(PosixCalls& calls, Fd fd, std::string name, bool direct, std::uint32_t alignment)
      : calls_(calls), fd_(std::move(fd)), name_(std::move(name)), direct_(direct), alignment_(alignment) {}

  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    if (!range_within(offset, out.size(), INT64_MAX)) return bad_range("reading", offset);
    const std::size_t bytes = std::min(out.size(), kCallBytesMax);
    if (bytes == 0) return std::size_t{0};
    const ssize_t got = retry_interrupted([&] { return calls_.read_at(fd_.get(), out.data(), bytes, static_cast<std::int64_t>(offset)); });
    if (got < 0) return errno_status(errno, "reading", name_).with_offset(offset);
    return static_cast<std::size_t>(got);
  }
  Result<std::size_t> write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    if (!range_within(offset, bytes.size(), INT64_MAX)) return bad_range("writing", offset);
    const std::size_t count = std::min(bytes.size(), kCallBytesMax);
    if (count == 0) return std::size_t{0};
    const ssize_t put =
        retry_interrupted([&] { return calls_.write_at(fd_.get(), bytes.data(), count, static_cast<std::int64_t>(offset)); });
    if (put < 0) return errno_status(errno, "writing", name_).with_offset(offset);
    start_writeback(offset, static_cast<std::uint64_t>(put));
    return static_cast<std::size_t>(put);
  }
  // Only an interrupted fsync has promised nothing and may be called again; any other failure is final.
  Status sync() override {
    int result = calls_.sync(fd_.get());
    for (int i = 0; result < 0 && errno == EINTR && i < kInterruptsMax; ++i) result = calls_.sync(fd_.get());
    return result < 0 ? errno_status(errno, "syncing", name_) : Status();
  }
  Status truncate(std::uint64_t bytes) override {
    if (bytes > static_cast<std::uint64_t>(INT64_MAX)) return bad_range("resizing", bytes);
    if (retry_interrupted([&] { return ::ftruncate(fd_.get(), static_cast<off_t>(bytes)); }) < 0) {
      return errno_status(errno, "resizing", name_);
    }
    return {};
  }
  Result<FileIdentity> identity() override {
    struct stat facts {};
    if (::fstat(fd_.get(), &facts) < 0) return errno_status(errno, "examining", name_);
    FileIdentity id;
    id.device = facts.st_dev;
    id.inode = facts.st_ino;
    id.bytes = static_cast<std::uint64_t>(facts.st_size);
    id.mtime_ns = nanoseconds(facts.st_mtim);
    id.ctime_ns = nanoseconds(facts.st_ctim);
    id.links = facts.st_nlink;
    return id;
  }
  int descriptor() const override { return fd_.get(); }
  bool direct() const override { return direct_; }
  std::uint32_t alignment() const override { return alignment_; }
  const std::string& name() const override { return name_; }

 private:
  // Has the kernel begin to write what lies behind, so that fsync at the end does not wait for all of it, and dirty pages stay few. Only a
  // hint: fsync is what makes it durable, and a failure here says nothing that fsync will not.
  void start_writeback(std::uint64_t offset, std::uint64_t bytes) {
    if (offset != behind_end_) behind_ = offset;
    behind_end_ = offset + bytes;
    if (behind_end_ - behind_ < kWritebackBytes) return;
    (void)::sync_file_range(fd_.get(), static_cast<off64_t>(behind_), static_cast<off64_t>(behind_end_ - behind_), SYNC_FILE_RANGE_WRITE);
    behind_ = behind_end_;
  }
  std::uint64_t behind_ = 0, behind_end_ = 0;  // written, writeback not begun

  Status bad_range(std::string_view doing, std::uint64_t offset) const {
    return Status(Code::invalid_argument, std::string(doing) + " " + printable(name_) + ": the range lies beyond any file")
        .with_file(name_)
        .with_offset(offset);
  }
  PosixCalls& calls_;
  Fd fd_;
  std::string name_;
  bool direct_;
  std::uint32_t alignment_;
};

std::string_view kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISLNK(mode)) return "a symbolic link";
  return "not a regular file";
}

// The alignment that direct reads of this file need, or 0 when the file system does none that fits our 4 KiB blocks.
std::uint32_t direct_alignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx facts {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &facts) == 0 && (facts.stx_mask & STATX_DIOALIGN) != 0) {
    if (facts.stx_dio_offset_align == 0) return 0;
    const std::uint32_t align = std::max(facts.stx_dio_offset_align, facts.stx_dio_mem_align);
    return align <= kBlockBytes && (align & (align - 1)) == 0 ? align : 0;
  }
#else
  static_cast<void>(fd);
#endif
  return static_cast<std::uint32_t>(kBlockBytes);  // what every file system we know accepts where the kernel does not say
}

// Where a name leads, in words, for names that come from inside a file.
Status check_contained_name(const std::string& name) {
  const auto refuse = [&](std::string_view why) {
    return Status(Code::invalid_model, "the file name \"" + printable(name) + "\" " + std::string(why))
        .with_file(printable(name))
        .with_hint("files that a model names must lie in its own folder or below");
  };
  if (name.empty()) return refuse("is empty");
  if (name.find('\0') != std::string::npos) return refuse("holds a NUL byte");
  if (name.front() == '/') return refuse("is absolute");
  if (name.size() >= PATH_MAX) return refuse("is too long");
  std::size_t at = 0;
  while (at <= name.size()) {
    const std::size_t end = std::min(name.find('/', at), name.size());
    if (name.compare(at, end - at, "..") == 0) return refuse("leads upwards (\"..\")");
    at = end + 1;
  }
  return {};
}

// What a link "../../blobs/HASH" says, as paths from the folder that holds it.
struct HubLink {
  std::string revisions;  // "..": where "snapshots" must be, one level below the model
  std::string model;      // "../.."
  std::string hash;       // 40 or 64 digits: the blob's name
};

std::optional<HubLink> parse_hub_link(std::string_view link) {
  HubLink parts;
  for (; link.starts_with("../"); link.remove_prefix(3)) {
    parts.revisions = parts.model;
    parts.model += parts.model.empty() ? ".." : "/..";
  }
  if (parts.revisions.empty() || !link.starts_with("blobs/")) return std::nullopt;
  link.remove_prefix(6);
  const bool named_by_hash = (link.size() == 40 || link.size() == 64) && link.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  if (!named_by_hash) return std::nullopt;
  parts.hash = link;
  return parts;
}

class PosixFileSystem final : public FileSystem {
 public:
  explicit PosixFileSystem(PosixCalls& calls) : calls_(calls) {}

  Result<std::unique_ptr<File>> open_read(const std::string& path, DirectIo direct) override {
    const auto open = [&](int flags) {
      return retry_interrupted([&] { return calls_.open_plain(path.c_str(), flags, 0); });
    };
    return finish_open(open, path, file_name_of(path), direct, /*from_model=*/false);
  }

  Result<std::unique_ptr<File>> open_beneath(const std::string& folder, const std::string& name, DirectIo direct) override {
    FB_TRY(check_contained_name(name));
    const Fd root(::open(folder.empty() ? "." : folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (root.get() < 0) return errno_status(errno, "opening the folder of", name);
    const auto open = [&](int flags) {
      // EAGAIN: something below the folder was renamed during the walk.
      int fd = retry_interrupted([&] { return calls_.open_contained(root.get(), name.c_str(), flags); });
      if (fd < 0 && (errno == ENOSYS || errno == EPERM)) fd = open_by_components(root.get(), name, flags);
      return fd < 0 && errno == ELOOP ? open_hub_blob(root.get(), name, flags) : fd;
    };
    return finish_open(open, name, name, direct, /*from_model=*/true);
  }

  Result<std::unique_ptr<File>> create_new(const std::string& path) override {
    Fd fd(retry_interrupted([&] { return calls_.open_plain(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0644); }));
    if (fd.get() < 0) return errno_status(errno, "creating", path);
    return std::unique_ptr<File>(std::make_unique<PosixFile>(calls_, std::move(fd), file_name_of(path), false, 1));
  }

  Status rename(const std::string& from, const std::string& to) override {
    return std::rename(from.c_str(), to.c_str()) < 0 ? errno_status(errno, "renaming to", to) : Status();
  }
  Status remove(const std::string& path) override {
    return ::unlink(path.c_str()) < 0 && errno != ENOENT ? errno_status(errno, "removing", path) : Status();
  }
  Status sync_folder(const std::string& folder) override {
    const Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd.get() < 0) return errno_status(errno, "opening the folder", folder);
    // Some network and FUSE file systems cannot sync a folder and say EINVAL: there is nothing to wait for then.
    return calls_.sync(fd.get()) < 0 && errno != EINVAL ? errno_status(errno, "syncing the folder", folder) : Status();
  }
  Status make_folder(const std::string& path) override {
    if (::mkdir(path.c_str(), 0755) == 0) return {};
    const int error = errno;
    struct stat facts {};
    if (error == EEXIST && ::stat(path.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode)) return {};
    return errno_status(error, "making the folder", path);
  }
  Result<std::vector<std::string>> list(const std::string& folder) override {
    DIR* const open = ::opendir(folder.c_str());
    if (open == nullptr) return errno_status(errno, "listing", folder);
    const std::unique_ptr<DIR, int (*)(DIR*)> closer(open, &::closedir);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(open)) {
      const std::string_view name(entry->d_name);
      if (name != "." && name != "..") names.emplace_back(name);
      errno = 0;
    }
    if (errno != 0) return errno_status(errno, "listing", folder);
    std::sort(names.begin(), names.end());
    return names;
  }
  Result<bool> is_folder(const std::string& path) override {
    struct stat facts {};
    if (::stat(path.c_str(), &facts) < 0) return errno_status(errno, "looking for", path);
    return static_cast<bool>(S_ISDIR(facts.st_mode));
  }
  Result<std::uint64_t> free_bytes(const std::string& folder) override {
    struct statvfs facts {};
    if (retry_interrupted([&] { return ::statvfs(folder.c_str(), &facts); }) < 0) return errno_status(errno, "examining", folder);
    return checked_mul(facts.f_bavail, facts.f_frsize).value_or(UINT64_MAX);
  }

 private:
  // What openat2 does, for kernels and sandboxes without it: one component at a time, no link followed.
  int open_by_components(int root, const std::string& name, int flags) {
    Fd at(::dup(root));
    std::size_t from = 0;
    while (at.get() >= 0) {
      const std::size_t end = std::min(name.find('/', from), name.size());
      const std::string part = name.substr(from, end - from);
      if (end == name.size()) return ::openat(at.get(), part.empty() ? "." : part.c_str(), flags | O_NOFOLLOW);
      if (!part.empty() && part != ".") at = Fd(::openat(at.get(), part.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      from = end + 1;
    }
    return -1;
  }

  // The one link that is followed: an entry of a Hugging Face cache snapshot, models--X/snapshots/REVISION/.../NAME ->
  // ../../blobs/HASH. The blob lies in the same model's cache under a name that nobody chooses. errno is ELOOP for any other link.
  int open_hub_blob(int root, const std::string& name, int flags) {
    const std::size_t slash = name.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : name.substr(0, slash);
    const Fd parent(open_by_components(root, folder, O_PATH | O_DIRECTORY | O_CLOEXEC));
    std::array<char, 512> link;
    const ssize_t length = parent.get() < 0 ? -1 : ::readlinkat(parent.get(), name.c_str() + (slash + 1), link.data(), link.size());
    const std::optional<HubLink> blob = length < 0 ? std::nullopt : parse_hub_link({link.data(), static_cast<std::size_t>(length)});
    if (!blob) return errno = ELOOP, -1;
    struct stat above {}, snapshots {};
    const Fd model(::openat(parent.get(), blob->model.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (::fstatat(parent.get(), blob->revisions.c_str(), &above, 0) < 0 ||
        ::fstatat(model.get(), "snapshots", &snapshots, AT_SYMLINK_NOFOLLOW) < 0 || above.st_dev != snapshots.st_dev ||
        above.st_ino != snapshots.st_ino) {
      return errno = ELOOP, -1;
    }
    return open_by_components(model.get(), "blobs/" + blob->hash, flags);
  }

  // `path` is as the user or the model wrote it; `shown` is the name for messages.
  template <typename Open>
  Result<std::unique_ptr<File>> finish_open(const Open& open, const std::string& path, std::string shown, DirectIo direct,
                                            bool from_model) {
    bool is_direct = direct != DirectIo::off;
    Fd fd(open(kOpenFlags | (is_direct ? O_DIRECT : 0)));
    if (fd.get() < 0 && is_direct && direct == DirectIo::prefer && (errno == EINVAL || errno == EOPNOTSUPP)) {
      is_direct = false;
      fd = Fd(open(kOpenFlags));
    }
    if (fd.get() < 0) return open_failed(errno, path, shown, from_model);
    struct stat facts {};
    if (::fstat(fd.get(), &facts) < 0) return errno_status(errno, "examining", path).with_file(shown);
    if (!S_ISREG(facts.st_mode)) {
      return Status(from_model ? Code::invalid_model : Code::invalid_argument,
                    printable(path) + " is " + std::string(kind_of(facts.st_mode)) + ", and a regular file is wanted")
          .with_file(shown);
    }
    if (from_model && facts.st_nlink != 1) {
      return Status(Code::invalid_model, printable(path) + " is a hard link (" + std::to_string(facts.st_nlink) +
                                             " names): it may be a file from outside of the folder")
          .with_file(shown)
          .with_hint("copy the file, so that it has one name");
    }
    std::uint32_t alignment = 1;
    if (is_direct) {
      alignment = direct_alignment(fd.get());
      if (alignment == 0) {
        if (direct == DirectIo::require)
          return Status(Code::unavailable, "direct reads of " + printable(path) + " are not possible here").with_file(shown);
        is_direct = false;
        alignment = 1;
      }
    }
    const int flags = ::fcntl(fd.get(), F_GETFL);
    if (flags < 0 || ::fcntl(fd.get(), F_SETFL, (flags & ~O_NONBLOCK & ~(is_direct ? 0 : O_DIRECT))) < 0) {
      return errno_status(errno, "opening", path).with_file(shown);
    }
    return std::unique_ptr<File>(std::make_unique<PosixFile>(calls_, std::move(fd), std::move(shown), is_direct, alignment));
  }

  static Status open_failed(int error, const std::string& path, const std::string& shown, bool from_model) {
    if (from_model && (error == ELOOP || error == EXDEV || error == EAGAIN)) {
      return Status(Code::invalid_model, printable(path) + " passes a symbolic link or leaves the folder")
          .with_file(shown)
          .with_hint("files that a model names must be regular files in its own folder or below; copy the file there");
    }
    if (error == ENXIO) {  // a socket, or a device without a driver
      return Status(from_model ? Code::invalid_model : Code::invalid_argument, printable(path) + " is not a regular file").with_file(shown);
    }
    Status status = errno_status(error, "opening", path);
    std::move(status).with_file(shown);
    return status;
  }

  PosixCalls& calls_;
};

}  // namespace

std::unique_ptr<FileSystem> make_posix_file_system(PosixCalls& calls) { return std::make_unique<PosixFileSystem>(calls); }

FileSystem& posix_file_system() {
  static PosixCalls calls;
  static PosixFileSystem fs(calls);
  return fs;
}

}  // namespace forebay
