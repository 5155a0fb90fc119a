#include "runtime/cuda/cuda_recording.h"

#include <utility>

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
  Status replay() {
    return state_->errors.check(cudaGraphLaunch(graph_, queue_stream()), "launching a graph");
  }

 private:
  cudaGraphExec_t const graph_;
  const std::shared_ptr<CudaState> state_;
};

}  // namespace

// Whatever goes wrong while it is recorded also goes wrong, and is told, when it runs plainly.
std::unique_ptr<Recording> record_graph(Queue::HostFunction work, void* argument,
                                        const std::shared_ptr<CudaState>& state) {
  const cudaStream_t stream = queue_stream();
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  const Status given = work(argument);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error == cudaSuccess && given.ok()) error = cudaGraphInstantiate(&made, graph, 0);
  if (error == cudaSuccess && made != nullptr) error = cudaGraphUpload(made, stream);
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    if (made != nullptr) static_cast<void>(cudaGraphExecDestroy(std::exchange(made, nullptr)));
  }
  return made != nullptr ? std::make_unique<GraphRecording>(made, state) : nullptr;
}

Status replay_graph(Recording& recording) {
  return static_cast<GraphRecording&>(recording).replay();
}

}  // namespace forebay::cuda
