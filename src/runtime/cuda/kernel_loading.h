// Our own kernels come to the device before the first pass, also where the driver would bring each when it is first used (as it must
// where a library holds many more than a program calls): in the middle of a pass that would take memory, and may wait for the device.
#pragma once

#include <cuda_runtime_api.h>

namespace forebay::cuda {

cudaError_t load_all_kernels();  // on the calling thread's device

}  // namespace forebay::cuda
