// The arena on the CPU: reserved addresses (PROT_NONE) that commit opens and uncommit gives back to the system, or the user's own block.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "runtime/cpu/cpu_device.h"

namespace forebay {

inline constexpr std::uint64_t kCpuGranule = 4096;

// Committed bytes of all arenas of a device, against its capacity. Thread-safe.
class CpuMemoryAccount {
 public:
  explicit CpuMemoryAccount(std::uint64_t capacity) : capacity_(capacity) {}
  bool take(std::uint64_t bytes);  // false, and nothing taken, above the capacity
  void give(std::uint64_t bytes) { used_.fetch_sub(bytes); }
  std::uint64_t capacity() const { return capacity_; }
  std::uint64_t used() const { return used_.load(); }

 private:
  const std::uint64_t capacity_;
  std::atomic<std::uint64_t> used_{0};
};

class CpuArena final : public Arena {
 public:
  static Result<std::unique_ptr<Arena>> reserve(std::uint64_t bytes, std::shared_ptr<CpuMemoryAccount> account,
                                                std::shared_ptr<DeviceHook> hook);
  static Result<std::unique_ptr<Arena>> wrap(std::span<std::byte> memory, std::shared_ptr<CpuMemoryAccount> account,
                                             std::shared_ptr<DeviceHook> hook);
  ~CpuArena() override;
  CpuArena(const CpuArena&) = delete;
  CpuArena& operator=(const CpuArena&) = delete;
  std::byte* base() override { return base_; }
  std::uint64_t reserved_bytes() const override { return bytes_; }
  Status commit(std::uint64_t offset, std::uint64_t bytes) override;
  Status uncommit(std::uint64_t offset, std::uint64_t bytes) override;
  std::uint64_t committed_bytes() const override { return committed_.load(); }
  std::uint64_t peak_committed_bytes() const override { return peak_.load(); }

 private:
  CpuArena(std::byte* base, std::uint64_t bytes, bool owned, std::shared_ptr<CpuMemoryAccount> account, std::shared_ptr<DeviceHook> hook);
  Status check_range(std::uint64_t offset, std::uint64_t bytes) const;
  std::uint64_t count(std::uint64_t offset, std::uint64_t bytes, bool committed) const;
  void mark(std::uint64_t offset, std::uint64_t bytes, bool committed);
  Status open_pages(std::uint64_t offset, std::uint64_t bytes);
  Status close_pages(std::uint64_t offset, std::uint64_t bytes);

  std::byte* const base_;
  const std::uint64_t bytes_;
  const bool owned_;
  const std::shared_ptr<CpuMemoryAccount> account_;
  const std::shared_ptr<DeviceHook> hook_;
  std::vector<bool> pages_;  // committed, by granule
  std::atomic<std::uint64_t> committed_{0}, peak_{0};
};

}  // namespace forebay
