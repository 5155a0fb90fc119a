// A library's convolutions beside our own for images with their channels together.
#pragma once

#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/kernel_base.h"

namespace forebay::cuda {

// `own`, a MergedKernel and ChoosingKernel of forebay.NhwcConv, with cuDNN's engines among its ways.
KernelPtr with_cudnn(const NamedActivation& activation, KernelPtr own, StatePtr state);

// Slabs of filters as one weight: `from[i]` goes to begins[i] to begins[i + 1] of `to`, in units of 8 bytes.
struct GatherSlabsTask {
  static constexpr int kMost = 64;
  const void* from[kMost] = {};
  std::int64_t begins[kMost + 1] = {};
  int count = 0;
  void* to = nullptr;
};
cudaError_t launch_gather_slabs(const GatherSlabsTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
