#include "runtime/stretch.h"

#include <algorithm>
#include <array>
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
  return overlap(output.data, dtype_bytes(output.dtype, output.shape.elements()).value_or(0), other.data,
                 dtype_bytes(other.dtype, other.shape.elements()).value_or(0));
}

bool uses_workspace(const Launch& launch) {
  const auto* const grouped = dynamic_cast<const GroupedKernel*>(launch.kernel);
  return grouped != nullptr ? grouped->uses_workspace({launch.call, launch.merged}) : launch.call->workspace != nullptr;
}

// Nothing that `writer` writes is read or written by `other`.
bool apart(const Launch& writer, const Launch& other) {
  if (uses_workspace(writer) || uses_workspace(other)) return false;
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
  const std::span<Launch* const> launches = static_cast<Stretch*>(stretch)->launches_;
  for (std::size_t i = 0; i < launches.size();) {
    FB_ASSIGN(const std::size_t together, run_group(launches.subspan(i)));
    if (together == 0) FB_TRY(PassRunner::run_launch(launches[i]));
    i += std::max<std::size_t>(1, together);
  }
  return {};
}

// Sums of none depend on what else a launch holds, so whether they share one changes no bit.
Result<std::size_t> Stretch::run_group(std::span<Launch* const> launches) {
  auto* const grouped = dynamic_cast<GroupedKernel*>(launches[0]->kernel);
  if (grouped == nullptr || launches[0]->clock->on || launches[0]->clock->sync) return std::size_t{0};
  std::array<GroupedKernel::Member, GroupedKernel::kMost> members;
  std::size_t count = 0;
  for (const Launch* launch : launches.first(std::min(launches.size(), members.size()))) {
    if (dynamic_cast<GroupedKernel*>(launch->kernel) == nullptr) break;
    const auto earlier = launches.first(count);
    if (!std::all_of(earlier.begin(), earlier.end(), [&](const Launch* e) { return apart(*e, *launch) && apart(*launch, *e); })) break;
    members[count++] = {launch->kernel, {launch->call, launch->merged}};
  }
  if (count < 2) return std::size_t{0};
  auto done = grouped->run_group(std::span(members).first(count));
  if (!done.ok())
    return std::move(done).status().with_context("nodes '" + launches[0]->step->name + "' to '" + launches[count - 1]->step->name + "'");
  return done;
}

// Recorded when it comes a second time: what never comes again, as with a cache that grows, is not
// worth it.
Status Stretch::run(void* argument) {
  auto& stretch = *static_cast<Stretch*>(argument);
  const PassClock& clock = *stretch.launches_.front()->clock;
  if (clock.on || clock.sync || stretch.launches_.size() < kLeast) return run_all(argument);
  auto& kept = stretch.kept_;
  const auto found = std::find_if(kept.begin(), kept.end(), [&](const Kept& k) { return k.key == stretch.key_; });
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
