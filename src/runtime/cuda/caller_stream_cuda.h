// Ties of passes to the caller's CUDA streams.
//
// A pass is given to the device by a worker, long after enqueue returned: what the caller's stream waits for is not there yet, so it cannot
// be an event. The stream waits for a word in page-locked memory to reach the pass's ticket; the pass's own stream writes it, or the host
// when the pass failed. The words belong to the device and only ever grow: a wait that comes late finds what it waits for.
//
// Streams that wait so must not share a hardware queue with what they wait for. Queues for kernels are shared within a priority: ours have
// the highest, and the stream that waits for the caller's event has the lowest. Queues for copies are shared whatever the priority, once a
// process has more streams than CUDA_DEVICE_MAX_CONNECTIONS: a copy given to a waiting stream may then be before a load that the pass
// needs, and both stop for good. 48 streams that waited and copied at once did so, with 8 queues and with 32; 24 did not, with 32. The device asks
// for 32, the most there are, where it starts the driver.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/caller_stream.h"
#include "runtime/cuda/cuda_status.h"

namespace forebay::cuda {

class TieWords {  // thread-safe
 public:
  struct Pair {
    std::uint32_t consumed = 0, finished = 0;
  };
  explicit TieWords(std::shared_ptr<CudaState> state) : state_(std::move(state)) {}
  ~TieWords();
  Result<std::uint32_t> take(Pair** words);
  void give(std::uint32_t index);

 private:
  static constexpr std::uint32_t kPairs = 512;
  const std::shared_ptr<CudaState> state_;
  std::mutex mutex_;  // guards everything below
  Pair* pairs_ = nullptr;
  std::vector<std::uint32_t> free_;
};

class CudaTie final : public PassTie {
 public:
  static Result<std::unique_ptr<PassTie>> create(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words);
  ~CudaTie() override;
  Result<std::uint32_t> attach(void* stream, void* consumed) override;
  Status begin(std::uint32_t ticket) override;
  Status consume(std::uint32_t ticket) override;
  Status finish(std::uint32_t ticket) override;
  void release(std::uint32_t ticket) override;

 private:
  struct Arrival {
    std::uint32_t ticket = 0;
    cudaEvent_t event = nullptr;
    bool taken = false;
  };
  CudaTie(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words) : state_(std::move(state)), words_(std::move(words)) {}
  Result<cudaEvent_t> take_arrival(std::uint32_t ticket);
  void forget(std::uint32_t ticket);
  Status write(std::uint32_t* word, std::uint32_t value);

  const std::shared_ptr<CudaState> state_;
  const std::shared_ptr<TieWords> words_;
  TieWords::Pair* pair_ = nullptr;
  std::uint32_t index_ = 0, last_ticket_ = 0;
  cudaStream_t side_ = nullptr;  // of the caller's consumed events
  std::mutex mutex_;             // guards arrivals_
  std::vector<Arrival> arrivals_;
};

std::unique_ptr<Queue> make_capture_queue(cudaStream_t stream, std::shared_ptr<CudaState> state);

}  // namespace forebay::cuda
