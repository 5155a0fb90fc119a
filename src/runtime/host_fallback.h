// A CPU kernel on a device whose arena the host cannot address: inputs are copied to host memory,
// outputs back. Slow and always right; its id begins with "host.", so that profiles and numerics_id
// show it.
#pragma once

#include <memory>

#include "runtime/device.h"
#include "runtime/op.h"

namespace forebay {

std::unique_ptr<Kernel> run_on_host(std::unique_ptr<Kernel> kernel, Device& device);

}  // namespace forebay
