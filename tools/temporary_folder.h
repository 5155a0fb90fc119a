// A folder that goes away with its object, with all in it.
#pragma once

#include <string>

#include "forebay/status.h"

namespace forebay::tools {

class TemporaryFolder {
 public:
  // Under `base`; empty: /dev/shm for small things when `small`, else $TMPDIR or /tmp.
  static Result<TemporaryFolder> create(const std::string& base, bool small);
  TemporaryFolder(TemporaryFolder&& other) noexcept;
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder();
  const std::string& path() const { return path_; }
  void keep() { keep_ = true; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
  bool keep_ = false;
};

}  // namespace forebay::tools
