// Invariant: an arrival's event is recorded again only after its pass has ended.
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

TieWords::~TieWords() {
  if (pairs_ != nullptr) cudaFreeHost(pairs_);
}

Result<std::uint32_t> TieWords::take(Pair** words) {
  const std::lock_guard lock(mutex_);
  if (pairs_ == nullptr) {
    void* memory = nullptr;
    FB_TRY(state_->errors.check(cudaHostAlloc(&memory, kPairs * sizeof(Pair), cudaHostAllocMapped | cudaHostAllocPortable),
                                "page-locking the words of enqueued passes"));
    pairs_ = static_cast<Pair*>(memory);
    std::fill_n(pairs_, kPairs, Pair());
    for (std::uint32_t i = kPairs; i-- > 0;) free_.push_back(i);
  }
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

Result<std::uint64_t> TieWords::join(cudaStream_t callers, cudaStream_t side) {
  const auto most = static_cast<std::size_t>(hardware_queues() / 2);
  const std::lock_guard lock(mutex_);
  const std::size_t more = (waiting_.contains(callers) ? 0 : 1) + (side == nullptr || waiting_.contains(side) ? 0 : 1);
  if (waiting_.size() + more > most) {
    return Status(Code::resource_exhausted,
                  "more than " + std::to_string(most) +
                      " streams would wait for passes, those of inputs-consumed events among them; with more of the device's " +
                      std::to_string(hardware_queues()) +
                      " queues blocked (CUDA_DEVICE_MAX_CONNECTIONS, 32 at most) all could stop for good: wait for a pass, or enqueue on "
                      "fewer streams");
  }
  ++waiting_[callers];
  if (side != nullptr) ++waiting_[side];
  places_[++last_place_] = {callers, side};
  return last_place_;
}

void TieWords::leave(std::uint64_t place) {
  const std::lock_guard lock(mutex_);
  for (const cudaStream_t stream : places_[place]) {
    const auto at = waiting_.find(stream);
    if (at != waiting_.end() && --at->second == 0) waiting_.erase(at);
  }
  places_.erase(place);
  left_.notify_all();
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
  FB_ASSIGN(tie->index_, tie->words_->take(&tie->pair_));
  int lowest = 0, highest = 0;
  ErrorKeeper& errors = tie->state_->errors;
  FB_TRY(errors.check(cudaSetDevice(tie->state_->ordinal), "choosing the device"));
  FB_TRY(errors.check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for stream priorities"));
  FB_TRY(errors.check(cudaStreamCreateWithPriority(&tie->side_, cudaStreamNonBlocking, lowest), "creating a stream"));
  // The words go on from where the last user left them.
  tie->last_ticket_ = std::atomic_ref<std::uint32_t>(tie->pair_->finished).load();
  return std::unique_ptr<PassTie>(std::move(tie));
}

CudaTie::~CudaTie() {
  if (pair_ != nullptr) release(last_ticket_);  // of an attach that failed
  if (side_ != nullptr) {
    cudaStreamSynchronize(side_);
    cudaStreamDestroy(side_);
  }
  for (const Arrival& arrival : arrivals_) cudaEventDestroy(arrival.event);
  if (pair_ != nullptr) words_->give(index_);
}

Result<cudaEvent_t> CudaTie::take_arrival(std::uint32_t ticket, std::uint64_t place) {
  const std::lock_guard lock(mutex_);
  auto at = std::find_if(arrivals_.begin(), arrivals_.end(), [](const Arrival& arrival) { return !arrival.taken; });
  if (at == arrivals_.end()) {
    cudaEvent_t event = nullptr;
    FB_TRY(state_->errors.check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event"));
    at = arrivals_.insert(at, Arrival{0, event, 0, false});
  }
  at->taken = true;
  at->ticket = ticket;
  at->place = place;
  return at->event;
}

Result<std::uint32_t> CudaTie::attach(void* stream, void* consumed) {
  FB_TRY(state_->errors.check(cudaSetDevice(state_->ordinal), "choosing the device"));
  const auto callers = static_cast<cudaStream_t>(stream);
  const std::uint32_t ticket = last_ticket_ + 1;
  const std::lock_guard attaching(words_->attach_mutex());
  FB_ASSIGN(const std::uint64_t place, words_->join(callers, consumed != nullptr ? side_ : nullptr));
  auto taken = take_arrival(ticket, place);
  if (!taken.ok()) {
    words_->leave(place);
    return std::move(taken).status();
  }
  const cudaEvent_t arrived = *taken;
  last_ticket_ = ticket;
  Status status = state_->errors.check(cudaEventRecord(arrived, callers), "recording an event on the caller's stream");
  if (status.ok() && consumed != nullptr) {
    status = state_->errors.check(state_->driver.wait_value(side_, address_of(&pair_->consumed), ticket, CU_STREAM_WAIT_VALUE_GEQ),
                                  "waiting for inputs");
    if (status.ok())
      status = state_->errors.check(cudaEventRecord(static_cast<cudaEvent_t>(consumed), side_), "recording the inputs-consumed event");
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

CudaTie::Arrival CudaTie::arrival_of(std::uint32_t ticket) {
  const std::lock_guard lock(mutex_);
  const auto at = std::find_if(arrivals_.begin(), arrivals_.end(), [&](const Arrival& a) { return a.taken && a.ticket == ticket; });
  return at == arrivals_.end() ? Arrival() : *at;
}

void CudaTie::await_turn(std::uint32_t ticket) {
  const Arrival arrival = arrival_of(ticket);
  if (arrival.event == nullptr || !state_->errors.check(cudaSetDevice(state_->ordinal), "choosing the device").ok()) return;
  while (cudaEventQuery(arrival.event) == cudaErrorNotReady && !words_->oldest_soon(arrival.place)) {
  }
}

Status CudaTie::begin(std::uint32_t ticket) {
  const Arrival arrival = arrival_of(ticket);
  if (arrival.event == nullptr) return Status(Code::internal, "a pass that was never attached begins");
  return state_->errors.check(cudaStreamWaitEvent(queue_stream(), arrival.event, 0), "waiting for the caller's stream");
}

Status CudaTie::write(std::uint32_t* word, std::uint32_t value) {
  return state_->errors.check(state_->driver.write_value(queue_stream(), address_of(word), value, CU_STREAM_WRITE_VALUE_DEFAULT),
                              "telling the caller's stream");
}

Status CudaTie::consume(std::uint32_t ticket) {
  return write(&pair_->consumed, ticket);
}
Status CudaTie::finish(std::uint32_t ticket) {
  return write(&pair_->finished, ticket);
}

void CudaTie::release(std::uint32_t ticket) {
  raise(&pair_->consumed, ticket);
  raise(&pair_->finished, ticket);
  forget(ticket);
}

void CudaTie::forget(std::uint32_t ticket) {
  const std::lock_guard lock(mutex_);
  for (Arrival& arrival : arrivals_) {
    if (!arrival.taken || arrival.ticket != ticket) continue;
    arrival.taken = false;
    words_->leave(arrival.place);
  }
}

std::unique_ptr<Queue> make_capture_queue(cudaStream_t stream, std::shared_ptr<CudaState> state) {
  return std::make_unique<CaptureQueue>(stream, std::move(state));
}

}  // namespace forebay::cuda
