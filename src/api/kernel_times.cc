#include "api/kernel_times.h"

#include <optional>
#include <utility>

#include "base/check.h"

namespace forebay::api {

namespace {

// Starts the device when there is something to time, and not before.
class LateProber final : public KernelProber {
 public:
  LateProber(Device& device, std::uint64_t budget_bytes, Logger& logger) : device_(device), budget_bytes_(budget_bytes), logger_(logger) {}
  Result<double> microseconds(PreparedStep& step) override {
    if (!prober_) {
      prober_ = create_prober(device_, budget_bytes_);
      if (!prober_->ok()) logger_.log(LogLevel::warning, "kernels are not timed: " + prober_->status().to_string());
    }
    if (!prober_->ok()) return Status(Code::resource_exhausted, "nothing can be timed");  // and nothing is known of the kernel
    return (**prober_)->microseconds(step);
  }

 private:
  Device& device_;
  const std::uint64_t budget_bytes_;
  Logger& logger_;
  std::optional<Result<std::unique_ptr<KernelProber>>> prober_;
};

}  // namespace

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
  LateProber prober(device, limits.budget_bytes, logger);
  request.prober = &prober;
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
