#include "runtime/cuda/caller_stream_cuda.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <utility>

#include "base/check.h"
#include "runtime/cuda/cuda_queue.h"
#include "runtime/cuda/hardware_queues.h"

namespace forebay::cuda {
namespace {

constexpr int kLeastQueues = 4;

CUdeviceptr address_of(const std::uint32_t* word) {
  return reinterpret_cast<CUdeviceptr>(word);
}

// Growing numbers that may wrap.
void raise(std::uint32_t* word, std::uint32_t value) {
  std::atomic_ref<std::uint32_t> shared(*word);
  if (static_cast<std::int32_t>(value - shared.load()) > 0) shared.store(value);
}

class CaptureQueue final : public Queue {
 public:
  CaptureQueue(cudaStream_t stream, std::shared_ptr<CudaState> state) : stream_(stream), state_(std::move(state)) {}
  void launch(HostFunction function, void* argument) override {
    const StreamScope scope(stream_);
    keep(function(argument));
  }
  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) override {
    if (bytes > 0) keep(state_->errors.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "capturing a copy"));
  }
  void zero(std::byte* to, std::uint64_t bytes) override {
    if (bytes > 0) keep(state_->errors.check(cudaMemsetAsync(to, 0, bytes, stream_), "capturing a memset"));
  }
  void wait(TimelinePoint point) override {
    if (point.timeline == nullptr || point.timeline->value() >= point.value) return;
    keep(Status(Code::failed_precondition, "the pass would wait for weights: it cannot be captured"));
  }
  void signal(TimelinePoint) override {}            // nobody waits for a pass that has not run
  Status synchronize() override { return error_; }  // nothing has run, and nothing is waited for
  void clear_error() override { error_ = Status(); }

 private:
  void keep(Status status) {
    if (error_.ok() && !status.ok()) error_ = std::move(status);
  }
  const cudaStream_t stream_;
  const std::shared_ptr<CudaState> state_;
  Status error_;
};

}  // namespace

std::shared_ptr<TieWords> TieWords::of_process() {
  static std::mutex mutex;
  static std::weak_ptr<TieWords> shared;
  const std::lock_guard lock(mutex);
  std::shared_ptr<TieWords> words = shared.lock();
  if (words == nullptr) {
    words.reset(new TieWords());
    shared = words;
  }
  return words;
}

TieWords::~TieWords() {
  for (const Side& side : sides_) {
    cudaStreamSynchronize(side.stream);
    cudaStreamDestroy(side.stream);
  }
  for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  if (pairs_ != nullptr) cudaFreeHost(pairs_);
}

