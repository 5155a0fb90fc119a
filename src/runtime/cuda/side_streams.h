// More streams of a queue: calls that follow on nothing of each other run beside each other, each as it would alone. A slab's product for
// few rows has fewer blocks than the device has processors.
#pragma once

#include <array>
#include <span>

#include "runtime/cuda/cuda_status.h"
#include "runtime/op.h"

namespace forebay::cuda {

inline constexpr std::size_t kMostLanes = 8;

class SideStreams {
 public:
  SideStreams() = default;
  ~SideStreams();
  SideStreams(const SideStreams&) = delete;
  SideStreams& operator=(const SideStreams&) = delete;
  Status open(int priority, CudaState& state);
  // Call i on stream i % lanes, the queue's own being the first; at most kMostLanes. What came before on the queue's stream is done when
  // they begin, they when what comes behind them begins.
  Status run(Kernel& kernel, std::span<const KernelCall> calls, std::size_t lanes, CudaState& state);
  cudaStream_t first() const { return sides_[0].stream; }

 private:
  struct Side {
    cudaStream_t stream = nullptr;
    cudaEvent_t done = nullptr;
  };
  std::array<Side, kMostLanes - 1> sides_;
  cudaEvent_t begun_ = nullptr;
};

// As SideStreams::run with the streams of the queue whose worker calls; one call after the other elsewhere.
Status run_beside(Kernel& kernel, std::span<const KernelCall> calls, std::size_t lanes, CudaState& state);

// Makes `streams` those of this thread's queue.
void set_side_streams(SideStreams* streams);
// One of them, on the same thread; null where it has none.
cudaStream_t side_stream();

}  // namespace forebay::cuda
