// CUDA graphs of what functions give to a queue's stream.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "runtime/cuda/cuda_status.h"
#include "runtime/cuda/side_streams.h"
#include "runtime/stretch.h"

namespace forebay::cuda {

// On a queue's worker; see ReplayDevice.
std::unique_ptr<Recording> record_graph(Queue::HostFunction work, void* argument, const std::shared_ptr<CudaState>& state,
                                        std::unique_ptr<Recording> worn = nullptr);

// Streams that nothing runs on, for recordings of threads that have no queue.
class RecordingLane {
 public:
  explicit RecordingLane(std::shared_ptr<CudaState> state) : state_(std::move(state)) {}
  ~RecordingLane();
  RecordingLane(const RecordingLane&) = delete;
  RecordingLane& operator=(const RecordingLane&) = delete;
  // See ReplayDevice::record_ahead.
  std::unique_ptr<Recording> record(Queue::HostFunction work, void* argument, std::unique_ptr<Recording> worn);

 private:
  Status open();
  const std::shared_ptr<CudaState> state_;
  std::mutex mutex_;  // guards all below; one recording at a time
  cudaStream_t stream_ = nullptr;
  SideStreams sides_;
  bool open_ = false;
};
Status replay_graph(Recording& recording);

}  // namespace forebay::cuda
