// What is said of the driver and of the device, without starting the device (no context, no memory, no kernels), nor the driver if that can
// be.
#pragma once

#include <string>

#include "forebay/status.h"

namespace forebay::cuda {

struct DeviceFacts {
  std::string name;
  int capability = 0;             // compute capability, ten times
  std::uint64_t total_bytes = 0;  // of device memory
};
// unavailable, in one line, where there is no driver, one too old for this build, no device, or one older than `oldest`.
Result<DeviceFacts> device_facts(int ordinal, int oldest);

}  // namespace forebay::cuda
