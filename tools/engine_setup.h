// The options shared by run, bench and compare, as an opened plan with everything an engine needs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "forebay/engine.h"
#include "runtime/device.h"
#include "session.h"

namespace forebay::tools {

struct EngineSetup {
  Plan plan;
  WeightSources sources;
  EngineOptions options;  // budget: the first of --budget
};
Result<EngineSetup> engine_setup(Session& session);
Result<Budget> first_budget(const Session& session);

// Device memory that an engine takes beside its arena, as the driver tells it; other programs on the device show in it too. Opened before the
// engine: what the device's context takes is aside.
class DeviceMemory {
 public:
  static Result<DeviceMemory> open(const EngineOptions& options);
  bool known() const { return device_ != nullptr; }  // not on the CPU
  std::int64_t taken_beside(std::uint64_t committed) const;

 private:
  std::unique_ptr<Device> device_;
  std::uint64_t free_ = 0;
};

// The files that hold the weights, each once, opened with O_DIRECT where it works: for measuring their disk.
Result<std::vector<std::unique_ptr<File>>> weight_files(const EngineSetup& setup, Logger& logger);

}  // namespace forebay::tools
