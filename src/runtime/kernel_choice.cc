#include "runtime/kernel_choice.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <tuple>

#include "base/check.h"
#include "runtime/prepared_pass.h"

namespace forebay {
namespace {

const plan::KernelSection* section_for(const plan::Plan& plan, std::string_view kind) {
  for (const plan::KernelSection& section : plan.kernels) {
    if (section.device_kind == kind) return &section;
  }
  return nullptr;
}

class Chooser {
 public:
  explicit Chooser(const ChoiceRequest& request)
      : request_(request),
        plan_(*request.compiled->plan),
        device_(device_key(request.device->info())),
        start_(std::chrono::steady_clock::now()) {}

  Result<ChoiceOutcome> run() {
    out_.section.device_kind = request_.device->info().kind;
    for (std::size_t i = 0; i < request_.shapes.size(); ++i) {
      FB_ASSIGN(const auto pass, prepare_pass(request_.compiled, request_.shapes[i], *request_.pool, {}, request_.device));
      FB_TRY(walk(pass->main, i == 0));
    }
    std::sort(out_.section.entries.begin(), out_.section.entries.end(),
              [](const auto& a, const auto& b) { return std::pair(a.graph, a.node) < std::pair(b.graph, b.node); });
    out_.section.made_by = (out_.problems == 0 ? "heuristic on " : "timed on ") + device_;
    return std::move(out_);
  }

 private:
  Status walk(PreparedGraph& graph, bool typical) {
    for (PreparedStep& step : graph.steps) {
      for (const auto& body : step.bodies) {
        if (body != nullptr) FB_TRY(walk(*body, typical));
      }
      if (step.kernel != nullptr && step.step->node != nullptr) FB_TRY(choose(step, typical));
    }
    return {};
  }

  Status choose(PreparedStep& step, bool typical) {
    std::string problem, lines;
    auto* const choosing = dynamic_cast<ChoosingKernel*>(step.kernel.get());
    if (choosing != nullptr) FB_TRY(choose_way(step, *choosing, &problem, &lines));
    // The first line of an entry is its problem at the typical shapes; the times of every problem lie at its first node.
    plan::KernelChoice& entry = entry_of(*step.step->node, std::string(step.kernel->id()));
    if (typical) entry.parameters = problem;
    entry.parameters += lines;
    return {};
  }

  // Where the node's entry is, made at the first set of shapes that runs the node.
  plan::KernelChoice& entry_of(const plan::Node& node, const std::string& kernel) {
    const std::uint32_t graph = graph_of(node);
    const auto at = static_cast<std::uint32_t>(&node - plan_.graphs[graph].nodes.data());
    for (plan::KernelChoice& entry : out_.section.entries) {
      if (entry.graph == graph && entry.node == at) return entry;
    }
    return out_.section.entries.emplace_back(plan::KernelChoice{graph, at, kernel, ""});
  }
  std::uint32_t graph_of(const plan::Node& node) const {
    const std::less<> before;
    std::uint32_t graph = 0;
    while (before(&node, plan_.graphs[graph].nodes.data()) ||
           !before(&node, plan_.graphs[graph].nodes.data() + plan_.graphs[graph].nodes.size()))
      ++graph;
    return graph;
  }

  Status choose_way(PreparedStep& step, ChoosingKernel& kernel, std::string* name, std::string* lines) {
    const std::string problem = kernel.problem();
    if (problem.empty()) return {};
    const bool first = !known_.contains(problem);
    std::vector<TimedWay>& timed = known_[problem];
    if (first) timed = times_of(step, kernel, problem);
    // What is written down may be refused here: then the next best is taken.
    const TimedWay* best = best_way(timed);
    for (; best != nullptr && !kernel.take(best->way).ok(); best = best_way(timed))
      timed[static_cast<std::size_t>(best - timed.data())].microseconds = -1;
    if (best == nullptr) return take_choice(*request_.compiled, request_.device->info().kind, kernel);  // as it would be without times
    if (first) ++out_.problems;
    for (const TimedWay& way : timed) {
      if (first) *lines += "\n" + choice_line(problem, way);
    }
    *name = problem;
    return {};
  }

