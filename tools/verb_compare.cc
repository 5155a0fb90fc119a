// forebay compare: outputs beside a folder of .npy files, or beside the CPU device fully resident; --layers names the first node that diverges.
#include <cmath>
#include <cstring>
#include <map>

#include "base/check.h"
#include "base/npy.h"
#include "context_runs.h"
#include "engine_setup.h"
#include "input_maker.h"
#include "json_out.h"
#include "reference_compare.h"
#include "verbs.h"

namespace forebay::tools {
namespace {

constexpr std::uint64_t kMaxLayerBytes = 2ull << 30;  // values kept for --layers

json::value finite_or_text(double value) {
  return std::isfinite(value) ? json::value(value) : json::value(std::isnan(value) ? "nan" : "inf");
}

Result<std::vector<NamedTensor>> read_reference(const Plan& plan, const std::string& folder) {
  std::vector<NamedTensor> expected;
  for (const TensorInfo& info : plan.outputs()) {
    const std::string path = join_path(folder, value_file_name(info.name) + ".npy");
    FB_ASSIGN(HostTensor tensor, read_npy(posix_file_system(), path, 16ull << 30, info.dtype));
    expected.push_back({info.name, std::move(tensor)});
  }
  return expected;
}

// The first write of each value, in the order of writes, up to kMaxLayerBytes.
struct LayerTrace {
  std::vector<NamedTensor> writes;
  std::map<std::string, std::size_t> index;
  std::uint64_t bytes = 0;
  void keep(const DebugTensor& seen) {
    const std::string name(seen.name);
    const std::uint64_t size = checked_bytes(seen.tensor.dtype, seen.tensor.shape.dims()).value_or(0);
    if (index.contains(name) || bytes + size > kMaxLayerBytes) return;
    HostTensor copy(seen.tensor.dtype, seen.tensor.shape);
    if (size > 0) std::memcpy(copy.data(), seen.tensor.data, size);
    index[name] = writes.size();
    writes.push_back({name, std::move(copy)});
    bytes += size;
  }
};

struct Side {
  std::vector<NamedTensor> outputs;
  LayerTrace layers;
};

Result<Side> run_side(const EngineSetup& setup, const EngineOptions& options, const std::vector<NamedTensor>& inputs, bool layers) {
  Side side;
  FB_ASSIGN(Engine engine, Engine::create(setup.plan, setup.sources, options));
  RunRequest request;
  if (layers) request.debug = [&side](const DebugTensor& seen) { side.layers.keep(seen); };
  FB_ASSIGN(RunOutcome outcome, run_passes(engine, inputs, request));
  side.outputs = std::move(outcome.outputs);
  return side;
}

void compare_layers(Session& session, const LayerTrace& actual, const LayerTrace& expected, double atol, double rtol) {
  json::array rows;
  std::string first;
  std::size_t compared = 0;
  for (const NamedTensor& layer : actual.writes) {
    const auto other = expected.index.find(layer.name);
    if (other == expected.index.end()) continue;
    ++compared;
    const Difference difference = compare_tensors(layer.tensor, expected.writes[other->second].tensor, atol, rtol);
    if (difference.pass()) continue;
    if (first.empty()) first = layer.name;
    rows.push_back(json::object{{"value", layer.name}, {"max_abs", finite_or_text(difference.max_abs)}, {"max_rel", finite_or_text(difference.max_rel)},
                                {"beyond", difference.beyond}, {"mismatch", difference.mismatch}});
  }
  session.result["layers_compared"] = compared;
  session.result["diverging"] = std::move(rows);
  if (first.empty()) {
    session.result["first_diverging"] = nullptr;
    session.print("{} values compared, none diverges\n", compared);
  } else {
    session.result["first_diverging"] = first;
    session.print("{} values compared; the first that diverges is {}\n", compared, first);
  }
}

}  // namespace

Status run_compare(Session& session) {
  const std::string reference = session.options.text("reference"), against = session.options.text("against");
  if (reference.empty() == against.empty()) return Status(Code::invalid_argument, "forebay compare needs either --reference DIR or --against cpu");
  const bool layers = session.options.flag("layers");
  if (layers && against.empty()) return Status(Code::invalid_argument, "--layers needs --against cpu: a folder holds outputs only");
  FB_ASSIGN(EngineSetup setup, engine_setup(session));
  FB_ASSIGN(const InputRequest wanted, input_request(session));
  FB_ASSIGN(const std::vector<NamedTensor> inputs, make_inputs(setup.plan, wanted));
  const double atol = session.options.real("atol"), rtol = session.options.real("rtol");
  FB_ASSIGN(const Side actual, run_side(setup, setup.options, inputs, layers));
  Side expected;
  if (!reference.empty()) {
    FB_ASSIGN(expected.outputs, read_reference(setup.plan, reference));
  } else {
    EngineOptions options = setup.options;
    options.device = against;
    options.retime.reset();
    options.budget = Budget::unlimited();
    options.io = "threads";
    options.direct = "off";
    FB_ASSIGN(expected, run_side(setup, options, inputs, layers));
  }
  json::object outputs;
  bool pass = true;
  for (std::size_t i = 0; i < actual.outputs.size(); ++i) {
    const Difference difference = compare_tensors(actual.outputs[i].tensor, expected.outputs[i].tensor, atol, rtol);
    json::object one{{"max_abs", finite_or_text(difference.max_abs)}, {"max_rel", finite_or_text(difference.max_rel)},
                     {"beyond", difference.beyond}, {"elements", difference.count}, {"pass", difference.pass()},
                     {"same_bits", same_bytes(actual.outputs[i].tensor, expected.outputs[i].tensor)}};
    if (!difference.mismatch.empty()) one["mismatch"] = difference.mismatch;
    session.print("{:<32} max abs {:<12.4g} max rel {:<12.4g} {} of {} beyond: {}{}\n", actual.outputs[i].name, difference.max_abs, difference.max_rel,
                  difference.beyond, difference.count, difference.pass() ? "pass" : "FAIL ", difference.mismatch);
    pass = pass && difference.pass();
    outputs[actual.outputs[i].name] = std::move(one);
  }
  session.result["outputs"] = std::move(outputs);
  session.result["atol"] = atol;
  session.result["rtol"] = rtol;
  if (layers) compare_layers(session, actual.layers, expected.layers, atol, rtol);
  session.print("{}\n", pass ? "PASSED" : "FAILED");
  return pass ? Status() : Status(Code::gate_failed, fmt::format("outputs differ by more than atol {} and rtol {}", atol, rtol));
}

}  // namespace forebay::tools
