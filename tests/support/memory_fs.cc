#include "support/memory_fs.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "support/random.h"

namespace forebay::test {
namespace {

constexpr std::uint64_t kSector = 512;

class MemoryFile final : public File {
 public:
  MemoryFile(std::shared_ptr<MemoryFs::State> state, std::shared_ptr<MemoryFs::Inode> inode, std::string name)
      : state_(std::move(state)), inode_(std::move(inode)), name_(std::move(name)) {}

  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    const std::lock_guard lock(state_->mutex);
    if (offset >= inode_->bytes.size()) return std::size_t{0};
    const std::size_t got = std::min<std::size_t>(out.size(), inode_->bytes.size() - offset);
    std::memcpy(out.data(), inode_->bytes.data() + offset, got);
    return got;
  }
  Result<std::size_t> write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    const std::lock_guard lock(state_->mutex);
    const std::uint64_t end = offset + bytes.size();
    if (end > inode_->bytes.size()) {
      const std::uint64_t growth = end - inode_->bytes.size();
      if (growth > state_->free) return errno_status(ENOSPC, "writing", name_);
      state_->free -= growth;
      inode_->bytes.resize(end);
    }
    std::memcpy(inode_->bytes.data() + offset, bytes.data(), bytes.size());
    for (std::uint64_t sector = offset / kSector; sector * kSector < end; ++sector) inode_->dirty.insert(sector);
    return bytes.size();
  }
  Status sync() override {
    const std::lock_guard lock(state_->mutex);
    inode_->synced = inode_->bytes;
    inode_->dirty.clear();
    return {};
  }
  Status truncate(std::uint64_t bytes) override {
    const std::lock_guard lock(state_->mutex);
    inode_->bytes.resize(bytes);
    return {};
  }
  Result<FileIdentity> identity() override {
    const std::lock_guard lock(state_->mutex);
    FileIdentity id;
    id.device = 1;
    id.inode = inode_->number;
    id.bytes = inode_->bytes.size();
    id.links = 1;
    return id;
  }
  int descriptor() const override { return -1; }
  bool direct() const override { return false; }
  std::uint32_t alignment() const override { return 1; }
  const std::string& name() const override { return name_; }

 private:
  std::shared_ptr<MemoryFs::State> state_;
  std::shared_ptr<MemoryFs::Inode> inode_;
  std::string name_;
};

// What a file may hold after the power went: synced bytes, and of the others whatever sectors reached the disk.
std::string survived(const MemoryFs::Inode& inode, Random& random) {
  std::string bytes = inode.synced;
  const std::uint64_t choice = random.below(4);
  if (choice == 0) return bytes;                                  // nothing arrived
  if (inode.bytes.size() > bytes.size())
    bytes.resize(choice == 1 ? inode.bytes.size() : bytes.size() + random.below(inode.bytes.size() - bytes.size() + 1));
  for (const std::uint64_t sector : inode.dirty) {
    const std::uint64_t begin = sector * kSector;
    if (begin >= bytes.size() || begin >= inode.bytes.size() || random.chance(2)) continue;
    const std::uint64_t count = std::min({kSector, bytes.size() - begin, inode.bytes.size() - begin});
    std::memcpy(bytes.data() + begin, inode.bytes.data() + begin, count);
  }
  return bytes;
}

}  // namespace

MemoryFs::MemoryFs() : state_(std::make_shared<State>()) {}

void MemoryFs::put(const std::string& path, std::string_view bytes) {
  const std::lock_guard lock(state_->mutex);
  auto inode = std::make_shared<Inode>();
  inode->number = state_->next_inode++;
  inode->bytes = inode->synced = std::string(bytes);
  state_->names[path] = inode;
  state_->synced_names[path] = inode;
}
bool MemoryFs::exists(const std::string& path) const {
  const std::lock_guard lock(state_->mutex);
  return state_->names.count(path) != 0;
}
std::string MemoryFs::content(const std::string& path) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->names.find(path);
  return found == state_->names.end() ? std::string() : found->second->bytes;
}
std::vector<std::string> MemoryFs::paths() const {
  const std::lock_guard lock(state_->mutex);
  std::vector<std::string> all;
  for (const auto& [path, inode] : state_->names) all.push_back(path);
  return all;
}
void MemoryFs::set_free_bytes(std::uint64_t bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->free = bytes;
}