  // The heuristics' first, the others sorted, so that a plan is the same wherever its times come from. The device is not asked what it can
  // do when all of it is known.
  std::vector<TimedWay> times_of(PreparedStep& step, ChoosingKernel& kernel, const std::string& problem) {
    std::vector<TimedWay> timed;
    if (auto all = request_.cache->find_all(device_, problem)) {
      out_.cached += all->size();
      timed = std::move(*all);
      std::erase_if(timed, [&](const TimedWay& way) { return kernel_excluded(plan_, way.way.kernel); });
    } else {
      const std::vector<KernelWay> ways = kernel.ways();
      for (const KernelWay& way : ways) {
        if (ways.size() == 1 || kernel_excluded(plan_, way.kernel)) continue;
        if (const std::optional<double> time = time_of(step, kernel, problem, way)) timed.push_back({way, *time});
      }
      if (ways.size() > 1 && timed.size() == ways.size()) request_.cache->all_timed(device_, problem, ways.size(), ways.front());
      const bool first = !timed.empty() && timed.front().way == ways.front();
      std::sort(timed.begin() + (first ? 1 : 0), timed.end(), [](const TimedWay& a, const TimedWay& b) {
        return std::tie(a.way.kernel, a.way.config) < std::tie(b.way.kernel, b.way.config);
      });
    }
    for (const TimedWay& way : timed) out_.failed += way.microseconds < 0 ? 1 : 0;
    return timed;
  }

  // Below 0: this way failed, and is out. None: it was not timed.
  std::optional<double> time_of(PreparedStep& step, ChoosingKernel& kernel, const std::string& problem, const KernelWay& way) {
    if (const auto known = request_.cache->find(device_, problem, way)) {
      ++out_.cached;
      return known;
    }
    if (request_.prober == nullptr) return std::nullopt;
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
    if (request_.seconds > 0 && spent.count() > request_.seconds) {
      out_.out_of_time = true;
      return std::nullopt;
    }
    if (!kernel.take(way).ok()) return -1;
    const auto measured = request_.prober->microseconds(step);
    // What did not fit this budget may fit another: nothing is known of it.
    if (!measured.ok() && measured.status().code() == Code::resource_exhausted) return std::nullopt;
    ++out_.timed;
    const double time = measured.ok() ? rounded_time(*measured) : -1;
    request_.cache->put(device_, problem, {way, time});
    return time;
  }

  const ChoiceRequest& request_;
  const plan::Plan& plan_;
  const std::string device_;
  const std::chrono::steady_clock::time_point start_;
  ChoiceOutcome out_;
  std::map<std::string, std::vector<TimedWay>> known_;
};

}  // namespace

bool kernel_excluded(const plan::Plan& plan, std::string_view kernel) {
  for (const auto& [key, names] : plan.numerics) {
    if (key != kExcludeKey) continue;
    std::string_view rest = names;
    while (!rest.empty()) {
      const std::string_view name = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), name.size() + 1));
      if (kernel == name || (kernel.size() > name.size() && kernel.ends_with(name) && kernel[kernel.size() - name.size() - 1] == '.'))
        return true;
    }
  }
  return false;
}

// The first node with a problem has all of its times.
RecordedChoices::RecordedChoices(const plan::Plan& plan) {
  for (const plan::KernelSection& section : plan.kernels) {
    auto& best = best_.try_emplace(section.device_kind).first->second;
    for (const plan::KernelChoice& choice : section.entries) {
      std::map<std::string_view, std::vector<TimedWay>> ways;
      for (ChoiceLine& line : choice_lines(choice.parameters)) ways[line.problem].push_back(std::move(line.timed));
      for (const auto& [problem, timed] : ways) {
        const TimedWay* const least = best_way(timed);
        best.try_emplace(std::string(problem), least != nullptr ? std::optional(least->way) : std::nullopt);
      }
    }
  }
}

bool RecordedChoices::any(std::string_view device_kind) const {
  const auto section = best_.find(device_kind);
  return section != best_.end() && !section->second.empty();
}

const KernelWay* RecordedChoices::best(std::string_view device_kind, std::string_view problem) const {
  const auto section = best_.find(device_kind);
  if (section == best_.end()) return nullptr;
  const auto found = section->second.find(problem);
  return found == section->second.end() || !found->second ? nullptr : &*found->second;
}

