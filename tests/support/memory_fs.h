// A FileSystem in memory that can lose power. What was written but not synced may be lost, whole or in 512-byte sectors; names that were
// created, renamed or removed since their folder was synced may be lost too.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"

namespace forebay::test {

// Thread-safe. Paths are compared as they are written. Files have no descriptor.
class MemoryFs final : public FileSystem {
 public:
  MemoryFs();
  void put(const std::string& path, std::string_view bytes);  // synced content under a synced name
  bool exists(const std::string& path) const;
  std::string content(const std::string& path) const;
  std::vector<std::string> paths() const;
  void set_free_bytes(std::uint64_t bytes);  // writes beyond it fail with ENOSPC
  // A file system as the next boot may find this one: each unsynced sector and name is kept or lost by the seed, and of unsynced renames
  // only a prefix happened.
  std::unique_ptr<MemoryFs> after_power_cut(std::uint64_t seed) const;

  Result<std::unique_ptr<File>> open_read(const std::string& path, DirectIo direct) override;
  Result<std::unique_ptr<File>> open_beneath(const std::string& folder, const std::string& name, DirectIo direct) override;
  Result<std::unique_ptr<File>> create_new(const std::string& path) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status remove(const std::string& path) override;
  Status sync_folder(const std::string& folder) override;
  Status make_folder(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& folder) override;
  Result<bool> is_folder(const std::string& path) override;
  Result<std::uint64_t> free_bytes(const std::string& folder) override;

  struct Inode {
    std::uint64_t number = 0;
    std::string bytes, synced;
    std::set<std::uint64_t> dirty;  // sectors written since the last sync
  };
  struct State {
    mutable std::mutex mutex;
    std::uint64_t next_inode = 1, free = UINT64_MAX / 4;
    std::map<std::string, std::shared_ptr<Inode>> names, synced_names;
    std::set<std::string> folders;
    struct Change {
      std::string from, to;  // from empty: created; to empty: removed
      std::shared_ptr<Inode> inode;
    };
    std::vector<Change> changes;  // of names, since their folder was synced
  };

 private:
  std::shared_ptr<State> state_;
};

}  // namespace forebay::test
