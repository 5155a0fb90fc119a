// Times kernels on a device that can tell, in an arena of the prober's own. Weights lie several times over, and calls take them by turns:
// in a pass they come from memory, while what was just computed is in the device's cache.
#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/kernel_choice.h"
#include "runtime/merged_kernel.h"
#include "runtime/prepared_pass.h"
#include "runtime/run_timer.h"
#include "runtime/trial_bytes.h"

namespace forebay {
namespace {

constexpr std::uint64_t kAlign = 256;
constexpr std::uint64_t kBeyondCaches = 160 << 20;
constexpr std::uint64_t kMostSets = 64;  // calls of a measurement

class DeviceProber final : public KernelProber {
 public:
  DeviceProber(Device& device, RunTimer& timer, std::uint64_t budget) : device_(device), timer_(timer), pattern_(trial_bytes()) {
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
    const std::size_t together = merging != nullptr && merging->merges() ? std::min(all.size(), kMostMerged) : 1;
    const std::span<const KernelCall> calls = all.first(together);
    const std::uint64_t bytes = find_room(step, calls);
    if (bytes > budget_)
      return Status(Code::resource_exhausted, "node '" + step.name + "' needs " + std::to_string(bytes) +
                                                  " bytes to be timed, the budget has " + std::to_string(budget_));
    const std::uint64_t wanted = align_up(bytes, device_.info().granule);
    if (wanted > committed_) {
      FB_TRY(arena_->commit(0, wanted));
      for (std::uint64_t at = committed_; at < wanted; at += pattern_.size())
        queue_->copy(arena_->base() + at, pattern_.data(), std::min<std::uint64_t>(pattern_.size(), wanted - at));
      committed_ = wanted;
    }
    place(step, calls, arena_->base());
    Probe probe{this, step.kernel.get(), together > 1 ? merging : nullptr, Result<double>(0.0)};
    queue_->launch(
        [](void* argument) {
          Probe& p = *static_cast<Probe*>(argument);
          std::size_t next = 0;
          p.time = p.self->timer_.time_calls([&] {
            const std::vector<KernelCall>& now = p.self->sets_[next++ % p.self->sets_.size()].calls;
            return p.merging != nullptr ? p.merging->run_merged(now) : p.kernel->run(now[0]);
          });
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

  struct Set {
    std::vector<KernelCall> calls;
    std::vector<std::vector<ConstTensorView>> inputs;  // of each call
  };

  static bool is_weight(const PreparedStep& step, std::size_t input) {
    return std::any_of(step.step->weights.begin(), step.step->weights.end(), [&](const WeightOperand& w) { return w.input == input; });
  }
  static std::uint64_t room_of(const auto& view) {
    constexpr std::uint64_t kTooMany = std::uint64_t{1} << 48;  // more than any budget
    return view.present() ? align_up(std::max<std::uint64_t>(1, dtype_bytes(view.dtype, view.shape.elements()).value_or(kTooMany)), kAlign)
                          : 0;
  }
  // As many sets of weights as it takes, or as the budget has room for; the first slab's bytes stand for all where it has none for one set.
  // Gives the bytes of everything.
  std::uint64_t find_room(const PreparedStep& step, std::span<const KernelCall> calls) {
    std::uint64_t fixed = align_up(std::max<std::uint64_t>(1, step.kernel->workspace_bytes()), kAlign), first = 0, weights = 0;
    for (const TensorView& view : step.outputs) fixed += room_of(view);
    for (const KernelCall& call : calls) {
      for (std::size_t i = 0; i < call.inputs.size(); ++i) {
        if (is_weight(step, i)) {
          weights += room_of(call.inputs[i]);
          first += &call == calls.data() ? room_of(call.inputs[i]) : 0;
        } else if (&call == calls.data()) {
          fixed += room_of(call.inputs[i]);
        }
      }
    }
    one_slab_ = fixed + weights > budget_;
    const std::uint64_t each = one_slab_ ? first : weights, room = budget_ - std::min(budget_, fixed);
    const std::uint64_t sets = each == 0 ? 1 : std::clamp<std::uint64_t>(std::min(kBeyondCaches, room) / each, 1, kMostSets);
    sets_.assign(static_cast<std::size_t>(sets), Set());
    return fixed + sets * each;
  }
  // Addresses of all that find_room counted.
  void place(const PreparedStep& step, std::span<const KernelCall> calls, std::byte* at) {
    const auto next = [&](std::uint64_t bytes) { return std::exchange(at, at + bytes); };
    outputs_.assign(step.outputs.begin(), step.outputs.end());
    for (TensorView& view : outputs_) view.data = next(room_of(view));
    const std::uint64_t bytes = step.kernel->workspace_bytes();
    std::byte* const workspace = next(align_up(std::max<std::uint64_t>(1, bytes), kAlign));
    for (Set& set : sets_) {
      set.calls.assign(calls.begin(), calls.end());
      for (std::size_t c = 0; c < calls.size(); ++c) {
        std::vector<ConstTensorView>& inputs = set.inputs.emplace_back(calls[c].inputs.begin(), calls[c].inputs.end());
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          if (!inputs[i].present()) continue;
          const Set& shared = is_weight(step, i) ? set : sets_.front();
          const bool own = is_weight(step, i) ? c == 0 || !one_slab_ : c == 0 && &set == &sets_.front();
          inputs[i].data = own ? next(room_of(inputs[i])) : shared.inputs.front()[i].data;
        }
      }
      for (std::size_t c = 0; c < calls.size(); ++c) {
        set.calls[c].inputs = set.inputs[c];
        set.calls[c].outputs = outputs_;
        set.calls[c].workspace = workspace;
        set.calls[c].workspace_bytes = bytes;
      }
    }
  }

  Device& device_;
  RunTimer& timer_;
  const std::vector<std::byte> pattern_;
  std::uint64_t budget_ = 0, committed_ = 0;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Queue> queue_;
  std::vector<Set> sets_;
  bool one_slab_ = false;
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