std::unique_ptr<MemoryFs> MemoryFs::after_power_cut(std::uint64_t seed) const {
  const std::lock_guard lock(state_->mutex);
  Random random(seed);
  auto next = std::make_unique<MemoryFs>();
  std::map<std::string, std::shared_ptr<Inode>> names = state_->synced_names;
  // A journalling file system keeps changes of names in order: a prefix of them survives.
  const std::uint64_t kept = random.below(state_->changes.size() + 1);
  for (std::uint64_t i = 0; i < kept; ++i) {
    const State::Change& change = state_->changes[i];
    if (!change.from.empty()) names.erase(change.from);
    if (!change.to.empty()) names[change.to] = change.inode;
  }
  std::map<const Inode*, std::string> contents;
  for (const auto& [path, inode] : names) {
    if (contents.count(inode.get()) == 0) contents[inode.get()] = survived(*inode, random);
    next->put(path, contents[inode.get()]);
  }
  next->state_->folders = state_->folders;
  next->state_->free = state_->free;
  return next;
}

Result<std::unique_ptr<File>> MemoryFs::open_read(const std::string& path, DirectIo direct) {
  const std::lock_guard lock(state_->mutex);
  if (direct == DirectIo::require) return errno_status(EOPNOTSUPP, "opening", path);
  const auto found = state_->names.find(path);
  if (found == state_->names.end()) return errno_status(ENOENT, "opening", path);
  return std::unique_ptr<File>(std::make_unique<MemoryFile>(state_, found->second, file_name_of(path)));
}
Result<std::unique_ptr<File>> MemoryFs::open_beneath(const std::string& folder, const std::string& name, DirectIo direct) {
  if (name.empty() || name.front() == '/' || name.find("..") != std::string::npos) {
    return Status(Code::invalid_model, "\"" + name + "\" leaves the folder").with_file(name);
  }
  return open_read(join_path(folder, name), direct);
}
Result<std::unique_ptr<File>> MemoryFs::create_new(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  if (state_->names.count(path) != 0) return errno_status(EEXIST, "creating", path);
  auto inode = std::make_shared<Inode>();
  inode->number = state_->next_inode++;
  state_->names[path] = inode;
  state_->changes.push_back({"", path, inode});
  return std::unique_ptr<File>(std::make_unique<MemoryFile>(state_, inode, file_name_of(path)));
}
Status MemoryFs::rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->names.find(from);
  if (found == state_->names.end()) return errno_status(ENOENT, "renaming to", to);
  const std::shared_ptr<Inode> inode = found->second;
  state_->names.erase(found);
  state_->names[to] = inode;
  state_->changes.push_back({from, to, inode});
  return {};
}
Status MemoryFs::remove(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  if (state_->names.erase(path) != 0) state_->changes.push_back({path, "", nullptr});
  return {};
}
Status MemoryFs::sync_folder(const std::string& folder) {
  const std::lock_guard lock(state_->mutex);
  const auto inside = [&](const std::string& path) { return !path.empty() && folder_of(path) == folder; };
  for (const auto& [path, inode] : state_->names) {
    if (inside(path)) state_->synced_names[path] = inode;
  }
  std::erase_if(state_->synced_names, [&](const auto& entry) { return inside(entry.first) && state_->names.count(entry.first) == 0; });
  std::erase_if(state_->changes, [&](const State::Change& change) { return inside(change.from) || inside(change.to); });
  return {};
}
Status MemoryFs::make_folder(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  state_->folders.insert(path);
  return {};
}
Result<std::vector<std::string>> MemoryFs::list(const std::string& folder) {
  const std::lock_guard lock(state_->mutex);
  std::vector<std::string> names;
  for (const auto& [path, inode] : state_->names) {
    if (folder_of(path) == folder) names.push_back(file_name_of(path));
  }
  std::sort(names.begin(), names.end());
  return names;
}
Result<bool> MemoryFs::is_folder(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  if (state_->names.count(path) != 0) return false;
  if (state_->folders.count(path) != 0) return true;
  for (const auto& [name, inode] : state_->names) {
    if (folder_of(name) == path) return true;
  }
  return errno_status(ENOENT, "looking for", path);
}
Result<std::uint64_t> MemoryFs::free_bytes(const std::string&) {
  const std::lock_guard lock(state_->mutex);
  return state_->free;
}

}  // namespace forebay::test
