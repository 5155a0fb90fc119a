// A pass of a plan on a device without its weights: how long its kernels take when nothing streams.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "forebay/logger.h"
#include "runtime/compiled_plan.h"
#include "runtime/prepared_pass.h"

namespace forebay::tools {

// Milliseconds, the median of some passes. Weights are small numbers of no meaning; where the device has no room for all of them they share
// what there is. `bound`: states that stay on the device. Not ok where such weights cannot be passed (indices, sizes that data decides).
Result<double> trial_pass_ms(std::unique_ptr<Device> device, const std::shared_ptr<const CompiledPlan>& compiled,
                             const std::vector<std::pair<std::string, Shape>>& shapes, const std::vector<StateBinding>& bound,
                             Logger& logger);

}  // namespace forebay::tools
