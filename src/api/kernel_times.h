// Choosing a device's kernels for a plan, at build and when an engine is opened.
#pragma once

#include <string>

#include "forebay/logger.h"
#include "runtime/kernel_choice.h"

namespace forebay::api {

struct TimingLimits {
  std::uint64_t budget_bytes = 0;
  double seconds = 0;  // 0: no limit
  std::string cache_path;
};
// Reads the cache, times what it lacks, writes it when something was. Device memory is given back before this returns.
Result<ChoiceOutcome> choose_on_device(std::shared_ptr<const plan::Plan> plan, std::vector<ShapeSet> shapes, Device& device,
                                       ThreadPool& pool, const TimingLimits& limits, Logger& logger);
// Whether the plan's choices for this device were timed on it.
bool timed_here(const plan::Plan& plan, const DeviceInfo& device);

}  // namespace forebay::api
