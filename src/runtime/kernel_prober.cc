// Times kernels on a device that can tell: operands of one call, the weight's slab alone, in an arena of the prober's own.
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/kernel_choice.h"
#include "runtime/prepared_pass.h"
#include "runtime/run_timer.h"

namespace forebay {
namespace {

constexpr std::uint64_t kAlign = 256;
constexpr std::size_t kPattern = 1 << 20;

// Bytes that are small finite numbers in every float type: arithmetic on zeros takes less power than the real thing, and runs faster.
std::vector<std::byte> pattern() {
  std::vector<std::byte> bytes(kPattern);
  std::uint64_t state = 1;
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<std::byte>(0x30u | ((state >> 57) & 0x8fu));
  }
  return bytes;
}

class DeviceProber final : public KernelProber {
 public:
  DeviceProber(Device& device, RunTimer& timer, std::uint64_t budget) : device_(device), timer_(timer), pattern_(pattern()) {
    budget_ = align_down(budget, device.info().granule);
  }
  Status open() {
    FB_ASSIGN(arena_, device_.reserve_arena(std::max(budget_, device_.info().granule)));
    FB_ASSIGN(queue_, device_.create_queue("prober", 64));
    return {};
  }

  Result<double> microseconds(PreparedStep& step) override {
    KernelCall call = step.kernel_calls.at(0);
    std::uint64_t bytes = place(step, call, nullptr);
    if (bytes > budget_)
      return Status(Code::resource_exhausted, "node '" + step.name + "' needs " + std::to_string(bytes) +
                                                  " bytes to be timed, the budget has " + std::to_string(budget_));
    const std::uint64_t wanted = align_up(bytes, device_.info().granule);
    if (wanted > committed_) {
      FB_TRY(arena_->commit(0, wanted));
      for (std::uint64_t at = committed_; at < wanted; at += kPattern)
        queue_->copy(arena_->base() + at, pattern_.data(), std::min<std::uint64_t>(kPattern, wanted - at));
      committed_ = wanted;
    }
    place(step, call, arena_->base());
    call.inputs = inputs_;
    call.outputs = outputs_;
    Probe probe{this, step.kernel.get(), &call, Result<double>(0.0)};
    queue_->launch(
        [](void* argument) {
          Probe& p = *static_cast<Probe*>(argument);
          p.time = p.self->timer_.time_calls([&p] { return p.kernel->run(*p.call); });
          return Status();
        },
        &probe);
    Status status = queue_->synchronize();
    if (!status.ok()) queue_->clear_error();
    FB_TRY(std::move(status));
    return probe.time;
  }

 private:
  struct Probe {
    DeviceProber* self;
    Kernel* kernel;
    KernelCall* call;
    Result<double> time;
  };

  // Addresses of operands and workspace from `base` on; gives the bytes they take.
  std::uint64_t place(const PreparedStep& step, KernelCall& call, std::byte* base) {
    constexpr std::uint64_t kTooMany = std::uint64_t{1} << 56;  // more than any budget
    std::uint64_t at = 0;
    const auto next = [&](std::uint64_t bytes) {
      std::byte* const here = base == nullptr ? nullptr : base + at;
      at += align_up(std::max<std::uint64_t>(1, bytes), kAlign);
      return here;
    };
    inputs_.assign(call.inputs.begin(), call.inputs.end());
    outputs_.assign(step.outputs.begin(), step.outputs.end());
    for (ConstTensorView& view : inputs_)
      view.data = view.present() ? next(dtype_bytes(view.dtype, view.shape.elements()).value_or(kTooMany)) : nullptr;
    for (TensorView& view : outputs_)
      view.data = view.present() ? next(dtype_bytes(view.dtype, view.shape.elements()).value_or(kTooMany)) : nullptr;
    call.workspace_bytes = step.kernel->workspace_bytes();
    call.workspace = next(call.workspace_bytes);
    return at;
  }

  Device& device_;
  RunTimer& timer_;
  const std::vector<std::byte> pattern_;
  std::uint64_t budget_ = 0, committed_ = 0;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Queue> queue_;
  std::vector<ConstTensorView> inputs_;
  std::vector<TensorView> outputs_;
};

}  // namespace

Result<std::unique_ptr<KernelProber>> create_prober(Device& device, std::uint64_t budget_bytes) {
  auto* const timer = dynamic_cast<RunTimer*>(&device);
  if (timer == nullptr) return Status(Code::unsupported, "the device '" + device.info().kind + "' does not time kernels");
  auto prober = std::make_unique<DeviceProber>(device, *timer, budget_bytes);
  FB_TRY(prober->open());
  return std::unique_ptr<KernelProber>(std::move(prober));
}

}  // namespace forebay
