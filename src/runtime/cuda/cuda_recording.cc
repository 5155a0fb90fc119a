#include "runtime/cuda/cuda_recording.h"

#include <utility>

#include "runtime/cuda/cuda_queue.h"
#include "runtime/cuda/side_streams.h"

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
                                        std::unique_ptr<Recording> worn, bool may_make) {
  const cudaStream_t stream = queue_stream();
  if (worn == nullptr && !may_make) return nullptr;
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
    } else if (may_make) {
      cudaGraphExec_t exec = nullptr;
      error = cudaGraphInstantiate(&exec, graph, 0);
      if (error == cudaSuccess) made = std::make_unique<GraphRecording>(exec, state);
    }
  }
  // Beside the queue's stream, where a pass may be under way: behind it, its end would wait for this.
  if (made != nullptr) error = made->upload(side_stream() != nullptr ? side_stream() : stream);
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  if (error == cudaSuccess) return made;
  static_cast<void>(cudaGetLastError());
  return nullptr;
}

Status replay_graph(Recording& recording) {
  return static_cast<GraphRecording&>(recording).replay();
}

}  // namespace forebay::cuda
