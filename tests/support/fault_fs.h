// A FileSystem that fails on purpose: the n-th operation of a kind, once or from then on.
//
// The loop form, for every site a fault can hit:
//   FaultFs fs;
//   fault_loop(fs, {.op = FaultOp::write, .error = ENOSPC}, [&](std::uint64_t n) { ... run, check the invariants ... });
// runs the body with the 1st, 2nd, ... operation failing until a run does not meet the fault any more.
#pragma once

#include <array>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/file.h"

namespace forebay::test {

enum class FaultOp : std::uint8_t {
  any,
  open,
  read,
  write,
  sync,
  truncate,
  identity,
  create,
  rename,
  remove,
  sync_folder,
  make_folder,
  list,
  free_bytes
};
inline constexpr std::size_t kFaultOpCount = 14;

enum class FaultKind : std::uint8_t {
  error,          // the operation fails with `error` and does nothing
  short_transfer, // a read or write moves only a part (seeded, at least one byte; direct files: whole blocks)
  flip,           // one bit (seeded) of what was read is turned
  misdirect,      // the read returns bytes of another place in the file (seeded)
  kill,           // SIGKILL to this process before the operation
  torn_kill,      // the first part of a write is done, then SIGKILL
};

struct Fault {
  FaultOp op = FaultOp::any;
  FaultKind kind = FaultKind::error;
  int error = EIO;
  std::uint64_t nth = 1;   // counted over operations of `op`, from 1, since arm()
  bool lasting = false;    // also every later one
  std::uint64_t seed = 1;
  std::string name_part = {};  // only files whose path holds this; empty: all
};

// Thread-safe. Files may outlive it.
class FaultFs final : public FileSystem {
 public:
  explicit FaultFs(FileSystem& inner = posix_file_system());
  void arm(const Fault& fault);  // counters start anew
  void disarm();
  bool met() const;              // whether the armed fault has struck
  std::uint64_t count(FaultOp op) const;  // operations since arm() or disarm()
  // Files show no descriptor (the default), so that nothing reads past this layer.
  void hide_descriptors(bool hide);
  // "op path" of every operation since arm(), when recording is on.
  void record(bool on);
  std::vector<std::string> recorded() const;

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

  struct State;

 private:
  FileSystem& inner_;
  std::shared_ptr<State> state_;
};

// Whether all sites are to be tried: FOREBAY_FAULT_SWEEP=full.
bool full_fault_sweep();
// Counts a fault that was injected, and whether the code under test came through it as its test demands. The totals are printed when the
// process ends, for tools/fault_sweep.sh to add up.
void note_fault(bool survived);

// Runs `body` with nth = 1, 2, ... until the fault is not met, then once without it. Returns how many faults were injected. Beyond `quick`
// sites only first, last and evenly spread ones are tried, unless FOREBAY_FAULT_SWEEP=full is set.
std::uint64_t fault_loop(FaultFs& fs, Fault fault, const std::function<void(std::uint64_t nth)>& body, std::uint64_t quick = 64);

}  // namespace forebay::test
