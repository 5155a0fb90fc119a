#include "api/kernel_times.h"

#include "base/check.h"

namespace forebay::api {

Result<ChoiceOutcome> choose_on_device(std::shared_ptr<const plan::Plan> plan, std::vector<ShapeSet> shapes, Device& device,
                                       ThreadPool& pool, const TimingLimits& limits, Logger& logger) {
  TimingCache cache;
  if (!limits.cache_path.empty()) {
    FB_ASSIGN(cache, TimingCache::read(posix_file_system(), limits.cache_path));
  }
  ChoiceRequest request;
  FB_ASSIGN(request.compiled, compile_plan(with_kernels(*plan, {device.info().kind, "", {}})));  // old choices decide nothing
  request.shapes = std::move(shapes);
  request.pool = &pool;
  request.device = &device;
  request.cache = &cache;
  request.seconds = limits.seconds;
  auto prober = create_prober(device, limits.budget_bytes);
  if (prober.ok()) {
    request.prober = prober->get();
  } else {
    logger.log(LogLevel::warning, "kernels are not timed: " + prober.status().to_string());
  }
  FB_ASSIGN(ChoiceOutcome outcome, choose_kernels(request));
  if (outcome.out_of_time) logger.log(LogLevel::warning, "time for timing kernels ran out: heuristics chose the rest");
  if (outcome.timed > 0 && !limits.cache_path.empty()) FB_TRY(cache.write(posix_file_system(), limits.cache_path));
  return outcome;
}

bool timed_here(const plan::Plan& plan, const DeviceInfo& device) {
  for (const plan::KernelSection& section : plan.kernels) {
    if (section.device_kind == device.kind) return section.made_by == "timed on " + device_key(device);
  }
  return false;
}

}  // namespace forebay::api
