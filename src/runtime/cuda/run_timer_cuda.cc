#include "runtime/cuda/run_timer_cuda.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "runtime/cuda/cuda_queue.h"

namespace forebay::cuda {
namespace {

constexpr int kMeasurements = 5, kMostCalls = 64;
constexpr double kWantedMicroseconds = 1000;  // of one measurement: far above what an event can tell

struct Owned {  // of one measurement
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  ~Owned() {
    if (executable != nullptr) static_cast<void>(cudaGraphExecDestroy(executable));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    if (begin != nullptr) static_cast<void>(cudaEventDestroy(begin));
    if (end != nullptr) static_cast<void>(cudaEventDestroy(end));
  }
};

Result<double> measure(const std::function<Status()>& enqueue, int calls, int measurements, CudaState& state) {
  const cudaStream_t stream = queue_stream();
  const auto check = [&](cudaError_t error, const char* doing) { return state.errors.check(error, doing); };
  Owned owned;
  FB_TRY(check(cudaEventCreate(&owned.begin), "making an event"));
  FB_TRY(check(cudaEventCreate(&owned.end), "making an event"));
  FB_TRY(check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "recording kernels to be timed"));
  Status enqueued;
  for (int i = 0; i < calls && enqueued.ok(); ++i) enqueued = enqueue();
  const Status ended = check(cudaStreamEndCapture(stream, &owned.graph), "recording kernels to be timed");
  FB_TRY(std::move(enqueued));
  FB_TRY(ended);
  FB_TRY(check(cudaGraphInstantiate(&owned.executable, owned.graph, 0), "recording kernels to be timed"));
  FB_TRY(check(cudaGraphLaunch(owned.executable, stream), "timing a kernel"));  // warm
  std::array<float, kMeasurements> times{};
  for (int i = 0; i < measurements; ++i) {
    FB_TRY(check(cudaEventRecord(owned.begin, stream), "timing a kernel"));
    FB_TRY(check(cudaGraphLaunch(owned.executable, stream), "timing a kernel"));
    FB_TRY(check(cudaEventRecord(owned.end, stream), "timing a kernel"));
    FB_TRY(check(cudaStreamSynchronize(stream), "timing a kernel"));
    FB_TRY(check(cudaEventElapsedTime(&times[static_cast<std::size_t>(i)], owned.begin, owned.end), "timing a kernel"));
  }
  std::nth_element(times.begin(), times.begin() + measurements / 2, times.begin() + measurements);
  return static_cast<double>(times[static_cast<std::size_t>(measurements / 2)]) * 1000 / calls;
}

}  // namespace

Result<double> time_on_stream(const std::function<Status()>& enqueue, CudaState& state) {
  FB_TRY(enqueue());  // what is loaded at the first call is not recorded
  FB_TRY(state.errors.check(cudaStreamSynchronize(queue_stream()), "timing a kernel"));
  FB_ASSIGN(const double once, measure(enqueue, 1, 1, state));
  const int calls = std::clamp(static_cast<int>(std::ceil(kWantedMicroseconds / std::max(once, 1.0))), 1, kMostCalls);
  return measure(enqueue, calls, kMeasurements, state);
}

}  // namespace forebay::cuda
