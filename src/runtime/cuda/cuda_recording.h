// CUDA graphs of what functions give to a queue's stream.
#pragma once

#include <memory>

#include "runtime/cuda/cuda_status.h"
#include "runtime/stretch.h"

namespace forebay::cuda {

// On a queue's worker; see ReplayDevice. A new one is made only where it may be.
std::unique_ptr<Recording> record_graph(Queue::HostFunction work, void* argument, const std::shared_ptr<CudaState>& state,
                                        std::unique_ptr<Recording> worn, bool may_make);
Status replay_graph(Recording& recording);

}  // namespace forebay::cuda
