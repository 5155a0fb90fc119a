#include "refit/source_check.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/name_match.h"
#include "base/printable.h"
#include "refit/shard_reader.h"

namespace forebay::refit {
namespace {

constexpr std::size_t kMaxHints = 100;  // a hint compares with every name of the catalog

Problem about(const char* code, const std::string& tensor, std::string message) {
  Problem problem;
  problem.code = code;
  problem.tensor = tensor;
  problem.message = std::move(message);
  return problem;
}

// What is said of a source that the map renames.
std::string called(const plan::Source& source, const ResolvedSource& resolved) {
  return resolved.name == source.name ? std::string() : " (by the map: " + printable(resolved.name) + ")";
}

void place(Problem& problem, const SourceTensor& tensor) {
  if (tensor.file == nullptr) return;
  problem.file = tensor.file->name();
  problem.offset = tensor.offset;
}

class Checker {
 public:
  Checker(const plan::Plan& plan, const Catalog& catalog, const Options& options, const std::vector<ResolvedSource>& sources,
          Report& report)
      : plan_(plan), catalog_(catalog), options_(options), sources_(sources), report_(report) {}

  void run_headers() {
    for (const Problem& problem : catalog_.problems()) report_.mismatched.push_back(problem);
    if (catalog_.shards() != nullptr) {
      if (const Status status = catalog_.shards()->check_plan(plan_); !status.ok())
        for (const Problem& problem : status.problems()) report_.mismatched.push_back(problem);
    }
    check_map();
    for (std::size_t i = 0; i < sources_.size(); ++i) check_source(i);
    if (catalog_.shards() == nullptr) check_closures();
    list_extra();
  }

  Status run_digests(const std::vector<bool>& digest) {
    std::uint64_t total = 0, done = 0;
    for (std::size_t i = 0; i < sources_.size(); ++i)
      if (digest[i] && sources_[i].fits) total += sources_[i].tensor->bytes();
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      if (!digest[i] || !sources_[i].fits) continue;
      FB_CHECK(plan_.sources[i].has_sha256);
      FB_ASSIGN(const Sha256 found, sources_[i].view().digest([&](std::uint64_t bytes) {
        done += bytes;
        return !options_.progress || options_.progress("check", done, total);
      }));
      if (found != plan_.sources[i].sha256) differs(i, found);
    }
    return {};
  }

  Status verdict() const {
    std::vector<Problem> problems = report_.missing;
    problems.insert(problems.end(), report_.mismatched.begin(), report_.mismatched.end());
    if (options_.strict) problems.insert(problems.end(), report_.extra.begin(), report_.extra.end());
    return problems.empty() ? Status() : weights_refused(std::move(problems));
  }

 private:
  void check_map() {
    if (options_.map.entries.empty()) return;
    std::set<std::string> known;
    std::vector<std::string> names;
    for (const plan::Source& source : plan_.sources)
      if (known.insert(source.name).second) names.push_back(source.name);
    for (const auto& [name, entry] : options_.map.entries) {
      if (known.contains(name)) continue;
      Problem problem = about("map_unknown_name", name, "the map renames a tensor that the plan does not have");
      if (hints_++ < kMaxHints) problem.hint = did_you_mean(name, names);
      report_.mismatched.push_back(std::move(problem));
    }
  }

  const std::vector<std::string>& catalog_names() {
    if (names_.empty()) names_ = catalog_.names();
    return names_;
  }

