// Times kernels on a device that can tell: operands of one call, one slab of the weight, in an arena of the prober's own.
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/kernel_choice.h"
#include "runtime/merged_kernel.h"
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
    auto* const merging = dynamic_cast<MergedKernel*>(step.kernel.get());
    const std::span<const KernelCall> all = step.kernel_calls;
    // What shares launches is timed so: the first slab's bytes stand for all of them.
    const std::size_t together = merging != nullptr && merging->merges() ? std::min(all.size(), kMostMerged) : 1;
    calls_.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(together));
    std::uint64_t bytes = place(step, nullptr);
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
    place(step, arena_->base());
    Probe probe{this, step.kernel.get(), together > 1 ? merging : nullptr, Result<double>(0.0)};
    queue_->launch(
        [](void* argument) {
          Probe& p = *static_cast<Probe*>(argument);
          const auto& calls = p.self->calls_;
          p.time = p.self->timer_.time_calls([&] { return p.merging != nullptr ? p.merging->run_merged(calls) : p.kernel->run(calls[0]); });
          return Status();
        },
        &probe);
    Status status = queue_->synchronize();
    if (!status.ok()) queue_->clear_error();
    FB_TRY(std::move(status));
    FB_ASSIGN(const double time, probe.time);
    return time * static_cast<double>(all.size()) / static_cast<double>(together);
  }

 private:
  struct Probe {
    DeviceProber* self;
    Kernel* kernel;
    MergedKernel* merging;  // null: the first call alone
    Result<double> time;
  };

  // Addresses of operands and workspace from `base` on, the same for every call; gives the bytes they take.
  std::uint64_t place(const PreparedStep& step, std::byte* base) {
    constexpr std::uint64_t kTooMany = std::uint64_t{1} << 56;  // more than any budget
    std::uint64_t at = 0;
    const auto next = [&](std::uint64_t bytes) {
      std::byte* const here = base == nullptr ? nullptr : base + at;
      at += align_up(std::max<std::uint64_t>(1, bytes), kAlign);
      return here;
    };
    inputs_.clear();
    for (std::size_t i = 0; i < calls_.size(); ++i) inputs_.emplace_back(step.kernel_calls[i].inputs.begin(), step.kernel_calls[i].inputs.end());
    outputs_.assign(step.outputs.begin(), step.outputs.end());
    for (std::size_t i = 0; i < inputs_[0].size(); ++i) {
      const ConstTensorView& view = inputs_[0][i];
      std::byte* const here = view.present() ? next(dtype_bytes(view.dtype, view.shape.elements()).value_or(kTooMany)) : nullptr;
      for (auto& inputs : inputs_) inputs[i].data = here;
    }
    for (TensorView& view : outputs_)
      view.data = view.present() ? next(dtype_bytes(view.dtype, view.shape.elements()).value_or(kTooMany)) : nullptr;
    const std::uint64_t bytes = step.kernel->workspace_bytes();
    std::byte* const workspace = next(bytes);
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      calls_[i].inputs = inputs_[i];
      calls_[i].outputs = outputs_;
      calls_[i].workspace = workspace;
      calls_[i].workspace_bytes = bytes;
    }
    return at;
  }

  Device& device_;
  RunTimer& timer_;
  const std::vector<std::byte> pattern_;
  std::uint64_t budget_ = 0, committed_ = 0;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Queue> queue_;
  std::vector<KernelCall> calls_;
  std::vector<std::vector<ConstTensorView>> inputs_;  // of each call
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
