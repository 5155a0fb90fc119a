// The few system calls whose results tests must be able to bend (EINTR bursts, short counts, ENOSYS). Everything else of the
// POSIX file system is tested through the real kernel.
#pragma once

#include <cstdint>
#include <memory>

#include <sys/types.h>

#include "base/file.h"

namespace forebay {

// Each returns what the kernel returns, with errno set on -1. Thread-safe.
class PosixCalls {
 public:
  virtual ~PosixCalls() = default;
  virtual ssize_t read_at(int fd, void* to, std::size_t bytes, std::int64_t offset);
  virtual ssize_t write_at(int fd, const void* from, std::size_t bytes, std::int64_t offset);
  virtual int sync(int fd);
  // openat2 with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS.
  virtual int open_contained(int folder_fd, const char* name, int flags);
  virtual int open_plain(const char* path, int flags, unsigned mode);
};

// `calls` outlives the file system.
std::unique_ptr<FileSystem> make_posix_file_system(PosixCalls& calls);

}  // namespace forebay
