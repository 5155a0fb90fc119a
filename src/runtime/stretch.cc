#include "runtime/stretch.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "runtime/merged_kernel.h"
#include "runtime/pass_runner.h"

namespace forebay {

namespace {

bool overlap(const std::byte* a, std::uint64_t a_bytes, const std::byte* b, std::uint64_t b_bytes) {
  return a != nullptr && b != nullptr && a < b + b_bytes && b < a + a_bytes;
}

template <typename View>
bool writes_over(const TensorView& output, const View& other) {
  return overlap(output.data, dtype_bytes(output.dtype, output.shape.elements()).value_or(0),
                 other.data, dtype_bytes(other.dtype, other.shape.elements()).value_or(0));
}

// Nothing that `writer` writes is read or written by `other`.
bool apart(const Launch& writer, const Launch& other) {
  if (writer.call->workspace != nullptr || other.call->workspace != nullptr) return false;
  for (const TensorView& output : writer.call->outputs) {
    for (const TensorView& theirs : other.call->outputs) {
      if (writes_over(output, theirs)) return false;
    }
    for (std::uint32_t c = 0; c < other.merged; ++c) {
      for (const ConstTensorView& input : other.call[c].inputs) {
        if (writes_over(output, input)) return false;
      }
    }
  }
  return true;
}

}  // namespace

void Stretch::begin(ReplayDevice* device) {
  device_ = device;
  launches_.clear();
  key_.clear();
}

// Shapes and kernels belong to the prepared pass, as the stretch does: only addresses can differ
// from one pass to the next.
void Stretch::add(Launch& launch) {
  launches_.push_back(&launch);
  key_.push_back(&launch);
  for (std::uint32_t c = 0; c < launch.merged; ++c) {
    const KernelCall& call = launch.call[c];
    for (const ConstTensorView& input : call.inputs) key_.push_back(input.data);
    for (const TensorView& output : call.outputs) key_.push_back(output.data);
    key_.push_back(call.workspace);
  }
}

Status Stretch::run_all(void* stretch) {
  const auto& launches = static_cast<Stretch*>(stretch)->launches_;
  for (std::size_t i = 0; i < launches.size(); ++i) {
    if (i + 1 < launches.size() && !launches[i]->clock->on && !launches[i]->clock->sync) {
      FB_ASSIGN(const bool both, run_pair(*launches[i], *launches[i + 1]));
      if (both) {
        ++i;
        continue;
      }
    }
    FB_TRY(PassRunner::run_launch(launches[i]));
  }
  return {};
}

// Sums of neither depend on what else a launch holds, so whether they share one changes no bit.
Result<bool> Stretch::run_pair(const Launch& one, const Launch& next) {
  auto* const paired = dynamic_cast<PairedKernel*>(one.kernel);
  if (paired == nullptr || dynamic_cast<PairedKernel*>(next.kernel) == nullptr ||
      !apart(one, next) || !apart(next, one))
    return false;
  auto both = paired->run_pair({one.call, one.merged}, *next.kernel, {next.call, next.merged});
  if (!both.ok())
    return std::move(both).status().with_context("nodes '" + one.step->name + "' and '" +
                                                 next.step->name + "'");
  return both;
}

// Recorded when it comes a second time: what never comes again, as with a cache that grows, is not
// worth it.
Status Stretch::run(void* argument) {
  auto& stretch = *static_cast<Stretch*>(argument);
  const PassClock& clock = *stretch.launches_.front()->clock;
  if (clock.on || clock.sync || stretch.launches_.size() < kLeast) return run_all(argument);
  auto& kept = stretch.kept_;
  const auto found =
      std::find_if(kept.begin(), kept.end(), [&](const Kept& k) { return k.key == stretch.key_; });
  if (found == kept.end()) {
    if (kept.size() == kKept) kept.pop_back();
    kept.insert(kept.begin(), Kept{stretch.key_, nullptr, false});
    return run_all(argument);
  }
  std::rotate(kept.begin(), found, found + 1);
  Kept& now = kept.front();
  if (now.recording == nullptr && !now.refused) {
    now.recording = stretch.device_->record(&Stretch::run_all, argument);
    now.refused = now.recording == nullptr;
  }
  return now.refused ? run_all(argument) : stretch.device_->replay(*now.recording);
}

}  // namespace forebay
