// How long what a function enqueues takes on the device.
#pragma once

#include <functional>

#include "runtime/cuda/cuda_status.h"

namespace forebay::cuda {

// On a queue's own thread. Calls are recorded into a graph and launched together: the host's part of a launch is not in the figure.
Result<double> time_on_stream(const std::function<Status()>& enqueue, CudaState& state);

}  // namespace forebay::cuda