  void check_source(std::size_t i) {
    const plan::Source& source = plan_.sources[i];
    const ResolvedSource& found = sources_[i];
    if (!found.for_weight && !found.for_constant) return;
    if (found.tensor == nullptr) {
      if (!found.for_weight || catalog_.shards() != nullptr) return;  // a kept constant is in the plan: its source need not be there
      const Problem* unusable = catalog_.unusable(found.name);
      if (unusable != nullptr) {
        report_.mismatched.push_back(*unusable);
        report_.mismatched.back().message += ", the plan wants " + std::string(dtype_name(source.dtype));
        return;
      }
      Problem problem = about("weight_missing", source.name, "no source has the tensor" + called(source, found));
      if (hints_++ < kMaxHints) problem.hint = did_you_mean(found.name, catalog_names());
      if (problem.hint.empty()) problem.hint = "name the file that holds it with --weights, or rename it with --map";
      report_.missing.push_back(std::move(problem));
      return;
    }
    if (found.by_default != nullptr && catalog_.shards() == nullptr) {
      report_.warnings.push_back(about("default_value", source.name, "no source has the tensor: the model's own value is kept"));
    }
    if (found.fits) return;
    const SourceTensor& tensor = *found.tensor;
    if (tensor.dtype != source.dtype) {
      Problem problem = about("dtype_mismatch", source.name,
                              "expected " + std::string(dtype_name(source.dtype)) + ", found " +
                                  std::string(dtype_name(tensor.dtype)) + called(source, found));
      place(problem, tensor);
      problem.hint = "convert the weights, or build the plan from a model of this type";
      report_.mismatched.push_back(std::move(problem));
    }
    if (found.transpose && !SourceView::can_transpose(tensor)) {
      Problem problem = about("shape_mismatch", source.name, "the map says transpose, but " + tensor.shape.to_string() + " of " +
                                                                 std::string(dtype_name(tensor.dtype)) + " cannot be transposed");
      place(problem, tensor);
      report_.mismatched.push_back(std::move(problem));
    } else if (const Shape shape = found.view().shape(); shape != source.shape) {
      Problem problem = about("shape_mismatch", source.name, "expected " + source.shape.to_string() + ", found " + shape.to_string() +
                                                                 (found.transpose ? " (transposed)" : "") + called(source, found));
      place(problem, tensor);
      const int rank = shape.rank();
      Shape swapped = shape;
      if (rank >= 2) std::swap(swapped[rank - 2], swapped[rank - 1]);
      if (rank >= 2 && swapped == source.shape)
        problem.hint = found.transpose
                           ? "leave out 'transpose' in the map"
                           : "add '" + printable(source.name) + " = " + printable(found.name) + " transpose' to the map";
      report_.mismatched.push_back(std::move(problem));
    }
  }

  // A weight that is made from several sources needs all of them: the missing ones are listed above, here it is said whose closure
  // it breaks.
  void check_closures() {
    for (const plan::Weight& weight : plan_.weights) {
      const auto& closure = weight.recipe.sources;
      if (closure.size() < 2) continue;
      std::string absent;
      std::size_t count = 0;
      for (const std::uint32_t i : closure) {
        if (sources_[i].tensor != nullptr) continue;
        if (++count <= 5) absent += (count == 1 ? "" : ", ") + printable(plan_.sources[i].name);
      }
      if (count == 0 || count == closure.size()) continue;
      report_.missing.push_back(about("closure_incomplete", weight.name,
                                      "it is made from " + std::to_string(closure.size()) + " tensors, of which " +
                                          std::to_string(count) + " are missing: " + absent));
    }
  }

  void list_extra() {
    std::set<std::string> wanted;
    for (const ResolvedSource& source : sources_)
      if (source.for_weight || source.for_constant) wanted.insert(source.name);
    for (const std::string& name : catalog_names()) {
      if (wanted.contains(name)) continue;
      Problem problem = about("extra_tensor", name, "the plan does not use this tensor");
      if (const SourceTensor* tensor = catalog_.find(name)) place(problem, *tensor);
      report_.extra.push_back(std::move(problem));
    }
  }

  void differs(std::size_t i, const Sha256& found) {
    const plan::Source& source = plan_.sources[i];
    const bool kept = sources_[i].for_constant;
    Problem problem = about(kept ? "kept_constant_differs" : "not_identical", source.name, "");
    if (kept)
      problem.message = "the plan has frozen this tensor into its structure, and the source holds another value";
    else
      problem.message = "the plan was built with --refit identical, and the source holds other values";
    problem.message += ": sha256 " + to_hex(source.sha256) + " expected, " + to_hex(found) + " found" + called(source, sources_[i]);
    place(problem, *sources_[i].tensor);
    problem.hint = kept ? "build a plan from the model these weights belong to" : "build the plan with --refit all to allow other weights";
    report_.mismatched.push_back(std::move(problem));
  }

