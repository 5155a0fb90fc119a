// Invariant: committed_ is the number of set bits of pages_ times the granule, and is what the account holds for this arena.
#include "runtime/cpu/cpu_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked.h"

namespace forebay {

bool CpuMemoryAccount::take(std::uint64_t bytes) {
  std::uint64_t used = used_.load();
  do {
    if (bytes > capacity_ || used > capacity_ - bytes) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes));
  return true;
}

CpuArena::CpuArena(std::byte* base, std::uint64_t bytes, bool owned, std::shared_ptr<CpuMemoryAccount> account,
                   std::shared_ptr<DeviceHook> hook)
    : base_(base), bytes_(bytes), owned_(owned), account_(std::move(account)), hook_(std::move(hook)), pages_(bytes / kCpuGranule) {}

Result<std::unique_ptr<Arena>> CpuArena::reserve(std::uint64_t bytes, std::shared_ptr<CpuMemoryAccount> account,
                                                 std::shared_ptr<DeviceHook> hook) {
  if (bytes == 0 || bytes > (1ull << 46)) {
    return Status(Code::invalid_argument, "an arena of " + std::to_string(bytes) + " bytes cannot be reserved");
  }
  const std::uint64_t rounded = align_up(bytes, kCpuGranule);
  void* base = mmap(nullptr, rounded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return Status(Code::out_of_memory, "reserving " + std::to_string(rounded) + " bytes of addresses: " + std::strerror(errno));
  }
  // Direct reads land here: into small pages a disk gives half of what it gives into large ones. Never beyond what is committed, since a
  // large page lies within one mapping of one protection; where the system has none, small ones serve.
  static_cast<void>(madvise(base, rounded, MADV_HUGEPAGE));
  return std::unique_ptr<Arena>(new CpuArena(static_cast<std::byte*>(base), rounded, true, std::move(account), std::move(hook)));
}

Result<std::unique_ptr<Arena>> CpuArena::wrap(std::span<std::byte> memory, std::shared_ptr<CpuMemoryAccount> account,
                                              std::shared_ptr<DeviceHook> hook) {
  if (memory.data() == nullptr) return Status(Code::invalid_argument, "the arena memory given is null");
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::uint64_t skip = align_up(address, kCpuGranule) - address;
  if (memory.size() < skip + kCpuGranule) {
    return Status(Code::invalid_argument, "the arena memory given (" + std::to_string(memory.size()) +
                                              " bytes) holds no whole aligned page of " + std::to_string(kCpuGranule) + " bytes");
  }
  const std::uint64_t bytes = align_down(memory.size() - skip, kCpuGranule);
  return std::unique_ptr<Arena>(new CpuArena(memory.data() + skip, bytes, false, std::move(account), std::move(hook)));
}

CpuArena::~CpuArena() {
  account_->give(committed_.load());
  if (owned_) munmap(base_, bytes_);
}

Status CpuArena::check_range(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset % kCpuGranule != 0 || bytes % kCpuGranule != 0 || !range_within(offset, bytes, bytes_)) {
    return Status(Code::invalid_argument, "the arena range at " + std::to_string(offset) + " of " + std::to_string(bytes) +
                                              " bytes is not granules within the " + std::to_string(bytes_) + " bytes reserved");
  }
  return {};
}

std::uint64_t CpuArena::count(std::uint64_t offset, std::uint64_t bytes, bool committed) const {
  std::uint64_t found = 0;
  for (std::uint64_t page = offset / kCpuGranule; page < (offset + bytes) / kCpuGranule; ++page) found += pages_[page] == committed ? 1 : 0;
  return found * kCpuGranule;
}

void CpuArena::mark(std::uint64_t offset, std::uint64_t bytes, bool committed) {
  for (std::uint64_t page = offset / kCpuGranule; page < (offset + bytes) / kCpuGranule; ++page) pages_[page] = committed;
}

Status CpuArena::open_pages(std::uint64_t offset, std::uint64_t bytes) {
  if (mprotect(base_ + offset, bytes, PROT_READ | PROT_WRITE) == 0) return {};
  const int error = errno;
  // mprotect may have opened a part: close again what was closed before.
  for (std::uint64_t at = offset; at < offset + bytes; at += kCpuGranule) {
    if (!pages_[at / kCpuGranule]) static_cast<void>(mprotect(base_ + at, kCpuGranule, PROT_NONE));
  }
  return Status(Code::out_of_memory, "committing " + std::to_string(bytes) + " bytes of the arena: " + std::strerror(error));
}

Status CpuArena::close_pages(std::uint64_t offset, std::uint64_t bytes) {
  if (madvise(base_ + offset, bytes, MADV_DONTNEED) != 0 || mprotect(base_ + offset, bytes, PROT_NONE) != 0) {
    return Status(Code::internal, "giving back " + std::to_string(bytes) + " bytes of the arena: " + std::strerror(errno));
  }
  return {};
}

Status CpuArena::commit(std::uint64_t offset, std::uint64_t bytes) {
  FB_TRY(check_range(offset, bytes));
  if (hook_ != nullptr) FB_TRY(hook_->before(DeviceOp::commit));
  const std::uint64_t fresh = count(offset, bytes, false);
  if (fresh == 0) return {};
  if (!account_->take(fresh)) {
    return Status(Code::out_of_memory, "committing " + std::to_string(fresh) + " bytes: the device has " +
                                           std::to_string(account_->capacity()) + ", of which " + std::to_string(account_->used()) +
                                           " are committed");
  }
  if (owned_) {
    Status opened = open_pages(offset, bytes);
    if (!opened.ok()) {
      account_->give(fresh);
      return opened;
    }
  }
  mark(offset, bytes, true);
  const std::uint64_t now = committed_.fetch_add(fresh) + fresh;
  if (now > peak_.load()) peak_.store(now);
  return {};
}

Status CpuArena::uncommit(std::uint64_t offset, std::uint64_t bytes) {
  FB_TRY(check_range(offset, bytes));
  if (hook_ != nullptr) FB_TRY(hook_->before(DeviceOp::uncommit));
  const std::uint64_t gone = count(offset, bytes, true);
  if (gone == 0) return {};
  if (owned_) FB_TRY(close_pages(offset, bytes));
  mark(offset, bytes, false);
  committed_.fetch_sub(gone);
  account_->give(gone);
  return {};
}

}  // namespace forebay
