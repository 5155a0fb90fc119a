#include "api/engine_state.h"
#include "base/check.h"

namespace forebay {

ExecutionContext::ExecutionContext(std::unique_ptr<State> state) : state_(std::move(state)) {}
ExecutionContext::~ExecutionContext() = default;
ExecutionContext::ExecutionContext(ExecutionContext&&) noexcept = default;
ExecutionContext& ExecutionContext::operator=(ExecutionContext&&) noexcept = default;

Status ExecutionContext::set_input(std::string_view name, ConstTensorView tensor) { return state_->core->set_input(name, tensor); }
Status ExecutionContext::bind_input(std::string_view name, ConstTensorView tensor) { return state_->core->bind_input(name, tensor); }
Status ExecutionContext::bind_output(std::string_view name, TensorView tensor) { return state_->core->bind_output(name, tensor); }
Status ExecutionContext::enqueue(StreamHandle stream, EventHandle inputs_consumed) { return state_->core->enqueue(stream, inputs_consumed); }
Status ExecutionContext::wait() { return state_->core->wait(); }
Status ExecutionContext::wait_inputs() { return state_->core->wait_inputs(); }
Status ExecutionContext::execute() { return state_->core->execute(); }

Result<HostTensor> ExecutionContext::output(std::string_view name) const {
  FB_ASSIGN(const HostTensor* tensor, state_->core->output(name));
  return tensor->clone();
}

Status ExecutionContext::bind_state(std::string_view output, std::string_view input) { return state_->core->bind_state(output, input); }
Status ExecutionContext::reset_state() { return state_->core->reset_state(); }
Status ExecutionContext::set_debug(DebugCallback callback, const std::vector<std::string>& names) {
  return state_->core->set_debug(std::move(callback), names);
}
void ExecutionContext::set_profiling(bool on) { state_->core->set_profiling(on); }
const PassProfile& ExecutionContext::profile() const { return state_->core->profile(); }

}  // namespace forebay
