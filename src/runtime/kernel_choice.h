// Which kernels a device runs a plan with: made once, by timing or by heuristics, recorded in the plan's section for the device kind, and
// taken again whenever a kernel is prepared. Same plan, same device, same bits.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/compiled_plan.h"
#include "runtime/device.h"
#include "runtime/thread_pool.h"
#include "runtime/timing_cache.h"

namespace forebay {

struct PreparedGraph;
struct PreparedStep;

// The key of Plan::numerics under which a plan keeps the kernels it excludes: names with commas between.
inline constexpr std::string_view kExcludeKey = "exclude";
// By the whole id ("cuda.gemm_tiles") or behind the device's kind ("cublaslt", also within "cuda.packed+cuda.cublaslt").
bool kernel_excluded(const plan::Plan& plan, std::string_view kernel);

// The best of the ways that a plan records for a problem: found once, for passes are prepared while their caller waits.
class RecordedChoices {
 public:
  explicit RecordedChoices(const plan::Plan& plan);
  bool any(std::string_view device_kind) const;
  const KernelWay* best(std::string_view device_kind, std::string_view problem) const;  // null: none is known

 private:
  std::map<std::string, std::map<std::string, std::optional<KernelWay>, std::less<>>, std::less<>> best_;  // none: all failed
};

// After the kernel's prepare: takes the recorded way for its problem, else the first that is not excluded. A recorded way that is refused
// here is chosen again by heuristics.
Status take_choice(const CompiledPlan& compiled, std::string_view device_kind, ChoosingKernel& kernel);
// A choice without what may differ from timing to timing: for numerics_id.
std::string choice_identity(const plan::KernelChoice& choice);
// What a cache of times keys a device by: its name and its numerics.
std::string device_key(const DeviceInfo& info);

class KernelProber {
 public:
  virtual ~KernelProber() = default;
  // Microseconds of the step's calls, as many as its first one, its largest slab, takes: launches as they are shared where nothing waits.
  // resource_exhausted, before anything is allocated, when its operands and
  // workspace do not fit the prober's budget.
  virtual Result<double> microseconds(PreparedStep& step) = 0;
};
// Times on the device within `budget_bytes` of its memory. unsupported where it cannot measure.
Result<std::unique_ptr<KernelProber>> create_prober(Device& device, std::uint64_t budget_bytes);

using ShapeSet = std::vector<std::pair<std::string, Shape>>;  // of the inputs, in the plan's order
// The shapes that the plan's ranges name: typical ones first, then the smallest and the largest. Open dimensions without a range are 1.
std::vector<ShapeSet> declared_shapes(const plan::Plan& plan);

// Whether the plan's choices for the device, or heuristics where it has none, may call for a library that loads code when a kernel is
// prepared (cuDNN) or first runs (cuBLASLt).
bool calls_libraries(const plan::Plan& plan, std::string_view device_kind);
// So that running the pass loads nothing more.
void load_libraries(const PreparedGraph& graph);

struct ChoiceRequest {
  std::shared_ptr<const CompiledPlan> compiled;
  std::vector<ShapeSet> shapes;  // the first is what the section's entries name
  ThreadPool* pool = nullptr;
  Device* device = nullptr;
  KernelProber* prober = nullptr;  // null: only times that the cache has
  TimingCache* cache = nullptr;    // read and added to
  double seconds = 0;              // timing stops behind so many; 0: no limit
};
struct ChoiceOutcome {
  plan::KernelSection section;
  std::size_t problems = 0, timed = 0, cached = 0, failed = 0;  // problems with a choice; ways
  bool out_of_time = false;
};
Result<ChoiceOutcome> choose_kernels(const ChoiceRequest& request);
// The plan with `section` in place of the one for its device kind.
std::shared_ptr<const plan::Plan> with_kernels(const plan::Plan& plan, plan::KernelSection section);

}  // namespace forebay
