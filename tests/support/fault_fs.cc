#include "support/fault_fs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <unistd.h>

#include "base/checked.h"
#include "support/random.h"

namespace forebay::test {

struct FaultFs::State {
  mutable std::mutex mutex;
  Fault fault;
  bool armed = false, met = false, hide = true, recording = false;
  std::array<std::uint64_t, kFaultOpCount> counts{};
  std::vector<std::string> log;

  // Counts an operation; the fault when it strikes this one.
  const Fault* strike(FaultOp op, const std::string& path, Fault& copy) {
    static constexpr const char* kNames[kFaultOpCount] = {"any",    "open",   "read",        "write",       "sync", "truncate", "identity",
                                                          "create", "rename", "remove", "sync_folder", "make_folder", "list", "free_bytes"};
    const std::lock_guard lock(mutex);
    if (recording) log.push_back(std::string(kNames[static_cast<std::size_t>(op)]) + " " + path);
    if (armed && !fault.name_part.empty() && path.find(fault.name_part) == std::string::npos) return nullptr;
    ++counts[static_cast<std::size_t>(FaultOp::any)];
    ++counts[static_cast<std::size_t>(op)];
    if (!armed || (fault.op != FaultOp::any && fault.op != op)) return nullptr;
    const std::uint64_t at = counts[static_cast<std::size_t>(fault.op)];
    if (at != fault.nth && !(fault.lasting && at > fault.nth)) return nullptr;
    met = true;
    copy = fault;
    if (copy.kind == FaultKind::kill) ::kill(::getpid(), SIGKILL);
    return &copy;
  }
};

namespace {

// The status of an injected error, for operations that know no other kind of fault.
Status injected(const Fault* fault, std::string_view doing, const std::string& path) {
  return fault != nullptr && fault->kind == FaultKind::error ? errno_status(fault->error, doing, path) : Status();
}

class FaultFile final : public File {
 public:
  FaultFile(std::unique_ptr<File> inner, std::shared_ptr<FaultFs::State> state, std::string path)
      : inner_(std::move(inner)), state_(std::move(state)), path_(std::move(path)) {}

  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> out) override {
    Fault copy;
    const Fault* const fault = state_->strike(FaultOp::read, path_, copy);
    if (fault == nullptr) return inner_->read_at(offset, out);
    Random random(fault->seed + fault->nth);
    switch (fault->kind) {
      case FaultKind::error: return errno_status(fault->error, "reading", path_).with_offset(offset);
      case FaultKind::short_transfer: return inner_->read_at(offset, out.first(part(out.size(), random)));
      case FaultKind::misdirect: {
        auto identity = inner_->identity();
        if (!identity.ok()) return std::move(identity).status();
        const std::uint64_t room = identity->bytes > out.size() ? identity->bytes - out.size() : 0;
        std::uint64_t elsewhere = align_down(random.below(room + 1), inner_->alignment());
        if (elsewhere == offset) elsewhere = offset >= inner_->alignment() ? offset - inner_->alignment() : 0;
        return inner_->read_at(elsewhere, out);
      }
      default: {
        auto got = inner_->read_at(offset, out);
        if (got.ok() && *got != 0 && fault->kind == FaultKind::flip)
          out[random.below(*got)] ^= static_cast<std::byte>(1u << random.below(8));
        return got;
      }
    }
  }
  Result<std::size_t> write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    Fault copy;
    const Fault* const fault = state_->strike(FaultOp::write, path_, copy);
    if (fault == nullptr) return inner_->write_at(offset, bytes);
    Random random(fault->seed + fault->nth);
    if (fault->kind == FaultKind::error) return errno_status(fault->error, "writing", path_).with_offset(offset);
    if (fault->kind == FaultKind::short_transfer) return inner_->write_at(offset, bytes.first(part(bytes.size(), random)));
    if (fault->kind == FaultKind::torn_kill) {
      static_cast<void>(inner_->write_at(offset, bytes.first(bytes.size() / 2)).ok());
      ::kill(::getpid(), SIGKILL);
    }
    return inner_->write_at(offset, bytes);
  }
  Status sync() override { return guarded(FaultOp::sync, "syncing", [&] { return inner_->sync(); }); }
  Status truncate(std::uint64_t bytes) override { return guarded(FaultOp::truncate, "resizing", [&] { return inner_->truncate(bytes); }); }
  Result<FileIdentity> identity() override {
    Fault copy;
    if (Status status = injected(state_->strike(FaultOp::identity, path_, copy), "examining", path_); !status.ok()) return status;
    return inner_->identity();
  }
  int descriptor() const override {
    const std::lock_guard lock(state_->mutex);
    return state_->hide ? -1 : inner_->descriptor();
  }
  bool direct() const override { return inner_->direct(); }
  std::uint32_t alignment() const override { return inner_->alignment(); }
  const std::string& name() const override { return inner_->name(); }