  const plan::Plan& plan_;
  const Catalog& catalog_;
  const Options& options_;
  const std::vector<ResolvedSource>& sources_;
  Report& report_;
  std::vector<std::string> names_;
  std::size_t hints_ = 0;
};

std::shared_ptr<const SourceTensor> default_of(const plan::Constant& constant, const plan::Source& source) {
  auto contents = std::make_shared<HostTensor>(constant.dtype, constant.shape);
  std::memcpy(contents->data(), constant.data.data(), std::min<std::size_t>(contents->bytes(), constant.data.size()));
  auto tensor = std::make_shared<SourceTensor>();
  tensor->name = source.name;
  tensor->dtype = constant.dtype;
  tensor->shape = constant.shape;
  tensor->stored_bytes = contents->bytes();
  tensor->memory = std::move(contents);
  return tensor;
}

}  // namespace

std::vector<ResolvedSource> resolve_sources(const plan::Plan& plan, const Catalog& catalog, const NameMap& map) {
  std::vector<ResolvedSource> sources(plan.sources.size());
  for (const plan::Weight& weight : plan.weights)
    for (const std::uint32_t i : weight.recipe.sources) sources[i].for_weight = true;
  std::vector<const plan::Constant*> defaults(sources.size(), nullptr);
  for (const plan::Constant& constant : plan.constants) {
    for (const std::uint32_t i : constant.sources) {
      if (constant.kept) {
        sources[i].for_constant = true;
      } else {
        defaults[i] = &constant;
      }
    }
  }
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const plan::Source& wanted = plan.sources[i];
    ResolvedSource& source = sources[i];
    source.name = wanted.name;
    if (const auto renamed = map.entries.find(wanted.name); renamed != map.entries.end()) {
      source.name = renamed->second.source;
      source.transpose = renamed->second.transpose;
    }
    source.tensor = catalog.find(source.name);
    if (source.tensor == nullptr && defaults[i] != nullptr && source.name == wanted.name && catalog.unusable(source.name) == nullptr) {
      source.by_default = default_of(*defaults[i], wanted);
      source.tensor = source.by_default.get();
    }
    if (source.tensor == nullptr) continue;
    source.fits = source.tensor->dtype == wanted.dtype && (!source.transpose || SourceView::can_transpose(*source.tensor)) &&
                  source.view().shape() == wanted.shape;
  }
  return sources;
}

Status check_sources(const plan::Plan& plan, const Catalog& catalog, const Options& options, const std::vector<ResolvedSource>& sources,
                     const std::vector<bool>& digest, Report* report) {
  if (plan.refit == plan::RefitMode::none && !plan.embedded.empty())
    return Status(Code::failed_precondition, "the plan was built with --refit none: its weights cannot be replaced")
        .with_hint("build it again with --refit all");
  Report own;
  Checker checker(plan, catalog, options, sources, report != nullptr ? *report : own);
  checker.run_headers();
  FB_TRY(checker.run_digests(digest));
  return checker.verdict();
}

Status weights_refused(std::vector<Problem> problems) {
  FB_CHECK(!problems.empty());
  if (problems.size() == 1) return Status(Code::weight_mismatch, std::move(problems.front()));
  std::string message = "the weights do not fit the plan: " + std::to_string(problems.size()) + " problems";
  for (std::size_t i = 0; i < std::min<std::size_t>(problems.size(), 20); ++i)
    message += (i == 0 ? ": " : "; ") + printable(problems[i].tensor) + ": " + problems[i].message;
  if (problems.size() > 20) message += "; and " + std::to_string(problems.size() - 20) + " more";
  return Status(Code::weight_mismatch, std::move(message), std::move(problems));
}

Status check(const plan::Plan& plan, const Catalog& catalog, const Options& options, bool digests, Report* report) {
  const std::vector<ResolvedSource> sources = resolve_sources(plan, catalog, options.map);
  std::vector<bool> digest(sources.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const bool of_weight = sources[i].for_weight && catalog.shards() == nullptr;
    digest[i] = digests && plan.sources[i].has_sha256 && (of_weight || sources[i].for_constant);
  }
  return check_sources(plan, catalog, options, sources, digest, report);
}

}  // namespace forebay::refit
