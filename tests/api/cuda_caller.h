// What a caller of the library does with CUDA itself: streams, events, graphs, kernels. Failures are test failures.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace forebay::test {

void check_cuda(cudaError_t error, const char* what, int line);
#define CUDA_OK(call) ::forebay::test::check_cuda(call, #call, __LINE__)

// y[i] = a * i + b, after `spins` turns of a loop: long enough to be behind, when it should be.
void launch_ramp(float* y, std::size_t count, float a, float b, long spins, cudaStream_t stream);
// The kernel stops with an error that is sticky.
void launch_trap(cudaStream_t stream);

}  // namespace forebay::test