 private:
  template <typename Act>
  Status guarded(FaultOp op, std::string_view doing, Act act) {
    Fault copy;
    if (Status status = injected(state_->strike(op, path_, copy), doing, path_); !status.ok()) return status;
    return act();
  }
  // One byte, a half, or something between; whole blocks of a direct file.
  std::size_t part(std::size_t bytes, Random& random) const {
    if (bytes <= 1) return bytes;
    const std::size_t choice = random.below(3);
    const std::size_t wanted = choice == 0 ? 1 : choice == 1 ? bytes / 2 : 1 + random.below(bytes - 1);
    const std::size_t align = inner_->alignment();
    return std::min(bytes, std::max<std::size_t>(align, wanted / align * align));
  }

  std::unique_ptr<File> inner_;
  std::shared_ptr<FaultFs::State> state_;
  std::string path_;
};

}  // namespace

FaultFs::FaultFs(FileSystem& inner) : inner_(inner), state_(std::make_shared<State>()) {}

void FaultFs::arm(const Fault& fault) {
  const std::lock_guard lock(state_->mutex);
  state_->fault = fault;
  state_->armed = true;
  state_->met = false;
  state_->counts = {};
  state_->log.clear();
}
void FaultFs::disarm() {
  const std::lock_guard lock(state_->mutex);
  state_->armed = state_->met = false;
  state_->counts = {};
  state_->log.clear();
}
bool FaultFs::met() const {
  const std::lock_guard lock(state_->mutex);
  return state_->met;
}
std::uint64_t FaultFs::count(FaultOp op) const {
  const std::lock_guard lock(state_->mutex);
  return state_->counts[static_cast<std::size_t>(op)];
}
void FaultFs::hide_descriptors(bool hide) {
  const std::lock_guard lock(state_->mutex);
  state_->hide = hide;
}
void FaultFs::record(bool on) {
  const std::lock_guard lock(state_->mutex);
  state_->recording = on;
}
std::vector<std::string> FaultFs::recorded() const {
  const std::lock_guard lock(state_->mutex);
  return state_->log;
}

