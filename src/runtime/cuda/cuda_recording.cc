#include "runtime/cuda/cuda_recording.h"

#include <utility>

#include "base/check.h"
#include "runtime/cuda/cuda_queue.h"

namespace forebay::cuda {
namespace {

class GraphRecording final : public Recording {
 public:
  GraphRecording(cudaGraphExec_t graph, std::shared_ptr<CudaState> state)
      : graph_(graph), state_(std::move(state)) {}
  ~GraphRecording() override { static_cast<void>(cudaGraphExecDestroy(graph_)); }
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;
  // False: these are other launches, or differ in more than what they are given.
  bool make_over(cudaGraph_t graph) {
    cudaGraphExecUpdateResultInfo result{};
    if (cudaGraphExecUpdate(graph_, graph, &result) == cudaSuccess) return true;
    static_cast<void>(cudaGetLastError());
    return false;
  }
  cudaError_t upload(cudaStream_t stream) { return cudaGraphUpload(graph_, stream); }
  Status replay() {
    return state_->errors.check(cudaGraphLaunch(graph_, queue_stream()), "launching a graph");
  }

 private:
  cudaGraphExec_t const graph_;
  const std::shared_ptr<CudaState> state_;
};

}  // namespace

// Whatever goes wrong while it is recorded also goes wrong, and is told, when it runs plainly.
std::unique_ptr<Recording> record_graph(Queue::HostFunction work, void* argument, const std::shared_ptr<CudaState>& state,
                                        std::unique_ptr<Recording> worn) {
  const cudaStream_t stream = queue_stream();
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  const Status given = work(argument);
  cudaGraph_t graph = nullptr;
  std::unique_ptr<GraphRecording> made;
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error == cudaSuccess && given.ok()) {
    auto* const before = static_cast<GraphRecording*>(worn.get());
    if (before != nullptr && before->make_over(graph)) {
      worn.release();
      made.reset(before);
    } else {
      cudaGraphExec_t exec = nullptr;
      error = cudaGraphInstantiate(&exec, graph, 0);
      if (error == cudaSuccess) made = std::make_unique<GraphRecording>(exec, state);
    }
  }
  if (made != nullptr) error = made->upload(stream);
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  if (error == cudaSuccess) return made;
  static_cast<void>(cudaGetLastError());
  return nullptr;
}

Status replay_graph(Recording& recording) {
  return static_cast<GraphRecording&>(recording).replay();
}

RecordingLane::~RecordingLane() {
  if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
}

// Launches keep the priority of the stream that they are recorded on: that of the queues'.
Status RecordingLane::open() {
  int lowest = 0, highest = 0;
  FB_TRY(state_->errors.check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for stream priorities"));
  FB_TRY(state_->errors.check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest), "creating a stream"));
  return sides_.open(highest, *state_);
}

std::unique_ptr<Recording> RecordingLane::record(Queue::HostFunction work, void* argument, std::unique_ptr<Recording> worn) {
  const std::lock_guard lock(mutex_);
  if (cudaSetDevice(state_->ordinal) != cudaSuccess) return nullptr;
  if (!open_ && (stream_ != nullptr || !open().ok())) return nullptr;
  open_ = true;
  const StreamScope scope(stream_);
  set_side_streams(&sides_);
  auto recording = record_graph(work, argument, state_, std::move(worn));
  set_side_streams(nullptr);
  return recording;
}

}  // namespace forebay::cuda
