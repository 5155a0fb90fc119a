// Ties of passes to the caller's CUDA streams.
//
// A pass is given to the device by a worker, long after enqueue returned: what the caller's stream waits for is not there yet, so it cannot
// be an event. The stream waits for a word in page-locked memory to reach the pass's ticket; the pass's own stream writes it, or the host
// when the pass failed. The words belong to the device and only ever grow: a wait that comes late finds what it waits for.
//
// A few hardware queues serve all streams of the process, whatever their priority (hardware_queues.h), each in its order; a stream that has
// nothing under way is given one that is free, as long as there is one. A stream that waits, and was given something behind its wait,
// blocks one for kernels, and one for copies of that direction. When all are blocked nothing is started any more, no kernel of any pass
// either, and all stop for good: seen from 30 streams on with 32 queues, from 8 on with 8, and with streams of a green context of our own
// no less. So only so many streams may wait that half of the queues are left, and our side streams are fewer than those.
//
// What the caller gave to a stream before its pass may come behind another stream's wait, for any pass that was attached before. So a pass
// that takes room and weights before its stream has come to it must not keep one that was attached before from ending: only the oldest
// does (await_turn), every other one takes them once its stream is there.
#pragma once

#include <array>
#include <condition_variable>
#include <map>
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

  // The order in which passes are attached, of all ties. Whoever attaches holds attach_mutex() until the pass is given to its streams.
  std::mutex& attach_mutex() { return attach_mutex_; }
  // `side` waits too, unless null. resource_exhausted when too many streams would wait.
  Result<std::uint64_t> join(cudaStream_t callers, cudaStream_t side);
  void leave(std::uint64_t place);
  // Whether nobody who joined before is left; else after some time, or when somebody has left.
  bool oldest_soon(std::uint64_t place);

 private:
  static constexpr std::uint32_t kPairs = 512;
  const std::shared_ptr<CudaState> state_;
  std::mutex mutex_;  // guards everything below
  Pair* pairs_ = nullptr;
  std::vector<std::uint32_t> free_;
  std::map<std::uint64_t, std::array<cudaStream_t, 2>> places_;  // and who waits
  std::map<cudaStream_t, std::size_t> waiting_;                  // for how many passes
  std::uint64_t last_place_ = 0;
  std::condition_variable left_;
  std::mutex attach_mutex_;  // taken before mutex_
};

class CudaTie final : public PassTie {
 public:
  static Result<std::unique_ptr<PassTie>> create(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words);
  ~CudaTie() override;
  Result<std::uint32_t> attach(void* stream, void* consumed) override;
  void await_turn(std::uint32_t ticket) override;
  Status begin(std::uint32_t ticket) override;
  Status consume(std::uint32_t ticket) override;
  Status finish(std::uint32_t ticket) override;
  void release(std::uint32_t ticket) override;

 private:
  struct Arrival {
    std::uint32_t ticket = 0;
    cudaEvent_t event = nullptr;
    std::uint64_t place = 0;
    bool taken = false;
  };
  CudaTie(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words) : state_(std::move(state)), words_(std::move(words)) {}
  Result<cudaEvent_t> take_arrival(std::uint32_t ticket, std::uint64_t place);
  Arrival arrival_of(std::uint32_t ticket);  // without an event when there is none
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
