#include "conformance_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "conformance_rules.h"
#include "forebay/builder.h"
#include "forebay/engine.h"
#include "onnx/onnx_model.h"
#include "reference_compare.h"

namespace forebay::tools {
namespace {

constexpr std::uint64_t kMaxTensorBytes = 2ull << 30;

struct CaseTensor {
  std::string name;
  HostTensor tensor;
};

std::string reason_of(const Status& status) {
  std::string reason = status.message();
  if (!status.problems().empty()) {
    const Problem& first = status.problems().front();
    if (!first.op.empty() && reason.find(first.op) == std::string::npos) reason += fmt::format(" ({})", first.op);
    if (reason.find(first.message) == std::string::npos) reason += ": " + first.message;
  }
  return reason;
}

std::vector<onnx::ValueInfo> caller_inputs(const onnx::Graph& graph) {
  std::set<std::string> initializers;
  for (const SourceTensor& tensor : graph.initializers) initializers.insert(tensor.name);
  std::vector<onnx::ValueInfo> inputs;
  for (const onnx::ValueInfo& input : graph.inputs) {
    if (!initializers.contains(input.name)) inputs.push_back(input);
  }
  return inputs;
}

// PREFIX_N.pb, N from 0 in the order of `values`; a file whose tensor is named like another value goes to that one.
Result<std::vector<CaseTensor>> read_tensors(const std::string& folder, const std::string& prefix, const std::vector<onnx::ValueInfo>& values) {
  std::vector<CaseTensor> tensors;
  FB_ASSIGN(const auto names, posix_file_system().list(folder));
  const std::set<std::string> present(names.begin(), names.end());
  for (std::size_t i = 0; i < values.size() + present.size(); ++i) {
    const std::string file = fmt::format("{}_{}.pb", prefix, i);
    if (!present.contains(file)) continue;
    std::string name;
    FB_ASSIGN(HostTensor tensor, onnx::read_tensor_file(posix_file_system(), join_path(folder, file), kMaxTensorBytes, &name));
    const bool known = std::any_of(values.begin(), values.end(), [&](const onnx::ValueInfo& value) { return value.name == name; });
    if (!known) {
      if (i >= values.size()) return Status(Code::invalid_model, fmt::format("{} belongs to no value of the graph", file));
      name = values[i].name;
    }
    tensors.push_back({name, std::move(tensor)});
  }
  return tensors;
}

Result<std::vector<CaseTensor>> light_inputs(const std::vector<onnx::ValueInfo>& values) {
  std::vector<CaseTensor> tensors;
  for (const onnx::ValueInfo& value : values) {
    std::vector<std::int64_t> dims;
    for (const auto& dim : value.dims) dims.push_back(dim.size < 0 ? 1 : dim.size);
    if (value.dtype != DType::f32 || !checked_bytes(DType::f32, dims)) return Status(Code::unsupported, "the input of a light model is f32");
    HostTensor tensor(DType::f32, Shape(dims));
    const std::span<float> elements = tensor.as<float>();
    for (std::size_t i = 0; i < elements.size(); ++i) {
      elements[i] = static_cast<float>(i) / static_cast<float>(elements.size());
    }
    tensors.push_back({value.name, std::move(tensor)});
  }
  return tensors;
}

CaseResult compare_outputs(const std::string& name, const ExecutionContext& context, const std::vector<CaseTensor>& expected) {
  const Tolerance tolerance = conformance_tolerance(name);
  for (const CaseTensor& want : expected) {
    const auto got = context.output(want.name);
    if (!got.ok()) return {CaseStatus::wrong, fmt::format("output {}: {}", want.name, reason_of(got.status()))};
    const Difference difference = compare_tensors(*got, want.tensor, tolerance.atol, tolerance.rtol);
    if (difference.pass()) continue;
    if (!difference.mismatch.empty()) return {CaseStatus::wrong, fmt::format("output {}: {}", want.name, difference.mismatch)};
    return {CaseStatus::wrong, fmt::format("output {}: {} of {} beyond tolerance, first at {} ({} for {}), max abs {:.3g}, max rel {:.3g}", want.name,
                                           difference.beyond, difference.count, difference.first, element_as_double(*got, difference.first),
                                           element_as_double(want.tensor, difference.first), difference.max_abs, difference.max_rel)};
  }
  return {CaseStatus::passed, expected.empty() ? "no output to compare" : ""};
}

CaseResult refusal(const Status& status) {
  return {status.code() == Code::unsupported ? CaseStatus::unsupported : CaseStatus::wrong,
          fmt::format("{}: {}", to_string(status.code()), reason_of(status))};
}

Result<CaseResult> run_sets(const ConformanceCase& test, const CaseOptions& options, const onnx::Model& model) {
  const std::string plan_path = join_path(options.work_folder, "case.plan");
  BuildOptions build_options;
  build_options.strip = true;
  build_options.threads = options.threads;
  FB_TRY(build(test.model, plan_path, build_options).status());
  FB_ASSIGN(const Plan plan, Plan::load(plan_path));
  EngineOptions engine_options;
  engine_options.device = options.device;
  engine_options.threads = options.threads;
  engine_options.budget = Budget::unlimited();
  WeightSources sources;
  sources.paths = {test.model};
  FB_ASSIGN(Engine engine, Engine::create(plan, sources, engine_options));
  const std::vector<onnx::ValueInfo> inputs = caller_inputs(model.graph);
  std::vector<std::string> sets = test.data_sets;
  if (!test.flat_output.empty()) sets = {""};
  std::set<std::string> on_host;
  for (const std::string& set : sets) {
    std::vector<CaseTensor> given, expected;
    if (set.empty()) {
      FB_ASSIGN(given, light_inputs(inputs));
      FB_ASSIGN(HostTensor output, onnx::read_tensor_file(posix_file_system(), test.flat_output, kMaxTensorBytes, nullptr));
      expected.push_back({model.graph.outputs.front().name, std::move(output)});
    } else {
      FB_ASSIGN(given, read_tensors(set, "input", inputs));
      FB_ASSIGN(expected, read_tensors(set, "output", model.graph.outputs));
    }
    FB_ASSIGN(ExecutionContext context, engine.create_context());
    for (const CaseTensor& input : given) FB_TRY(context.set_input(input.name, input.tensor));
    context.set_profiling(true);
    FB_TRY(context.execute());
    for (const PassProfile::Op& op : context.profile().ops) {
      if (op.kernel.starts_with("host.")) on_host.insert(op.op);
    }
    CaseResult result = compare_outputs(test.name, context, expected);
    if (result.status != CaseStatus::passed) return result;
  }
  return CaseResult{CaseStatus::passed, on_host.empty() ? "" : fmt::format("on the host: {}", fmt::join(on_host, ", "))};
}

}  // namespace

const char* case_status_name(CaseStatus status) {
  switch (status) {
    case CaseStatus::passed: return "passed";
    case CaseStatus::wrong: return "wrong";
    case CaseStatus::unsupported: return "unsupported";
    case CaseStatus::skipped: return "skipped";
  }
  return "wrong";
}

Result<std::vector<ConformanceCase>> find_cases(const std::string& folder) {
  FileSystem& fs = posix_file_system();
  FB_ASSIGN(const std::vector<std::string> names, fs.list(folder));
  const std::set<std::string> present(names.begin(), names.end());
  std::vector<ConformanceCase> cases;
  if (present.contains("model.onnx")) {
    std::string trimmed = folder;
    while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
    ConformanceCase one{file_name_of(trimmed), join_path(folder, "model.onnx"), {}, ""};
    for (const std::string& name : names) {
      if (name.starts_with("test_data_set_")) one.data_sets.push_back(join_path(folder, name));
    }
    if (!one.data_sets.empty()) {
      cases.push_back(std::move(one));
      return cases;
    }
  }
  for (const std::string& name : names) {
    const std::string path = join_path(folder, name);
    if (name.ends_with(".onnx")) {
      const std::string stem = name.substr(0, name.size() - 5);
      if (present.contains(stem + "_output_0.pb")) cases.push_back({stem, path, {}, join_path(folder, stem + "_output_0.pb")});
      continue;
    }
    const auto is_folder = fs.is_folder(path);
    if (!is_folder.ok() || !*is_folder) continue;
    const auto inner = fs.list(path);
    if (!inner.ok() || std::find(inner->begin(), inner->end(), "model.onnx") == inner->end()) continue;
    auto found = find_cases(path);
    if (!found.ok() && found.status().code() == Code::not_found) continue;  // a model without data
    FB_TRY(found.status());
    for (ConformanceCase& one : *found) cases.push_back(std::move(one));
  }
  if (cases.empty()) {
    Problem problem;
    problem.code = "no_cases";
    problem.message = "no model.onnx with test_data_set_0, no folders of them and no light models here";
    problem.file = folder;
    problem.hint = "name a folder such as onnx/backend/test/data/node";
    return Status(Code::not_found, std::move(problem));
  }
  return cases;
}

CaseResult run_case(const ConformanceCase& test, const CaseOptions& options) {
  const auto model = onnx::read_model(posix_file_system(), test.model, {});
  if (!model.ok()) return refusal(model.status());
  if (std::string reason = conformance_skip(test.name, *model); !reason.empty()) return {CaseStatus::skipped, std::move(reason)};
  auto result = run_sets(test, options, *model);
  return result.ok() ? std::move(result).value() : refusal(result.status());
}

}  // namespace forebay::tools
