#include "runtime/cuda/side_streams.h"

#include <algorithm>

#include "base/check.h"
#include "runtime/cuda/cuda_queue.h"
#include "runtime/cuda/hardware_queues.h"

namespace forebay::cuda {
namespace {

thread_local SideStreams* worker_sides = nullptr;

}  // namespace

SideStreams::~SideStreams() {
  for (const Side& side : sides_) {
    if (side.stream != nullptr) static_cast<void>(cudaStreamDestroy(side.stream));
    if (side.done != nullptr) static_cast<void>(cudaEventDestroy(side.done));
  }
  if (begun_ != nullptr) static_cast<void>(cudaEventDestroy(begun_));
}

Status SideStreams::open(int priority, CudaState& state) {
  FB_TRY(state.errors.check(cudaEventCreateWithFlags(&begun_, cudaEventDisableTiming), "creating an event"));
  for (Side& side : sides_) {
    FB_TRY(state.errors.check(cudaStreamCreateWithPriority(&side.stream, cudaStreamNonBlocking, priority), "creating a stream"));
    FB_TRY(state.errors.check(cudaEventCreateWithFlags(&side.done, cudaEventDisableTiming), "creating an event"));
  }
  return {};
}

// Joined again whatever fails: a capture ends with every stream joined.
Status SideStreams::run(Kernel& kernel, std::span<const KernelCall> calls, std::size_t lanes, CudaState& state) {
  const cudaStream_t stream = queue_stream();
  const auto most =
      static_cast<std::size_t>(std::max(1, hardware_queues() / 4));  // of those that waiting streams leave (caller_stream_cuda.h)
  const std::size_t used = std::min({lanes, kMostLanes, calls.size(), most}) - 1;
  cudaError_t error = cudaEventRecord(begun_, stream);
  for (std::size_t s = 0; s < used && error == cudaSuccess; ++s) error = cudaStreamWaitEvent(sides_[s].stream, begun_, 0);
  Status given = state.errors.check(error, "dividing a stream");
  for (std::size_t i = 0; i < calls.size() && given.ok(); ++i) {
    const std::size_t lane = i % (used + 1);
    const StreamScope scope(lane == 0 ? stream : sides_[lane - 1].stream);
    given = kernel.run(calls[i]);
  }
  for (std::size_t s = 0; s < used; ++s) {
    error = cudaEventRecord(sides_[s].done, sides_[s].stream);
    if (error == cudaSuccess) error = cudaStreamWaitEvent(stream, sides_[s].done, 0);
    Status joined = state.errors.check(error, "joining streams");
    if (given.ok()) given = std::move(joined);
  }
  return given;
}

void set_side_streams(SideStreams* streams) {
  worker_sides = streams;
}

cudaStream_t side_stream() {
  return worker_sides != nullptr ? worker_sides->first() : nullptr;
}

Status run_beside(Kernel& kernel, std::span<const KernelCall> calls, std::size_t lanes, CudaState& state) {
  if (worker_sides != nullptr && calls.size() > 1 && lanes > 1) return worker_sides->run(kernel, calls, lanes, state);
  for (const KernelCall& call : calls) FB_TRY(kernel.run(call));
  return {};
}

}  // namespace forebay::cuda
