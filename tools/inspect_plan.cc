#include "inspect_plan.h"

#include "base/check.h"
#include "base/file.h"
#include "forebay/plan.h"
#include "json_out.h"
#include "plan/plan_io.h"
#include "runtime/timing_cache.h"

namespace forebay::tools {
namespace {

std::string_view refit_name(plan::RefitMode mode) {
  switch (mode) {
    case plan::RefitMode::all: return "all";
    case plan::RefitMode::identical: return "identical";
    case plan::RefitMode::none: return "none";
  }
  return "unknown";
}

json::array tensor_infos(const std::vector<TensorInfo>& infos) {
  json::array out;
  for (const TensorInfo& info : infos) {
    json::array dims;
    for (std::size_t i = 0; i < info.dims.size(); ++i) {
      if (info.dims[i] >= 0) dims.push_back(info.dims[i]);
      else if (i < info.dim_names.size() && !info.dim_names[i].empty()) dims.push_back(json::value(info.dim_names[i]));
      else dims.push_back(nullptr);
    }
    out.push_back(json::object{{"name", info.name}, {"dtype", dtype_name(info.dtype)}, {"shape", std::move(dims)}});
  }
  return out;
}

void add_header(Session& session, const plan::PlanHeaderInfo& header) {
  session.result["kind"] = "plan";
  session.result["format_version"] = fmt::format("{}.{}", header.major, header.minor);
  session.result["min_reader_version"] = fmt::format("{}.{}", header.min_reader_major, header.min_reader_minor);
  session.result["plan_id"] = to_hex(header.id);
  session.result["plan_bytes"] = header.file_bytes;
  json::array sections;
  for (const auto& section : header.sections) {
    sections.push_back(json::object{{"id", section.id}, {"name", section.name}, {"critical", section.critical},
                                    {"offset", section.offset}, {"bytes", section.bytes}});
  }
  session.result["sections"] = std::move(sections);
}

void add_kept(Session& session, const plan::Plan& data) {
  json::array kept;
  std::uint64_t bytes = 0;
  for (const plan::Constant& constant : data.constants) {
    if (!constant.kept) continue;
    json::array sources;
    for (const std::uint32_t source : constant.sources) {
      const plan::Source& from = data.sources[source];
      json::object one{{"name", from.name}};
      if (from.has_sha256) one["sha256"] = to_hex(from.sha256);
      sources.push_back(std::move(one));
    }
    kept.push_back(json::object{{"name", constant.name}, {"dtype", dtype_name(constant.dtype)}, {"shape", dims_json(constant.shape.dims())},
                                {"bytes", constant.data.size()}, {"sources", std::move(sources)}});
    bytes += constant.data.size();
  }
  session.print("{} kept constants, {}\n", kept.size(), format_size(bytes));
  session.result["kept"] = std::move(kept);
}

// Nodes that the device has no kernel for.
json::array host_nodes(Session& session, const plan::Plan& data, const plan::KernelSection& section) {
  json::array nodes;
  for (const plan::KernelChoice& choice : section.entries) {
    if (!choice.kernel.starts_with("host.")) continue;
    const plan::Node& node = data.graphs[choice.graph].nodes[choice.node];
    session.print("  on the host: {} ({}) by {}\n", node.name, node.op, choice.kernel);
    nodes.push_back(json::object{{"node", node.name}, {"op", node.op}, {"kernel", choice.kernel}});
  }
  return nodes;
}

// What was timed: each problem with its ways, the chosen one marked.
json::array kernel_times(Session& session, const plan::KernelSection& section) {
  std::map<std::string, std::size_t> nodes;
  std::vector<std::pair<std::string, std::vector<TimedWay>>> problems;
  for (const plan::KernelChoice& choice : section.entries) {
    ++nodes[choice.parameters.substr(0, choice.parameters.find('\n'))];
    for (ChoiceLine& line : choice_lines(choice.parameters)) {
      if (problems.empty() || problems.back().first != line.problem) problems.push_back({std::string(line.problem), {}});
      problems.back().second.push_back(std::move(line.timed));
    }
  }
  json::array out;
  for (const auto& [problem, ways] : problems) {
    const TimedWay* const best = best_way(ways);
    session.print("  {} ({} nodes)\n", problem, nodes[problem]);
    json::array list;
    for (const TimedWay& way : ways) {
      const std::string time = way.microseconds < 0 ? "failed" : fmt::format("{:.3f} us", way.microseconds);
      session.print("    {} {:>12}  {} {}\n", &way == best ? "*" : " ", time, way.way.kernel,
                    way.way.config.substr(0, way.way.config.find(" word=")));
      json::object one{{"kernel", way.way.kernel}, {"config", way.way.config}, {"chosen", &way == best}};
      if (way.microseconds >= 0) one["us"] = way.microseconds;
      list.push_back(std::move(one));
    }
    out.push_back(json::object{{"problem", problem}, {"nodes", nodes[problem]}, {"ways", std::move(list)}});
  }
  return out;
}

void add_kernels(Session& session, const plan::Plan& data) {
  json::array sections, fusions;
  for (const plan::KernelSection& section : data.kernels) {
    json::object counts;
    std::map<std::string, std::size_t> kernels;
    for (const plan::KernelChoice& choice : section.entries) ++kernels[choice.kernel];
    for (const auto& [kernel, count] : kernels) counts[kernel] = count;
    session.print("kernels for {} ({}):\n", section.device_kind, section.made_by);
    for (const auto& [kernel, count] : kernels) session.print("  {:<24} {}\n", kernel, count);
    json::object one{{"device", section.device_kind}, {"made_by", section.made_by}, {"kernels", std::move(counts)}};
    one["host_nodes"] = host_nodes(session, data, section);
    one["problems"] = kernel_times(session, section);
    sections.push_back(std::move(one));
  }
  for (const plan::Graph& graph : data.graphs) {
    for (const plan::Node& node : graph.nodes) {
      if (node.fused_from.size() < 2) continue;
      json::array from;
      for (const std::string& name : node.fused_from) from.push_back(json::value(name));
      fusions.push_back(json::object{{"node", node.name}, {"op", node.op}, {"from", std::move(from)}});
    }
  }
  session.result["kernels"] = std::move(sections);
  session.result["fusions"] = std::move(fusions);
  json::object numerics;
  for (const auto& [key, value] : data.numerics) numerics[key] = value;
  session.result["numerics"] = std::move(numerics);
}

void add_weights(Session& session, const Plan& loaded) {
  json::array weights;
  session.print("{:<44} {:<5} {:<20} {:>10} {:>6} {:<12} {}\n", "weight", "dtype", "shape", "bytes", "slabs", "use", "recipe");
  for (const WeightInfo& weight : loaded.weights()) {
    json::array closure;
    for (const std::string& name : weight.closure) closure.push_back(json::value(name));
    weights.push_back(json::object{{"name", weight.name}, {"dtype", dtype_name(weight.dtype)}, {"shape", dims_json(weight.shape.dims())},
                                   {"bytes", weight.bytes}, {"recipe", weight.recipe}, {"closure", std::move(closure)},
                                   {"consumption", weight.consumption}, {"slabs", weight.slabs}, {"uses", weight.uses}});
    session.print("{:<44} {:<5} {:<20} {:>10} {:>6} {:<12} {}\n", weight.name, dtype_name(weight.dtype), weight.shape.to_string(),
                  format_size(weight.bytes), weight.slabs, weight.consumption, weight.recipe);
  }
  session.result["weights"] = std::move(weights);
}

}  // namespace

Status inspect_plan(Session& session, const std::string& path) {
  FB_ASSIGN(const plan::PlanHeaderInfo header, plan::read_plan_header(posix_file_system(), path));
  add_header(session, header);
  session.print("plan {}, format {}.{}, {}\n", to_hex(header.id), header.major, header.minor, format_size(header.file_bytes));
  FB_ASSIGN(const Plan loaded, Plan::load(path));
  const plan::Plan& data = loaded.data();
  std::uint64_t embedded = 0;
  for (const plan::StoredChunk& chunk : data.embedded) embedded += chunk.stored_bytes;
  std::size_t nodes = 0;
  for (const plan::Graph& graph : data.graphs) nodes += graph.nodes.size();
  session.result["model"] = data.model_name;
  session.result["producer"] = data.producer;
  session.result["refit"] = refit_name(data.refit);
  session.result["stripped"] = loaded.stripped();
  session.result["weights_bytes"] = loaded.weight_bytes();
  session.result["embedded_bytes"] = embedded;
  session.result["slab_bytes"] = data.slab_bytes;
  session.result["nodes"] = nodes;
  session.result["chunks"] = data.chunks.size();
  session.result["inputs"] = tensor_infos(loaded.inputs());
  session.result["outputs"] = tensor_infos(loaded.outputs());
  json::array pairs;
  for (const auto& [output, input] : loaded.state_pairs()) pairs.push_back(json::object{{"output", output}, {"input", input}});
  session.result["state_pairs"] = std::move(pairs);
  session.print("from {} by {}; {} nodes, {} weights of {}, {}; refit {}\n", data.model_name, data.producer, nodes, data.weights.size(),
                format_size(loaded.weight_bytes()), loaded.stripped() ? "stripped" : "weights inside", refit_name(data.refit));
  add_weights(session, loaded);
  add_kept(session, data);
  add_kernels(session, data);
  return {};
}

}  // namespace forebay::tools
