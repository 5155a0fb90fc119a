// The options shared by run, bench and compare, as an opened plan with everything an engine needs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "forebay/engine.h"
#include "session.h"

namespace forebay::tools {

struct EngineSetup {
  Plan plan;
  WeightSources sources;
  EngineOptions options;  // budget: the first of --budget
};
Result<EngineSetup> engine_setup(Session& session);
Result<Budget> first_budget(const Session& session);

// The files that hold the weights, each once, opened with O_DIRECT where it works: for measuring their disk.
Result<std::vector<std::unique_ptr<File>>> weight_files(const EngineSetup& setup, Logger& logger);

}  // namespace forebay::tools
