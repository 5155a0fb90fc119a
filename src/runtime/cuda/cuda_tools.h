// Stopwatches from timed events, ranges from NVTX.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/cuda/cuda_status.h"
#include "runtime/device_tools.h"

namespace forebay::cuda {

class CudaStopwatch final : public Stopwatch {
 public:
  static Result<std::unique_ptr<Stopwatch>> create(std::shared_ptr<CudaState> state);
  ~CudaStopwatch() override;
  Status mark(std::size_t number) override;
  Result<std::int64_t> read(std::size_t number) override;
  Status reset() override;

 private:
  explicit CudaStopwatch(std::shared_ptr<CudaState> state) : state_(std::move(state)) {}
  const std::shared_ptr<CudaState> state_;
  cudaStream_t stream_ = nullptr;  // of the base alone
  cudaEvent_t base_ = nullptr;     // done when the host's clock showed base_ns_
  std::int64_t base_ns_ = 0;
  std::mutex mutex_;  // guards events_
  std::vector<cudaEvent_t> events_;
};

void begin_nvtx_range(const char* name);
void end_nvtx_range();

}  // namespace forebay::cuda