Status TieWords::make(CudaState& state) {
  ErrorKeeper& errors = state.errors;
  int lowest = 0, highest = 0;
  FB_TRY(errors.check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for stream priorities"));
  for (const auto most = static_cast<std::size_t>(hardware_queues() / 2); sides_.size() < most;) {
    Side side;
    FB_TRY(errors.check(cudaStreamCreateWithPriority(&side.stream, cudaStreamNonBlocking, lowest), "creating a stream"));
    sides_.push_back(side);
  }
  while (events_.size() < kPairs) {
    cudaEvent_t event = nullptr;
    FB_TRY(errors.check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event"));
    events_.push_back(event);
  }
  void* memory = nullptr;
  FB_TRY(errors.check(cudaHostAlloc(&memory, kPairs * sizeof(Pair), cudaHostAllocMapped | cudaHostAllocPortable),
                      "page-locking the words of enqueued passes"));
  pairs_ = static_cast<Pair*>(memory);
  std::fill_n(pairs_, kPairs, Pair());
  for (std::uint32_t i = kPairs; i-- > 0;) free_.push_back(i);
  return {};
}

Result<std::uint32_t> TieWords::take(CudaState& state, Pair** words) {
  const std::lock_guard lock(mutex_);
  if (pairs_ == nullptr) FB_TRY(make(state));
  if (free_.empty()) return Status(Code::resource_exhausted, "more than " + std::to_string(kPairs) + " contexts enqueue on streams");
  const std::uint32_t index = free_.back();
  free_.pop_back();
  *words = pairs_ + index;
  return index;
}

void TieWords::give(std::uint32_t index) {
  const std::lock_guard lock(mutex_);
  free_.push_back(index);
}

Result<TieWords::Seat> TieWords::join(CudaState& state, cudaStream_t callers, std::uint32_t index, std::uint32_t ticket, bool sided) {
  const std::lock_guard lock(mutex_);
  const auto used = [](const Side& side) { return side.passes > 0; };
  auto side = sided ? std::find_if(sides_.begin(), sides_.end(), [&](const Side& s) { return used(s) && s.user == index; }) : sides_.end();
  const bool another = sided && side == sides_.end();
  const auto waiting = waiting_.size() + static_cast<std::size_t>(std::count_if(sides_.begin(), sides_.end(), used));
  if (waiting + (waiting_.contains(callers) ? 0 : 1) + (another ? 1 : 0) > sides_.size()) {
    return Status(Code::resource_exhausted,
                  "more than " + std::to_string(sides_.size()) +
                      " streams would wait for passes, those of inputs-consumed events among them; with more of the device's " +
                      std::to_string(hardware_queues()) +
                      " queues blocked (CUDA_DEVICE_MAX_CONNECTIONS, 32 at most) all could stop for good: wait for a pass, or enqueue on "
                      "fewer streams");
  }
  Seat seat;
  if (events_.empty()) {
    FB_TRY(state.errors.check(cudaEventCreateWithFlags(&seat.arrived, cudaEventDisableTiming), "creating an event"));
  } else {
    seat.arrived = events_.back();
    events_.pop_back();
  }
  if (another) side = std::find_if_not(sides_.begin(), sides_.end(), used);
  if (sided) {
    side->user = index;
    ++side->passes;
    seat.side = side->stream;
  }
  ++waiting_[callers];
  seat.place = ++last_place_;
  places_.emplace(seat.place, Place{callers, index, ticket});
  return seat;
}

void TieWords::leave(const Seat& seat) {
  const std::lock_guard lock(mutex_);
  const auto place = places_.find(seat.place);
  const auto callers = waiting_.find(place->second.callers);
  if (--callers->second == 0) waiting_.erase(callers);
  places_.erase(place);
  for (Side& side : sides_) {
    if (side.stream == seat.side) --side.passes;
  }
  events_.push_back(seat.arrived);
  left_.notify_all();
}

// A pass that is under way may have let its stream go.
bool TieWords::nobody_waits() {
  const std::lock_guard lock(mutex_);
  return std::all_of(places_.begin(), places_.end(), [&](const auto& place) {
    const auto [callers, index, ticket] = place.second;
    return static_cast<std::int32_t>(std::atomic_ref(pairs_[index].finished).load() - ticket) >= 0;
  });
}

bool TieWords::when_quiet(const std::function<void()>& work) {
  constexpr auto kMost = std::chrono::seconds(1);
  constexpr auto kPoll = std::chrono::microseconds(200);
  const auto until = std::chrono::steady_clock::now() + kMost;
  bool done = false;
  while (!done && std::chrono::steady_clock::now() < until) {
    if (const Quiet quiet(*this); quiet) {
      work();
      done = true;
    }
    if (!done) {
      hold_door(until);
      std::this_thread::sleep_for(kPoll);
    }
  }
  open_door();
  return done;
}

void TieWords::hold_door(std::chrono::steady_clock::time_point until) {
  const std::lock_guard lock(mutex_);
  door_ = until;
}

bool TieWords::quiet_may_come() {
  const std::lock_guard lock(mutex_);
  return in_vain_ < kMostInVain || places_.size() == 1;
}

void TieWords::close_door() {
  constexpr auto kClosed = std::chrono::milliseconds(20);
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (now < door_ || in_vain_ == kMostInVain) return;
  door_ = now + kClosed;
  ++in_vain_;
}

void TieWords::open_door() {
  const std::lock_guard lock(mutex_);
  door_ = {};
  in_vain_ = 0;
  left_.notify_all();
}

void TieWords::await_door() {
  std::unique_lock lock(mutex_);
  while (!places_.empty() && std::chrono::steady_clock::now() < door_) left_.wait_until(lock, door_);
}

bool TieWords::oldest_soon(std::uint64_t place) {
  constexpr auto kPoll = std::chrono::microseconds(50);
  std::unique_lock lock(mutex_);
  return left_.wait_for(lock, kPoll, [&] { return places_.begin()->first >= place; });
}

Result<std::unique_ptr<PassTie>> CudaTie::create(std::shared_ptr<CudaState> state, std::shared_ptr<TieWords> words) {
  if (state->driver.wait_value == nullptr || state->driver.write_value == nullptr)
    return Status(Code::unavailable, "the CUDA driver has no stream memory operations: passes cannot be enqueued on a stream");
  if (hardware_queues() < kLeastQueues) {
    return Status(Code::unavailable, "CUDA_DEVICE_MAX_CONNECTIONS is " + std::to_string(hardware_queues()) +
                                         ": a stream that waits for a pass would block it; " + std::to_string(kLeastQueues) +
                                         " are needed to enqueue on streams");
  }
  std::unique_ptr<CudaTie> tie(new CudaTie(std::move(state), std::move(words)));
  FB_TRY(tie->state_->errors.check(cudaSetDevice(tie->state_->ordinal), "choosing the device"));
  FB_ASSIGN(tie->index_, tie->words_->take(*tie->state_, &tie->pair_));
  // The words go on from where the last user left them.
  tie->last_ticket_ = std::atomic_ref<std::uint32_t>(tie->pair_->finished).load();
  return std::unique_ptr<PassTie>(std::move(tie));
}

CudaTie::~CudaTie() {
  if (pair_ == nullptr) return;
  release(last_ticket_);  // of an attach that failed
  words_->give(index_);
}

Result<std::uint32_t> CudaTie::attach(void* stream, void* consumed) {
  FB_TRY(state_->errors.check(cudaSetDevice(state_->ordinal), "choosing the device"));
  const auto callers = static_cast<cudaStream_t>(stream);
  words_->await_door();
  const std::lock_guard attaching(words_->attach_mutex());
  FB_ASSIGN(const TieWords::Seat seat, words_->join(*state_, callers, index_, last_ticket_ + 1, consumed != nullptr));
  const std::uint32_t ticket = ++last_ticket_;
  {
    const std::lock_guard lock(mutex_);
    seats_.emplace(ticket, seat);
  }
  Status status = state_->errors.check(cudaEventRecord(seat.arrived, callers), "recording an event on the caller's stream");
  if (consumed != nullptr) {
    const auto record = [&] {
      if (!status.ok()) return;
      status = state_->errors.check(cudaEventRecord(static_cast<cudaEvent_t>(consumed), seat.side), "recording the inputs-consumed event");
    };
    record();  // one that cannot be must not leave the side stream, which others will use, waiting
    if (status.ok()) {
      status = state_->errors.check(state_->driver.wait_value(seat.side, address_of(&pair_->consumed), ticket, CU_STREAM_WAIT_VALUE_GEQ),
                                    "waiting for inputs");
    }
    record();
  }
  // Last: when it is refused, nobody waits for a pass that will not come.
  if (status.ok()) {
    status = state_->errors.check(state_->driver.wait_value(callers, address_of(&pair_->finished), ticket, CU_STREAM_WAIT_VALUE_GEQ),
                                  "making the caller's stream wait for a pass");
  }
  if (status.ok()) return ticket;
  forget(ticket);
  return status;
}

TieWords::Seat CudaTie::seat_of(std::uint32_t ticket) {
  const std::lock_guard lock(mutex_);
  const auto at = seats_.find(ticket);
  return at == seats_.end() ? TieWords::Seat() : at->second;
}

void CudaTie::await_turn(std::uint32_t ticket) {
  const TieWords::Seat seat = seat_of(ticket);
  if (seat.arrived == nullptr || !state_->errors.check(cudaSetDevice(state_->ordinal), "choosing the device").ok()) return;
  while (cudaEventQuery(seat.arrived) == cudaErrorNotReady && !words_->oldest_soon(seat.place)) {
  }
}

Status CudaTie::begin(std::uint32_t ticket) {
  const TieWords::Seat seat = seat_of(ticket);
  if (seat.arrived == nullptr) return Status(Code::internal, "a pass that was never attached begins");
  return state_->errors.check(cudaStreamWaitEvent(queue_stream(), seat.arrived, 0), "waiting for the caller's stream");
}

Status CudaTie::write(std::uint32_t* word, std::uint32_t value) {
  return state_->errors.check(state_->driver.write_value(queue_stream(), address_of(word), value, CU_STREAM_WRITE_VALUE_DEFAULT),
                              "telling the caller's stream");
}

Status CudaTie::consume(std::uint32_t ticket) {
  return write(&pair_->consumed, ticket);
}
// With something to do behind the pass its end is awaited first: whoever attaches another one has to wait for that alone.
Status CudaTie::finish(std::uint32_t ticket, const std::function<void()>& behind) {
  const auto let_go = [&] { return write(&pair_->finished, ticket); };
  const auto await = [&] { return state_->errors.check(cudaStreamSynchronize(queue_stream()), "work of the device"); };
  if (!behind || !words_->quiet_may_come()) return let_go();
  FB_TRY(await());
  const std::unique_lock attaching(words_->attach_mutex(), std::try_to_lock);
  FB_TRY(let_go());
  if (!attaching.owns_lock()) return {};
  if (last_ticket_ == ticket) FB_TRY(await());
  if (!words_->nobody_waits()) {
    words_->close_door();
    return {};
  }
  behind();
  words_->open_door();
  return {};
}

void CudaTie::release(std::uint32_t ticket) {
  raise(&pair_->consumed, ticket);
  raise(&pair_->finished, ticket);
  forget(ticket);
}

void CudaTie::forget(std::uint32_t ticket) {
  const std::lock_guard lock(mutex_);
  const auto at = seats_.find(ticket);
  if (at == seats_.end()) return;
  words_->leave(at->second);
  seats_.erase(at);
}

std::unique_ptr<Queue> make_capture_queue(cudaStream_t stream, std::shared_ptr<CudaState> state) {
  return std::make_unique<CaptureQueue>(stream, std::move(state));
}

}  // namespace forebay::cuda
