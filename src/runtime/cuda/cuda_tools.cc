// NVTX is header-only and does nothing unless a tool of NVIDIA's is attached.
#include "runtime/cuda/cuda_tools.h"

#include <nvtx3/nvToolsExt.h>

#include <chrono>

#include "base/check.h"
#include "runtime/cuda/cuda_queue.h"

namespace forebay::cuda {
namespace {

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t handle = nvtxDomainCreateA("forebay");
  return handle;
}

}  // namespace

Result<std::unique_ptr<Stopwatch>> CudaStopwatch::create(std::shared_ptr<CudaState> state) {
  std::unique_ptr<CudaStopwatch> watch(new CudaStopwatch(std::move(state)));
  ErrorKeeper& errors = watch->state_->errors;
  FB_TRY(errors.check(cudaSetDevice(watch->state_->ordinal), "choosing the device"));
  FB_TRY(errors.check(cudaStreamCreateWithFlags(&watch->stream_, cudaStreamNonBlocking), "creating a stream"));
  FB_TRY(errors.check(cudaEventCreate(&watch->base_), "creating an event"));
  FB_TRY(watch->reset());
  return std::unique_ptr<Stopwatch>(std::move(watch));
}

CudaStopwatch::~CudaStopwatch() {
  for (cudaEvent_t event : events_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (base_ != nullptr) cudaEventDestroy(base_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

// On an idle stream of its own an event is done a few microseconds after it is recorded: the middle of the wait is close enough. The best
// of a few.
Status CudaStopwatch::reset() {
  std::int64_t best = INT64_MAX;
  for (int i = 0; i < 4; ++i) {
    const std::int64_t before = now_ns();
    FB_TRY(state_->errors.check(cudaEventRecord(base_, stream_), "recording an event"));
    FB_TRY(state_->errors.check(cudaEventSynchronize(base_), "waiting for an event"));
    const std::int64_t after = now_ns();
    base_ns_ = before + (after - before) / 2;
    best = std::min(best, after - before);
    if (i > 0 && after - before <= best + best / 4) break;  // the event is the last one's
  }
  return {};
}

Status CudaStopwatch::mark(std::size_t number) {
  cudaEvent_t event = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (events_.size() <= number) events_.resize(number + 1, nullptr);
    if (events_[number] == nullptr) FB_TRY(state_->errors.check(cudaEventCreate(&events_[number]), "creating an event"));
    event = events_[number];
  }
  return state_->errors.check(cudaEventRecord(event, queue_stream()), "recording an event");
}

Result<std::int64_t> CudaStopwatch::read(std::size_t number) {
  const std::lock_guard lock(mutex_);
  const Status not_there(Code::failed_precondition, "a mark that was not reached");
  if (number >= events_.size() || events_[number] == nullptr) return not_there;
  if (cudaEventQuery(events_[number]) != cudaSuccess) return not_there;
  float ms = 0;
  FB_TRY(state_->errors.check(cudaEventElapsedTime(&ms, base_, events_[number]), "reading the time of an event"));
  return base_ns_ + static_cast<std::int64_t>(static_cast<double>(ms) * 1e6);
}

void begin_nvtx_range(const char* name) {
  nvtxEventAttributes_t range{};
  range.version = NVTX_VERSION;
  range.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  range.messageType = NVTX_MESSAGE_TYPE_ASCII;
  range.message.ascii = name;
  nvtxDomainRangePushEx(domain(), &range);
}

void end_nvtx_range() { nvtxDomainRangePop(domain()); }

}  // namespace forebay::cuda
