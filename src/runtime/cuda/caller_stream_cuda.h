// Ties of passes to the caller's CUDA streams.
//
// A pass is given to the device by a worker, long after enqueue returned: what the caller's stream waits for is not there yet, so it cannot
// be an event. The stream waits for a word in page-locked memory to reach the pass's ticket; the pass's own stream writes it, or the host
// when the pass failed. The words outlive the ties and only ever grow: a wait that comes late finds what it waits for.
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

// Of all devices that are open, for the hardware queues are the process's; thread-safe. Streams and events are made with the first tie:
// while a stream waits the driver may not get to make any.
class TieWords {
 public:
  struct Pair {
    std::uint32_t consumed = 0, finished = 0;
  };
  // What a pass has while it is under way.
  struct Seat {
    std::uint64_t place = 0;        // in the order in which passes were attached, of all ties
    cudaEvent_t arrived = nullptr;  // recorded again only when the pass has ended
    cudaStream_t side = nullptr;    // of consumed events, in their order
  };
  // True while no stream waits for a pass, and keeps it so: the driver may take memory for what it makes (recordings, too), holding up all
  // other calls until everything that was given to the device has run.
  class Quiet {
   public:
    explicit Quiet(TieWords& words) : attaching_(words.attach_mutex_), quiet_(words.nobody()) {}
    explicit operator bool() const { return quiet_; }

   private:
    const std::lock_guard<std::mutex> attaching_;
    const bool quiet_;
  };
  static std::shared_ptr<TieWords> of_process();
  ~TieWords();
  Result<std::uint32_t> take(CudaState& state, Pair** words);
  void give(std::uint32_t index);

  // Whoever attaches holds it until the pass is given to its streams.
  std::mutex& attach_mutex() { return attach_mutex_; }
  // A side stream waits too where `sided`: one for all passes of words `index` that are under way. resource_exhausted when too many streams
  // would wait.
  Result<Seat> join(CudaState& state, cudaStream_t callers, std::uint32_t index, bool sided);
  void leave(const Seat& seat);
  // Whether nobody who joined before is left; else after some time, or when somebody has left.
  bool oldest_soon(std::uint64_t place);

 private:
  struct Side {
    cudaStream_t stream = nullptr;
    std::uint32_t user = 0;  // words
    std::size_t passes = 0;
  };
  static constexpr std::uint32_t kPairs = 512;
  TieWords() = default;
  Status make(CudaState& state);
  bool nobody();

  std::mutex mutex_;  // guards everything below
  Pair* pairs_ = nullptr;
  std::vector<std::uint32_t> free_;
  std::vector<Side> sides_;                       // as many as may wait
  std::vector<cudaEvent_t> events_;               // that nobody has
  std::map<std::uint64_t, cudaStream_t> places_;  // and which stream of the caller's waits
  std::map<cudaStream_t, std::size_t> waiting_;   // of the caller's, for how many passes
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
  CudaTie(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words) : state_(std::move(state)), words_(std::move(words)) {}
  TieWords::Seat seat_of(std::uint32_t ticket);  // without an event when there is none
  void forget(std::uint32_t ticket);
  Status write(std::uint32_t* word, std::uint32_t value);

  const std::shared_ptr<CudaState> state_;
  const std::shared_ptr<TieWords> words_;
  TieWords::Pair* pair_ = nullptr;
  std::uint32_t index_ = 0, last_ticket_ = 0;
  std::mutex mutex_;                               // guards seats_
  std::map<std::uint32_t, TieWords::Seat> seats_;  // by ticket
};

std::unique_ptr<Queue> make_capture_queue(cudaStream_t stream, std::shared_ptr<CudaState> state);

}  // namespace forebay::cuda
