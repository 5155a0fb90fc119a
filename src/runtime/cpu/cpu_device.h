// The CPU device: an arena of reserved addresses whose pages really come and go, and a worker thread per queue. It implements device.h
// the way an accelerator would (asynchronous, in order, timelines), so that everything above it is exercised for one.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/device.h"

namespace forebay {

enum class DeviceOp : std::uint8_t { commit, uncommit, launch, copy, zero };

// Called before each operation on the thread that does it, so from several threads. It may sleep (a delay); a failure takes the place of
// the operation.
class DeviceHook {
 public:
  virtual ~DeviceHook() = default;
  virtual Status before(DeviceOp op) = 0;
};

struct CpuDeviceOptions {
  std::uint64_t capacity_bytes = 0;  // committed bytes of all arenas together; 0: the machine's memory
  std::shared_ptr<DeviceHook> hook;  // faults and delays of tests; null: none
};

Result<std::unique_ptr<Device>> create_cpu_device(const CpuDeviceOptions& options = {});

// A seeded hook: the nth operation (1 is the first; 0: none) of kind `op` fails with `code`, once or from then on, and every launch, copy
// and zero sleeps up to max_delay_us.
struct DeviceFaultPlan {
  DeviceOp op = DeviceOp::launch;
  std::uint64_t nth = 0;
  bool lasting = false;
  Code code = Code::device_lost;
  std::uint64_t seed = 0;
  std::uint32_t max_delay_us = 0;
};
std::shared_ptr<DeviceHook> seeded_device_faults(const DeviceFaultPlan& plan);

}  // namespace forebay
