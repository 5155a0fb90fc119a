// A queue on a CUDA stream. The worker gives commands to the stream as they come; it waits for
// timelines itself, so that a value nobody has signalled yet really is waited for. Signals follow
// the stream: an event each, watched in order by a thread of the queue.
//
// Kernels are launched by functions the queue runs: queue_stream() is the stream of the queue whose
// worker calls.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/cpu/cpu_queue.h"
#include "runtime/cuda/cuda_status.h"
#include "runtime/cuda/side_streams.h"

namespace forebay::cuda {

// Null on threads that are no queue's worker.
cudaStream_t queue_stream();

// Makes `stream` the queue_stream() of this thread meanwhile.
class StreamScope {
 public:
  explicit StreamScope(cudaStream_t stream);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  const cudaStream_t before_;
};

class CudaQueue final : public CpuQueue {
 public:
  static Result<std::unique_ptr<Queue>> create_on(const std::string& name, std::uint32_t capacity,
                                                  std::shared_ptr<CudaState> state);
  ~CudaQueue() override;
  Status synchronize() override;

 protected:
  void on_start() override;
  Status copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes) override;
  Status zero_bytes(std::byte* to, std::uint64_t bytes) override;
  void make_signal(TimelinePoint point) override;

 private:
  struct Mark {
    cudaEvent_t event = nullptr;
    TimelinePoint point;
  };
  CudaQueue(std::uint32_t capacity, std::shared_ptr<CudaState> state)
      : CpuQueue(capacity, nullptr), state_(std::move(state)), marks_(kMarks) {}
  Status open(const std::string& name);
  void watch();
  Status await(cudaEvent_t event);

  static constexpr std::size_t kMarks = 1024;  // signals under way at most
  const std::shared_ptr<CudaState> state_;
  cudaStream_t stream_ = nullptr;
  SideStreams sides_;
  std::vector<Mark> marks_;  // a ring: [first_mark_, last_mark_)
  std::mutex marks_mutex_;   // guards all below but watcher_
  std::condition_variable marks_changed_, hurry_;
  std::uint64_t first_mark_ = 0, last_mark_ = 0;
  bool stop_watch_ = false;
  bool hurried_ = false;  // all marks there are have been reached: look now
  std::thread watcher_;
};

}  // namespace forebay::cuda
