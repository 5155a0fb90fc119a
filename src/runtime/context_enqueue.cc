// Passes that the caller does not wait for: a thread of the context runs them one after the other, tied to the caller's streams; and passes
// that become a part of the caller's own graph.
//
// Invariants: a call's inputs are not touched before it has consumed them; whoever waits for a call is let go whatever becomes of it; what
// a captured pass refers to stays where it is while its context lives.
#include <algorithm>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "runtime/dynamic_pass.h"
#include "runtime/engine_core.h"
#include "runtime/kernel_choice.h"
#include "runtime/pass_runner.h"

namespace forebay {
namespace {

using plan::kNone;

Status check_bound(const plan::Plan& plan, const std::vector<plan::ValueId>& ids, std::string_view what, std::string_view name, DType dtype,
                   const Shape& shape, const void* data, std::size_t* place) {
  const auto at = std::find_if(ids.begin(), ids.end(), [&](plan::ValueId id) { return plan.values[id].name == name; });
  const std::string shown = std::string(what) + " '" + std::string(name) + "'";
  if (at == ids.end()) return Status(Code::invalid_argument, "the plan has no " + shown);
  *place = static_cast<std::size_t>(at - ids.begin());
  if (dtype == DType::none) return {};
  if (plan.values[*at].dtype != dtype) {
    return Status(Code::invalid_argument, shown + " is " + std::string(dtype_name(plan.values[*at].dtype)) + ", the memory given is " +
                                              std::string(dtype_name(dtype)));
  }
  const auto bytes = checked_bytes(dtype, shape.dims());
  if (!bytes || (*bytes > 0 && data == nullptr)) return Status(Code::invalid_argument, shown + " has no memory or an impossible shape");
  return {};
}

}  // namespace

ContextCore::~ContextCore() {
  if (server_.joinable()) {
    {
      const std::lock_guard lock(calls_mutex_);
      stop_ = true;
      calls_changed_.notify_all();
    }
    server_.join();  // after what was enqueued has run
  }
  if (captured_) drop(captured_);
  engine_.forget(*this);
}

Status ContextCore::bind_input(std::string_view name, ConstTensorView tensor) {
  std::size_t i = 0;
  FB_TRY(check_bound(plan(), plan().graphs[0].inputs, "input", name, tensor.dtype, tensor.shape, tensor.data, &i));
  if (state_of_input(i) != nullptr)
    return Status(Code::invalid_argument, "input '" + std::string(name) + "' is a state: it stays in the engine's memory");
  bound_inputs_[i] = tensor;
  input_set_[i] = tensor.present();
  return {};
}

Status ContextCore::bind_output(std::string_view name, TensorView tensor) {
  std::size_t i = 0;
  FB_TRY(check_bound(plan(), plan().graphs[0].outputs, "output", name, tensor.dtype, tensor.shape, tensor.data, &i));
  if (is_state_output(i))
    return Status(Code::invalid_argument, "output '" + std::string(name) + "' is a state: it stays in the engine's memory");
  bound_outputs_[i] = tensor;
  return {};
}

Result<ContextCore::Call> ContextCore::next_call() const {
  Call call;
  call.inputs.resize(inputs_.size());
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (state_of_input(i) != nullptr) continue;
    if (!input_set_[i])
      return Status(Code::invalid_argument, "input '" + plan().values[plan().graphs[0].inputs[i]].name + "' has not been set");
    call.inputs[i] = bound_inputs_[i].present() ? bound_inputs_[i] : ConstTensorView(inputs_[i]);
  }
  call.outputs = bound_outputs_;
  return call;
}

