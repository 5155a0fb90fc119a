// Our own kernels come to the device before the first pass, also where the driver would bring each when it is first used (as it must
// where a library holds many more than a program calls): in the middle of a pass that would take memory, and may wait for the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace forebay::cuda {

cudaError_t load_all_kernels();  // on the calling thread's device

// What a library loads when it is first called is loaded now, and nothing runs: `give` gives work to a stream that only writes it down.
// False where it could not, or `accepts`, unless null, does not take what was written.
bool load_by_recording(const std::function<bool(cudaStream_t)>& give, bool (*accepts)(cudaGraph_t));
// Operand `number` of such work, from 1 on: an address that nothing is read from.
inline void* nowhere(std::uintptr_t number) { return reinterpret_cast<void*>(number << 32); }

}  // namespace forebay::cuda
