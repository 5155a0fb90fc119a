// Invariant: an event is recorded again only after its mark has been told, so a ring of as many
// events as marks is enough.
#include "runtime/cuda/cuda_queue.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace forebay::cuda {
namespace {

thread_local cudaStream_t worker_stream = nullptr;

// A sleep and a query cost some 4 us of a core. Whoever waits for the last mark hurries the watcher (synchronize).
constexpr auto kPoll = std::chrono::microseconds(50);

}  // namespace

cudaStream_t queue_stream() {
  return worker_stream;
}

StreamScope::StreamScope(cudaStream_t stream) : before_(std::exchange(worker_stream, stream)) {}
StreamScope::~StreamScope() { worker_stream = before_; }

Result<std::unique_ptr<Queue>> CudaQueue::create_on(const std::string& name, std::uint32_t capacity,
                                                    std::shared_ptr<CudaState> state) {
  if (capacity == 0)
    return Status(Code::invalid_argument, "a queue needs a capacity of at least 1");
  std::unique_ptr<CudaQueue> queue(new CudaQueue(capacity, std::move(state)));
  FB_TRY(queue->open(name));
  return std::unique_ptr<Queue>(std::move(queue));
}

Status CudaQueue::open(const std::string& name) {
  FB_TRY(state_->errors.check(cudaSetDevice(state_->ordinal), "choosing the device"));
  // Above the caller's streams, which may wait for this one (caller_stream_cuda.h).
  int lowest = 0, highest = 0;
  FB_TRY(state_->errors.check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for stream priorities"));
  FB_TRY(state_->errors.check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest),
                              "creating a stream"));
  FB_TRY(sides_.open(highest, *state_));
  // Now, not when first used: while a stream of the caller's waits for this queue, the driver may not get to make anything.
  for (Mark& mark : marks_) FB_TRY(state_->errors.check(cudaEventCreateWithFlags(&mark.event, cudaEventDisableTiming), "creating an event"));
  try {
    watcher_ = std::thread([this] { watch(); });
  } catch (const std::system_error& error) {
    return Status(Code::unavailable, "no thread for the queue " + name + ": " + error.what());
  }
  pthread_setname_np(watcher_.native_handle(), ("fw-" + name).substr(0, 15).c_str());
  return start(name);
}

CudaQueue::~CudaQueue() {
  stop();
  if (watcher_.joinable()) {
    {
      const std::lock_guard lock(marks_mutex_);
      stop_watch_ = true;
      marks_changed_.notify_all();
    }
    watcher_.join();  // tells what is still to be told
  }
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  for (const Mark& mark : marks_) {
    if (mark.event != nullptr) cudaEventDestroy(mark.event);
  }
}

void CudaQueue::on_start() {
  worker_stream = stream_;
  set_side_streams(&sides_);
  Status chosen = state_->errors.check(cudaSetDevice(state_->ordinal), "choosing the device");
  if (!chosen.ok()) set_error(std::move(chosen));
}

Status CudaQueue::copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  return state_->errors.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_),
                              "copying " + std::to_string(bytes) + " bytes");
}

Status CudaQueue::zero_bytes(std::byte* to, std::uint64_t bytes) {
  return state_->errors.check(cudaMemsetAsync(to, 0, bytes, stream_), "zeroing device memory");
}

// Also of a queue that has failed: what was given to the stream before may still run on what the
// signal sets free.
void CudaQueue::make_signal(TimelinePoint point) {
  std::unique_lock lock(marks_mutex_);
  marks_changed_.wait(lock, [&] { return last_mark_ - first_mark_ < marks_.size(); });
  Mark& mark = marks_[last_mark_ % marks_.size()];
  mark.point = point;
  Status recorded = state_->errors.check(cudaEventRecord(mark.event, stream_), "recording an event");
  ++last_mark_;
  marks_changed_.notify_all();
  lock.unlock();
  if (!recorded.ok()) set_error(std::move(recorded));
}

Status CudaQueue::await(cudaEvent_t event) {
  for (;;) {
    const cudaError_t now = cudaEventQuery(event);
    if (now != cudaErrorNotReady) return state_->errors.check(now, "work of the device");
    std::unique_lock lock(marks_mutex_);
    hurry_.wait_for(lock, kPoll, [&] { return hurried_; });
    hurried_ = false;
  }
}

void CudaQueue::watch() {
  prctl(PR_SET_TIMERSLACK, 1000ul);  // else a short sleep is 60 us and more
  static_cast<void>(cudaSetDevice(state_->ordinal));
  std::unique_lock lock(marks_mutex_);
  for (;;) {
    marks_changed_.wait(lock, [&] { return first_mark_ != last_mark_ || stop_watch_; });
    if (first_mark_ == last_mark_) return;
    const Mark mark = marks_[first_mark_ % marks_.size()];
    lock.unlock();
    Status done = await(mark.event);
    if (!done.ok()) set_error(std::move(done));
    mark.point.timeline->signal(mark.point.value);
    lock.lock();
    ++first_mark_;
    marks_changed_.notify_all();
  }
}

Status CudaQueue::synchronize() {
  Status given = CpuQueue::synchronize();
  Status ran = state_->errors.check(cudaStreamSynchronize(stream_), "work of the device");
  {
    std::unique_lock lock(marks_mutex_);
    hurried_ = first_mark_ != last_mark_;
    hurry_.notify_all();
    marks_changed_.wait(lock, [&] { return first_mark_ == last_mark_; });
  }
  if (given.ok() && !ran.ok()) set_error(ran);
  return given.ok() ? ran : given;
}

}  // namespace forebay::cuda