// A library brings code to the device when it first runs a product, and that waits until all that the device was given has run: so also for
// the stream that is about to wait for this pass. What shapes that come for the first time need is loaded before. A failure is the pass's
// to tell.
void ContextCore::load_ahead(CallerStreams& streams, Call& call) {
  constexpr std::size_t kMost = 256, kMostGrowing = 8;  // a decoder's passes all have new shapes, and soon the same kernels
  std::vector<Shape> given;
  for (const ConstTensorView& input : call.inputs) given.push_back(input.shape);
  if (std::find(loaded_.begin(), loaded_.end(), given) != loaded_.end()) return;
  if (!states_.empty() && loaded_.size() == kMostGrowing) return;
  if (loaded_.size() == kMost) loaded_.pop_front();
  loaded_.push_back(std::move(given));
  if (!settle().ok()) return;
  call_ = &call;
  const auto shapes = shapes_now();
  if (!shapes.ok()) return;
  const auto serves = [&](const std::unique_ptr<PreparedPass>& pass) { return pass != nullptr && pass->input_shapes == *shapes; };
  std::unique_ptr<PreparedPass> made;
  if (!serves(prepared_) && !serves(next_)) {
    made = take_kept(*shapes);
    if (made == nullptr) {
      auto prepared = prepare_pass(engine_.share_compiled(), *shapes, engine_.pool(), bindings(), &engine_.device());
      if (!prepared.ok()) return;
      made = std::move(prepared).value();
    }
  }
  const PreparedPass& pass = made != nullptr ? *made : serves(prepared_) ? *prepared_ : *next_;
  if (!streams.when_quiet([&] { load_libraries(pass.main); })) loaded_.pop_back();  // the next call tries again
  if (made != nullptr && !made->dynamic) keep(std::move(made));
}

Status ContextCore::enqueue(void* stream, void* inputs_consumed) {
  auto* const streams = dynamic_cast<CallerStreams*>(&engine_.device());
  if (stream == nullptr && inputs_consumed != nullptr) return Status(Code::invalid_argument, "an inputs-consumed event needs a stream");
  if (stream != nullptr && streams == nullptr) {
    return Status(Code::invalid_argument, "the device '" + engine_.device().info().kind + "' has no streams: enqueue takes none there");
  }
  if (stream != nullptr) {
    FB_ASSIGN(const bool capturing, streams->capturing(stream));
    if (capturing) return capture(*streams, stream, inputs_consumed);
  }
  if (captured_) return Status(Code::failed_precondition, "this context's pass is captured: take another context");
  FB_ASSIGN(Call call, next_call());
  if (consumed_ == nullptr) {
    FB_ASSIGN(consumed_, engine_.device().create_timeline());
  }
  if (stream != nullptr && tie_ == nullptr) {
    FB_ASSIGN(tie_, streams->create_tie());
  }
  if (!server_.joinable()) {
    try {
      server_ = std::thread([this] { serve(); });
    } catch (const std::system_error& error) {
      return Status(Code::unavailable, std::string("no thread for enqueued passes: ") + error.what());
    }
  }
  if (stream != nullptr) {
    load_ahead(*streams, call);
    FB_ASSIGN(call.ticket, tie_->attach(stream, inputs_consumed));
    call.tie = tie_.get();
  }
  call.number = ++enqueued_;
  const std::lock_guard lock(calls_mutex_);
  calls_.push_back(std::move(call));
  calls_changed_.notify_all();
  return {};
}

void ContextCore::serve() {
  std::unique_lock lock(calls_mutex_);
  while (true) {
    calls_changed_.wait(lock, [&] { return stop_ || !calls_.empty(); });
    if (calls_.empty()) return;
    Call& call = calls_.front();
    lock.unlock();
    if (call.tie != nullptr) call.tie->await_turn(call.ticket);
    Status status = run_call(call);
    if (call.tie != nullptr) call.tie->release(call.ticket);
    consumed_->signal(call.number);
    lock.lock();
    if (failure_.ok()) failure_ = std::move(status);
    calls_.pop_front();
    calls_changed_.notify_all();
  }
}

Status ContextCore::settle() {
  if (captured_) return Status(Code::failed_precondition, "this context's pass is captured: take another context");
  if (!server_.joinable()) return {};
  std::unique_lock lock(calls_mutex_);
  calls_changed_.wait(lock, [&] { return calls_.empty(); });
  return {};
}