Status take_choice(const CompiledPlan& compiled, std::string_view device_kind, ChoosingKernel& kernel) {
  const plan::Plan& plan = *compiled.plan;
  kernel.exclude([&](std::string_view name) { return kernel_excluded(plan, name); });
  const bool excludes =
      std::any_of(plan.numerics.begin(), plan.numerics.end(), [](const auto& entry) { return entry.first == kExcludeKey; });
  if (!compiled.choices->any(device_kind) && !excludes) return {};  // as prepare has it
  const std::string problem = kernel.problem();
  if (const KernelWay* const best = compiled.choices->best(device_kind, problem); best != nullptr && kernel.take(*best).ok()) return {};
  if (!excludes) return {};
  const std::vector<KernelWay> ways = kernel.ways();
  for (const KernelWay& way : ways) {
    if (!kernel_excluded(plan, way.kernel)) return way == ways.front() ? Status() : kernel.take(way);
  }
  return ways.empty() ? Status() : Status(Code::unsupported, "every kernel for '" + problem + "' is excluded");
}

std::string choice_identity(const plan::KernelChoice& choice) {
  std::string text = choice.kernel + "(";
  const std::vector<ChoiceLine> lines = choice_lines(choice.parameters);
  for (std::size_t begin = 0, end = 0; begin < lines.size(); begin = end) {
    std::vector<TimedWay> ways;
    for (; end < lines.size() && lines[end].problem == lines[begin].problem; ++end) ways.push_back(lines[end].timed);
    if (const TimedWay* best = best_way(ways))
      text += std::string(lines[begin].problem) + ":" + best->way.kernel + ":" + best->way.config + ",";
  }
  return text + ")";
}

std::string device_key(const DeviceInfo& info) {
  std::string key = info.name;
  for (const auto& [name, value] : info.numerics) key += "; " + name + "=" + value;
  return key;
}

std::vector<ShapeSet> declared_shapes(const plan::Plan& plan) {
  std::vector<ShapeSet> sets;
  for (const auto member : {&plan::DimRange::opt, &plan::DimRange::min, &plan::DimRange::max}) {
    ShapeSet set;
    for (const plan::ValueId id : plan.graphs[0].inputs) {
      const plan::Value& value = plan.values[id];
      std::vector<std::int64_t> dims;
      for (const plan::Dim& dim : value.dims) {
        std::int64_t size = dim.size >= 0 ? dim.size : 1;
        for (const plan::DimRange& range : plan.dim_ranges) {
          if (dim.size < 0 && range.name == dim.name) size = range.*member;
        }
        dims.push_back(size);
      }
      set.emplace_back(value.name, Shape(dims));
    }
    if (std::find(sets.begin(), sets.end(), set) == sets.end()) sets.push_back(std::move(set));
  }
  return sets;
}

bool calls_libraries(const plan::Plan& plan, std::string_view device_kind) {
  const plan::KernelSection* const section = section_for(plan, device_kind);
  const auto calls = [](const plan::KernelChoice& choice) {
    const std::string identity = choice_identity(choice);
    return identity.find(".cudnn") != std::string::npos || identity.find(".cublaslt") != std::string::npos;
  };
  return section == nullptr ? device_kind != "cpu" : std::any_of(section->entries.begin(), section->entries.end(), calls);
}

void load_libraries(const PreparedGraph& graph) {
  for (const PreparedStep& step : graph.steps) {
    if (auto* const choosing = dynamic_cast<ChoosingKernel*>(step.kernel.get()); choosing != nullptr) choosing->load();
    for (const auto& body : step.bodies) {
      if (body != nullptr) load_libraries(*body);
    }
  }
}

Result<ChoiceOutcome> choose_kernels(const ChoiceRequest& request) {
  return Chooser(request).run();
}

std::shared_ptr<const plan::Plan> with_kernels(const plan::Plan& plan, plan::KernelSection section) {
  auto changed = std::make_shared<plan::Plan>(plan);
  auto& all = changed->kernels;
  std::erase_if(all, [&](const plan::KernelSection& one) { return one.device_kind == section.device_kind; });
  all.push_back(std::move(section));
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.device_kind < b.device_kind; });
  return changed;
}

}  // namespace forebay