Result<std::unique_ptr<File>> FaultFs::open_read(const std::string& path, DirectIo direct) {
  Fault copy;
  if (Status status = injected(state_->strike(FaultOp::open, path, copy), "opening", path); !status.ok()) return status;
  auto file = inner_.open_read(path, direct);
  if (!file.ok()) return file;
  return std::unique_ptr<File>(std::make_unique<FaultFile>(std::move(file).value(), state_, path));
}
Result<std::unique_ptr<File>> FaultFs::open_beneath(const std::string& folder, const std::string& name, DirectIo direct) {
  Fault copy;
  const std::string path = join_path(folder, name);
  if (Status status = injected(state_->strike(FaultOp::open, path, copy), "opening", name); !status.ok()) return status;
  auto file = inner_.open_beneath(folder, name, direct);
  if (!file.ok()) return file;
  return std::unique_ptr<File>(std::make_unique<FaultFile>(std::move(file).value(), state_, path));
}
Result<std::unique_ptr<File>> FaultFs::create_new(const std::string& path) {
  Fault copy;
  if (Status status = injected(state_->strike(FaultOp::create, path, copy), "creating", path); !status.ok()) return status;
  auto file = inner_.create_new(path);
  if (!file.ok()) return file;
  return std::unique_ptr<File>(std::make_unique<FaultFile>(std::move(file).value(), state_, path));
}
Status FaultFs::rename(const std::string& from, const std::string& to) {
  Fault copy;
  Status status = injected(state_->strike(FaultOp::rename, to, copy), "renaming to", to);
  return status.ok() ? inner_.rename(from, to) : status;
}
Status FaultFs::remove(const std::string& path) {
  Fault copy;
  Status status = injected(state_->strike(FaultOp::remove, path, copy), "removing", path);
  return status.ok() ? inner_.remove(path) : status;
}
Status FaultFs::sync_folder(const std::string& folder) {
  Fault copy;
  Status status = injected(state_->strike(FaultOp::sync_folder, folder, copy), "syncing the folder", folder);
  return status.ok() ? inner_.sync_folder(folder) : status;
}
Status FaultFs::make_folder(const std::string& path) {
  Fault copy;
  Status status = injected(state_->strike(FaultOp::make_folder, path, copy), "making the folder", path);
  return status.ok() ? inner_.make_folder(path) : status;
}
Result<std::vector<std::string>> FaultFs::list(const std::string& folder) {
  Fault copy;
  if (Status status = injected(state_->strike(FaultOp::list, folder, copy), "listing", folder); !status.ok()) return status;
  return inner_.list(folder);
}
Result<bool> FaultFs::is_folder(const std::string& path) { return inner_.is_folder(path); }
Result<std::uint64_t> FaultFs::free_bytes(const std::string& folder) {
  Fault copy;
  if (Status status = injected(state_->strike(FaultOp::free_bytes, folder, copy), "examining", folder); !status.ok()) return status;
  return inner_.free_bytes(folder);
}

bool full_fault_sweep() {
  const char* const sweep = std::getenv("FOREBAY_FAULT_SWEEP");
  return sweep != nullptr && std::strcmp(sweep, "full") == 0;
}

void note_fault(bool survived) {
  struct Totals {
    std::atomic<std::uint64_t> injected{0}, survived{0};
    ~Totals() {
      std::printf("faults: injected %llu, survived %llu\n", static_cast<unsigned long long>(injected.load()),
                  static_cast<unsigned long long>(this->survived.load()));
    }
  };
  static Totals totals;
  ++totals.injected;
  totals.survived += survived ? 1 : 0;
}

std::uint64_t fault_loop(FaultFs& fs, Fault fault, const std::function<void(std::uint64_t nth)>& body, std::uint64_t quick) {
  const bool full = full_fault_sweep();
  // A body reports through GoogleTest: one that adds no failure has survived.
  const auto failures = [] {
    const testing::TestInfo* const test = testing::UnitTest::GetInstance()->current_test_info();
    return test == nullptr ? 0 : test->result()->total_part_count();
  };
  const auto run = [&](std::uint64_t nth) {
    const int before = failures();
    body(nth);
    if (fs.met()) note_fault(failures() == before);
  };
  std::uint64_t injected_count = 0, stride = 1;
  for (std::uint64_t nth = 1;; nth += stride) {
    fault.nth = nth;
    fs.arm(fault);
    run(nth);
    if (!fs.met()) {
      // Strides may jump over the last site: walk back to it.
      const std::uint64_t sites = fs.count(fault.op);
      if (stride > 1 && sites != 0 && sites > nth - stride && sites < nth) {
        fault.nth = sites;
        fs.arm(fault);
        run(sites);
        injected_count += fs.met() ? 1 : 0;
      }
      break;
    }
    ++injected_count;
    if (!full && injected_count >= quick) stride *= 2;
  }
  fs.disarm();
  return injected_count;
}

}  // namespace forebay::test