Status ContextCore::wait() {
  FB_TRY(settle());
  const std::lock_guard lock(calls_mutex_);
  return std::exchange(failure_, Status());
}

Status ContextCore::wait_inputs() {
  if (captured_) return Status(Code::failed_precondition, "this context's pass is captured: take another context");
  return enqueued_ > 0 ? consumed_->wait(enqueued_) : Status();
}

// What a graph can hold: launches and copies whose addresses stay.
Status ContextCore::check_capture() const {
  const auto refuse = [](const std::string& why) { return Status(Code::failed_precondition, "the pass cannot be captured: " + why); };
  if (!states_.empty()) return refuse("its states change places from pass to pass");
  if (debug_) return refuse("a debug callback is set");
  if (!engine_.source().fully_resident()) {
    const std::uint64_t needed = engine_.memory().no_stream_budget;
    return refuse("weights stream under this budget; with " + std::to_string(needed) + " bytes nothing streams");
  }
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (!bound_inputs_[i].present())
      return refuse("input '" + plan().values[plan().graphs[0].inputs[i]].name + "' is not in the caller's memory (bind_input)");
  }
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (bound_outputs_[i].data == nullptr)
      return refuse("output '" + plan().values[plan().graphs[0].outputs[i]].name + "' is not in the caller's memory (bind_output)");
  }
  FB_ASSIGN(const auto shapes, shapes_now());
  if (!prepared_ || prepared_->input_shapes != shapes)
    return refuse("run a pass of these shapes before, not captured, so that weights and memory are in place");
  if (prepared_->dynamic) return refuse("data decides shapes");
  for (const PreparedStep& step : prepared_->main.steps) {
    const std::string where = "node '" + step.name + "' (" + step.step->node->op + ")";
    if (step.step->kind == Step::Kind::control) return refuse(where + " decides on the host what runs");
    if (step.step->kind == Step::Kind::gather_rows) return refuse(where + " takes rows of a table that lies in host memory");
    if (step.kernel != nullptr && step.kernel->id().starts_with("host.")) return refuse(where + " runs on the host");
  }
  return {};
}

// Room for the pass and a lease that stay: from here on nothing moves.
Result<ContextCore::Captured> ContextCore::hold_pass() {
  Captured held;
  FB_ASSIGN(held.slot, engine_.take_slot());
  engine_.hold(*held.slot);
  auto lease = engine_.source().begin_pass();
  if (!lease.ok()) {
    engine_.give_slot(*held.slot);
    return std::move(lease).status();
  }
  held.lease = std::move(lease).value();
  if (held.lease->shared()) return held;
  drop(held);
  return Status(Code::failed_precondition,
                "the pass cannot be captured: its weights are not all in place; run a pass before, not captured");
}

void ContextCore::drop(Captured& held) {
  held.lease->end(false);
  engine_.give_slot(*held.slot);
  held = {};
}

Status ContextCore::capture(CallerStreams& streams, void* stream, void* inputs_consumed) {
  if (!captured_) FB_TRY(settle());
  FB_ASSIGN(Call call, next_call());
  call_ = &call;
  FB_TRY(check_capture());
  Captured held;
  if (!captured_) {
    FB_ASSIGN(held, hold_pass());
  }
  Captured& use = captured_ ? captured_ : held;
  clock_ = {};  // a captured launch is not looked at
  const std::unique_ptr<Queue> queue = streams.capture_queue(stream);
  PassRunner runner(engine_, *this, *use.slot, *use.lease, *queue);
  Status status = runner.record([&] { return inputs_consumed != nullptr ? streams.capture_event(stream, inputs_consumed) : Status(); });
  if (status.ok()) status = queue->synchronize();
  if (captured_) return status;
  if (status.ok()) {
    captured_ = std::move(held);
  } else {
    drop(held);
  }
  return status;
}

}  // namespace forebay
