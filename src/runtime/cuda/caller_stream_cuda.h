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
//
// What the driver makes (recordings, too) may take memory, which waits until all that was given to the device has run and stops every other
// call meanwhile: never to be done while a stream waits. A program that only enqueues has such a stream all the time a pass of its is under
// way, so what its pass could not make is made behind it, before the next one is attached (finish). Where passes are always under way, the
// next ones are held back for a little while, some times at most, until those have ended.
#pragma once

#include <array>
#include <chrono>
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
  // True while no stream waits for a pass, and keeps it so.
  class Quiet {
   public:
    explicit Quiet(TieWords& words) : attaching_(words.attach_mutex_, std::try_to_lock) {
      if (attaching_.owns_lock() && !words.nobody_waits()) attaching_.unlock();
    }
    explicit operator bool() const { return attaching_.owns_lock(); }

   private:
    std::unique_lock<std::recursive_mutex> attaching_;
  };
  static std::shared_ptr<TieWords> of_process();
  ~TieWords();
  Result<std::uint32_t> take(CudaState& state, Pair** words);
  void give(std::uint32_t index);

  // Whoever attaches holds it until the pass is given to its streams. Recursive: who has it may ask for quiet.
  std::recursive_mutex& attach_mutex() { return attach_mutex_; }
  // A side stream waits too where `sided`: one for all passes of words `index` that are under way. resource_exhausted when too many streams
  // would wait.
  Result<Seat> join(CudaState& state, cudaStream_t callers, std::uint32_t index, std::uint32_t ticket, bool sided);
  void leave(const Seat& seat);
  bool nobody_waits();
  bool when_quiet(const std::function<void()>& work);  // see CallerStreams
  // For whoever needs quiet and has none: await_door() holds up who comes, until it is opened, everybody has left, or some time has gone.
  // After some times in vain it stays open, and only who is alone may hope.
  bool quiet_may_come();
  void close_door();
  void open_door();
  void hold_door(std::chrono::steady_clock::time_point until);
  void await_door();
  // Whether nobody who joined before is left; else after some time, or when somebody has left.
  bool oldest_soon(std::uint64_t place);

 private:
  struct Side {
    cudaStream_t stream = nullptr;
    std::uint32_t user = 0;  // words
    std::size_t passes = 0;
  };
  struct Place {
    cudaStream_t callers = nullptr;
    std::uint32_t index = 0, ticket = 0;
  };
  static constexpr std::uint32_t kPairs = 512;
  static constexpr int kMostInVain = 16;
  TieWords() = default;
  Status make(CudaState& state);

  std::mutex mutex_;  // guards everything below
  Pair* pairs_ = nullptr;
  std::vector<std::uint32_t> free_;
  std::vector<Side> sides_;                       // as many as may wait
  std::vector<cudaEvent_t> events_;               // that nobody has
  std::map<std::uint64_t, Place> places_;
  std::map<cudaStream_t, std::size_t> waiting_;   // of the caller's, for how many passes
  std::uint64_t last_place_ = 0;
  std::condition_variable left_;
  std::chrono::steady_clock::time_point door_;  // closed until then
  int in_vain_ = 0;                             // times it was closed since it was last opened
  std::recursive_mutex attach_mutex_;           // taken before mutex_
};

class CudaTie final : public PassTie {
 public:
  static Result<std::unique_ptr<PassTie>> create(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words);
  ~CudaTie() override;
  Result<std::uint32_t> attach(void* stream, void* consumed) override;
  void await_turn(std::uint32_t ticket) override;
  Status begin(std::uint32_t ticket) override;
  Status consume(std::uint32_t ticket) override;
  Status finish(std::uint32_t ticket, const std::function<void()>& behind) override;
  void release(std::uint32_t ticket) override;

 private:
  CudaTie(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words) : state_(std::move(state)), words_(std::move(words)) {}
  TieWords::Seat seat_of(std::uint32_t ticket);  // without an event when there is none
  void forget(std::uint32_t ticket);
  Status write(std::uint32_t* word, std::uint32_t value);

  const std::shared_ptr<CudaState> state_;
  const std::shared_ptr<TieWords> words_;
  TieWords::Pair* pair_ = nullptr;
  std::uint32_t index_ = 0, last_ticket_ = 0;      // the latter under attach_mutex()
  std::mutex mutex_;                               // guards seats_
  std::map<std::uint32_t, TieWords::Seat> seats_;  // by ticket
};

std::unique_ptr<Queue> make_capture_queue(cudaStream_t stream, std::shared_ptr<CudaState> state);

}  // namespace forebay::cuda
