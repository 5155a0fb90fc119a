#include "temporary_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"

namespace forebay::tools {

Result<TemporaryFolder> TemporaryFolder::create(const std::string& base, bool small) {
  std::string parent = base;
  if (parent.empty() && small && ::access("/dev/shm", W_OK | X_OK) == 0) parent = "/dev/shm";
  if (parent.empty()) {
    const char* chosen = std::getenv("TMPDIR");  // NOLINT
    parent = chosen != nullptr && *chosen != 0 ? chosen : "/tmp";
  }
  std::string name = join_path(parent, "forebay-XXXXXX");
  if (::mkdtemp(name.data()) == nullptr) return errno_status(errno, "making a temporary folder in", parent);
  return TemporaryFolder(std::move(name));
}

TemporaryFolder::TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::move(other.path_)), keep_(other.keep_) { other.keep_ = true; }

TemporaryFolder::~TemporaryFolder() {
  if (keep_ || path_.empty()) return;
  std::error_code ignored;  // a destructor has nobody to tell
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace forebay::tools
