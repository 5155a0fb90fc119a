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

using Members = std::array<GroupedKernel::Member, GroupedKernel::kMost>;

GroupedKernel::Member member_of(const Launch& launch) {
  return {launch.kernel, {launch.call, launch.merged}};
}

// Launches from the first on that may share one; none where they are looked at one by one.
std::size_t gather(std::span<Launch* const> launches, Members* members) {
  if (dynamic_cast<GroupedKernel*>(launches[0]->kernel) == nullptr || launches[0]->clock->on || launches[0]->clock->sync) return 0;
  std::size_t count = 0;
  for (const Launch* launch : launches.first(std::min(launches.size(), members->size()))) {
    if (dynamic_cast<GroupedKernel*>(launch->kernel) == nullptr) break;
    const auto earlier = launches.first(count);
    if (!std::all_of(earlier.begin(), earlier.end(), [&](const Launch* e) { return apart(*e, *launch) && apart(*launch, *e); })) break;
    (*members)[count++] = member_of(*launch);
  }
  return count;
}

Status failure(std::span<Launch* const> launches, Status status) {
  return std::move(status).with_context("nodes '" + launches.front()->step->name + "' to '" + launches.back()->step->name + "'");
}

}  // namespace

void Stretch::begin(ReplayDevice* device) {
  device_ = device;
  launches_.clear();
  key_.clear();
  wants_ = false;
  replayed_ = 0;
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
    FB_ASSIGN(std::size_t together, run_gathered(launches.subspan(i)));
    if (together == 0) {
      FB_ASSIGN(together, run_between(launches.subspan(i)));
    }
    if (together == 0) {
      FB_ASSIGN(together, run_group(launches.subspan(i)));
    }
    if (together == 0) FB_TRY(PassRunner::run_launch(launches[i]));
    i += std::max<std::size_t>(1, together);
  }
  return {};
}

// Sums of none depend on what else a launch holds, so whether they share one changes no bit.
Result<std::size_t> Stretch::run_group(std::span<Launch* const> launches) {
  Members members;
  const std::size_t count = gather(launches, &members);
  if (count < 2) return std::size_t{0};
  auto done = dynamic_cast<GroupedKernel*>(launches[0]->kernel)->run_group(std::span(members).first(count));
  return done.ok() ? std::move(done) : failure(launches.first(count), std::move(done).status());
}

// A launch that does what those just ahead of it do, too.
Result<std::size_t> Stretch::run_gathered(std::span<Launch* const> launches) {
  if (launches[0]->clock->on || launches[0]->clock->sync) return std::size_t{0};
  std::array<GroupedKernel::Member, GatheringKernel::kMost> ahead;
  for (std::size_t i = 0; i < launches.size() && i <= ahead.size(); ++i) {
    const Launch& launch = *launches[i];
    if (launch.merged != 1) break;
    const auto earlier = launches.first(i);
    if (!std::all_of(earlier.begin(), earlier.end(), [&](const Launch* e) { return apart(launch, *e); })) break;
    if (auto* const kernel = dynamic_cast<GatheringKernel*>(launch.kernel); kernel != nullptr) {
      auto done = i > 0 ? kernel->run_with(std::span(ahead).first(i), *launch.call) : Result<bool>(false);
      if (!done.ok()) return failure(launches.first(i + 1), std::move(done).status());
      return *done ? i + 1 : 0;
    }
    if (i < ahead.size()) ahead[i] = member_of(launch);
  }
  return std::size_t{0};
}

// What lies before or behind a group, done by its launch: nothing of a group writes what the launch before it reads or writes, and what is
// behind writes nothing that the others touch.
Result<std::size_t> Stretch::run_between(std::span<Launch* const> launches) {
  const std::size_t first = dynamic_cast<GroupedKernel*>(launches[0]->kernel) == nullptr ? 1 : 0;
  if (launches.size() < first + 2 || launches[0]->clock->on || launches[0]->clock->sync) return std::size_t{0};
  Members members;
  const std::size_t count = gather(launches.subspan(first), &members);
  if (count == 0) return std::size_t{0};
  const auto group = launches.subspan(first, count);
  GroupedKernel::Member before, behind;
  if (first == 1) {
    if (!std::all_of(group.begin(), group.end(), [&](const Launch* member) { return apart(*member, *launches[0]); })) return std::size_t{0};
    before = member_of(*launches[0]);
  }
  bool after = first + count < launches.size();
  if (after) {
    const Launch& last = *launches[first + count];
    const auto all = launches.first(first + count);
    after = std::all_of(all.begin(), all.end(), [&](const Launch* other) { return apart(last, *other); });
    behind = member_of(last);
  }
  if (first == 0 && !after) return std::size_t{0};
  auto& kernel = *dynamic_cast<GroupedKernel*>(group[0]->kernel);
  auto done = kernel.run_between(first == 1 ? &before : nullptr, std::span(members).first(count), after ? &behind : nullptr);
  if (!done.ok()) return failure(launches.first(first + count), std::move(done).status());
  return done->members == 0 ? std::size_t{0} : first + done->members + (done->behind ? 1u : 0u);
}

void Stretch::record(Kept* kept, std::unique_ptr<Recording> worn) {
  const bool could = device_->can_record();  // before and behind: in between that may have changed
  kept->recording = device_->record(&Stretch::run_all, this, std::move(worn));
  kept->refused = kept->recording == nullptr && could && device_->can_record();
  wants_ = kept->recording == nullptr && !kept->refused;
}

Status Stretch::record_ahead(void* argument) {
  auto& stretch = *static_cast<Stretch*>(argument);
  if (stretch.launches_.size() < kLeast) return {};
  std::erase_if(stretch.kept_, [&](const Kept& kept) { return kept.key == stretch.key_; });
  if (stretch.kept_.size() >= kKept) stretch.kept_.pop_back();
  stretch.kept_.insert(stretch.kept_.begin(), Kept{stretch.key_, nullptr, false});
  stretch.record(&stretch.kept_.front(), std::move(stretch.worn_));
  return {};
}

void Stretch::record_behind() {
  if (wants_) record(&kept_.front(), nullptr);
}

std::unique_ptr<Recording> Stretch::take_recording() {
  return kept_.empty() ? nullptr : std::move(kept_.front().recording);
}

// Recorded when it comes a second time, or ahead of its first: what comes once, and was not foreseen,
// is not worth it.
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
  if (now.recording == nullptr && !now.refused) stretch.record(&now, nullptr);
  if (now.recording == nullptr) return run_all(argument);
  stretch.replayed_ = stretch.launches_.size();
  return stretch.device_->replay(*now.recording);
}

}  // namespace forebay
