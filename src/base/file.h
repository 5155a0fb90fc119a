// The file layer. All file access of forebay goes through FileSystem, so that tests can inject faults, kill and record.
//
// Containment: open_beneath resolves a name below a folder through openat2 (RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS)
// and takes regular files only, never blocking on devices or FIFOs. Inputs are never mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "forebay/status.h"

namespace forebay {

// What tells whether a file is still the one that was opened.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0, bytes = 0;
  std::int64_t mtime_ns = 0, ctime_ns = 0;
  std::uint64_t links = 0;
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

// An open file. read_at is thread-safe; write and sync belong to one thread. Closed by the destructor.
class File {
 public:
  virtual ~File() = default;
  // Reads up to out.size() bytes at `offset`; may be short (0 only at or after the end). EINTR is handled inside.
  virtual Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) = 0;
  virtual Result<std::size_t> write_at(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual Status sync() = 0;
  virtual Status truncate(std::uint64_t bytes) = 0;
  virtual Result<FileIdentity> identity() = 0;
  // For io_uring; -1 when the file has no descriptor (in-memory files of tests).
  virtual int descriptor() const = 0;
  // Opened with O_DIRECT: offsets, lengths and addresses must be multiples of alignment().
  virtual bool direct() const = 0;
  virtual std::uint32_t alignment() const = 0;  // 1 when not direct
  virtual const std::string& name() const = 0;  // as it may be shown: relative to the model's folder

  // Whole-range helpers; a short file is Code::corruption with wanted and real size.
  Status read_exactly(std::uint64_t offset, std::span<std::byte> out);
  Status write_all(std::uint64_t offset, std::span<const std::byte> bytes);
};

enum class DirectIo : std::uint8_t { off, prefer, require };  // prefer: buffered where the file system refuses

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // `path` is the user's own word (a command-line argument): symlinks are followed. Regular files only.
  virtual Result<std::unique_ptr<File>> open_read(const std::string& path, DirectIo direct) = 0;
  // `name` comes from inside a file: it may not leave `folder`, nor pass a link (but for the links of a Hugging Face cache).
  virtual Result<std::unique_ptr<File>> open_beneath(const std::string& folder, const std::string& name,
                                                     DirectIo direct) = 0;
  // O_EXCL, read and write, mode 0644 less umask. Fails if it exists.
  virtual Result<std::unique_ptr<File>> create_new(const std::string& path) = 0;
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  virtual Status remove(const std::string& path) = 0;  // a missing file is ok
  virtual Status sync_folder(const std::string& folder) = 0;
  virtual Status make_folder(const std::string& path) = 0;  // an existing folder is ok
  virtual Result<std::vector<std::string>> list(const std::string& folder) = 0;  // names, sorted
  virtual Result<bool> is_folder(const std::string& path) = 0;  // not_found when nothing is there
  virtual Result<std::uint64_t> free_bytes(const std::string& folder) = 0;
};

// The real one. Thread-safe; lives for ever.
FileSystem& posix_file_system();

// Writes a file so that its name shows the old content or the whole new one, whatever fails: O_EXCL temporary in the same
// folder, fsync, rename, fsync of the folder. An object destroyed before commit() removes its temporary.
// A failed fsync is never retried. Stray temporaries of killed writers (".NAME.PID-N.tmp", the pid not alive) are removed by create.
class DurableFile {
 public:
  // `expected_bytes` is checked against the free space first (0: unknown); ENOSPC names needed and free bytes.
  static Result<std::unique_ptr<DurableFile>> create(FileSystem& fs, const std::string& path,
                                                     std::uint64_t expected_bytes);
  ~DurableFile();
  Status append(std::span<const std::byte> bytes);
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  Status pad_to(std::uint64_t align);  // appends zeros
  std::uint64_t size() const { return size_; }
  Status commit();

 private:
  DurableFile() = default;
  FileSystem* fs_ = nullptr;
  std::string path_, temporary_;
  std::unique_ptr<File> file_;
  std::uint64_t size_ = 0;
  bool done_ = false;
};

std::string folder_of(std::string_view path);  // "." when there is none
std::string file_name_of(std::string_view path);
std::string join_path(std::string_view folder, std::string_view name);
// errno to Status: the one mapping of the project. `doing` as in "reading", "renaming".
Status errno_status(int error, std::string_view doing, std::string_view file);

}  // namespace forebay
