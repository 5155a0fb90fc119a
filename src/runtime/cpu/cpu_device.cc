#include "runtime/cpu/cpu_device.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "runtime/cpu/cpu_arena.h"
#include "runtime/cpu/cpu_queue.h"
#include "runtime/cpu/cpu_timeline.h"

namespace forebay {
namespace {

// The value of `key` in a "key : value" file of /proc; empty when it is not there.
std::string proc_value(const char* path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? std::string() : line.substr(begin);
  }
  return {};
}

const char* instruction_set() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
  return "x86-64-v2";
}

std::uint64_t machine_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page) : 0;
}

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const CpuDeviceOptions& options)
      : hook_(options.hook),
        account_(std::make_shared<CpuMemoryAccount>(options.capacity_bytes != 0 ? options.capacity_bytes : machine_bytes())) {
    info_.kind = "cpu";
    info_.name = proc_value("/proc/cpuinfo", "model name");
    if (info_.name.empty()) info_.name = "x86-64";
    info_.granule = kCpuGranule;
    info_.total_bytes = account_->capacity();
    info_.arena_host_addressable = true;
    info_.numerics.emplace_back("isa", instruction_set());
  }

  const DeviceInfo& info() const override { return info_; }

  Result<std::uint64_t> free_bytes() override {
    const std::uint64_t used = account_->used();
    const std::uint64_t within = account_->capacity() > used ? account_->capacity() - used : 0;
    const std::string available = proc_value("/proc/meminfo", "MemAvailable");  // "123 kB"
    const std::uint64_t kib = std::strtoull(available.c_str(), nullptr, 10);
    return available.empty() ? within : std::min(within, kib * 1024);
  }

  Result<std::unique_ptr<Arena>> reserve_arena(std::uint64_t bytes) override { return CpuArena::reserve(bytes, account_, hook_); }
  Result<std::unique_ptr<Arena>> wrap_arena(std::span<std::byte> memory) override { return CpuArena::wrap(memory, account_, hook_); }
  Result<std::unique_ptr<Queue>> create_queue(const std::string& name, std::uint32_t capacity) override {
    return CpuQueue::create(name, capacity, hook_);
  }
  Result<std::unique_ptr<Timeline>> create_timeline() override { return std::unique_ptr<Timeline>(std::make_unique<CpuTimeline>()); }
  Status register_host(std::span<std::byte>) override { return {}; }
  void unregister_host(std::span<std::byte>) override {}

 private:
  const std::shared_ptr<DeviceHook> hook_;
  const std::shared_ptr<CpuMemoryAccount> account_;  // shared with the arenas: they may outlive the device by a moment of teardown
  DeviceInfo info_;
};

class SeededFaults final : public DeviceHook {
 public:
  explicit SeededFaults(const DeviceFaultPlan& plan) : plan_(plan) {}

  Status before(DeviceOp op) override {
    if (plan_.max_delay_us != 0 && op != DeviceOp::commit && op != DeviceOp::uncommit) {
      const std::uint64_t n = delays_.fetch_add(1);
      std::uint64_t x = (plan_.seed + n) * 0x9e3779b97f4a7c15ull;  // splitmix64
      x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
      x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
      std::this_thread::sleep_for(std::chrono::microseconds((x ^ (x >> 31)) % (plan_.max_delay_us + 1ull)));
    }
    if (plan_.nth == 0 || op != plan_.op) return {};
    const std::uint64_t n = seen_.fetch_add(1) + 1;
    if (n == plan_.nth || (plan_.lasting && n > plan_.nth)) {
      return Status(plan_.code, "injected device fault at operation " + std::to_string(n));
    }
    return {};
  }

 private:
  const DeviceFaultPlan plan_;
  std::atomic<std::uint64_t> seen_{0}, delays_{0};
};

}  // namespace

Result<std::unique_ptr<Device>> create_cpu_device(const CpuDeviceOptions& options) {
  return std::unique_ptr<Device>(std::make_unique<CpuDevice>(options));
}

std::shared_ptr<DeviceHook> seeded_device_faults(const DeviceFaultPlan& plan) { return std::make_shared<SeededFaults>(plan); }

}  // namespace forebay
