#include "builder/weight_uses.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include "builder/slab_layout.h"
#include "runtime/ops/quant_layout.h"

namespace forebay::builder {
namespace {

using plan::Consumption;

// What serves both uses; whole when nothing does. Rows gathered from a table are found in any cut along its rows.
Consumption join(Consumption a, Consumption b) {
  if (a == b) return a;
  if (a == Consumption::row_gather && b != Consumption::whole) return b;
  if (b == Consumption::row_gather && a != Consumption::whole) return a;
  return Consumption::whole;
}

class Usage {
 public:
  Usage(Ir& ir, const OpRegistry& registry, const WeightPlan& weights, std::uint64_t slab_bytes)
      : ir_(ir),
        registry_(registry),
        weights_(weights),
        slab_bytes_(slab_bytes),
        out_(weights.weights.size()),
        joined_(weights.weights.size()) {
    for (std::size_t i = 0; i < weights.weights.size(); ++i) index_[weights.weights[i].value] = i;
  }

  std::vector<WeightUsage> run() {
    visit(0);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      // Copies of a weight (views, graph outputs) take any cut.
      out_[i].consumption = joined_[i].value_or(Consumption::elementwise);
      out_[i].gather_only = out_[i].consumption == Consumption::row_gather && !copied_.contains(i);
    }
    for (const auto& [weight, follower] : followers_) follow(weight, follower);
    for (const std::vector<std::size_t>& operands : shared_nodes_) leave_largest(operands);
    return std::move(out_);
  }

 private:
  void visit(std::uint32_t graph) {
    for (const auto& node : ir_.graphs[graph].nodes) {
      if (weights_.in_graph.contains(node.get())) operands(*node, graph);
      for (const std::uint32_t body : bodies_of(*node)) visit(body);
    }
    for (const ValueId output : ir_.graphs[graph].outputs)
      if (const auto at = index_.find(output); at != index_.end()) copy(at->second, graph);
  }

  void note(std::size_t weight, std::uint32_t graph) {
    WeightUsage& usage = out_[weight];
    if (usage.use_count++ == 0) usage.first_graph = graph;
    usage.in_body = usage.in_body || graph != 0;
  }

  void copy(std::size_t weight, std::uint32_t graph) {
    note(weight, graph);
    copied_[weight] = true;
  }

  void operands(const IrNode& node, std::uint32_t graph) {
    const OpSpec* spec = registry_.find(node.domain, node.op, node.version);
    std::vector<std::size_t> here;
    for (std::uint32_t i = 0; i < node.inputs.size(); ++i) {
      const auto at = node.inputs[i] != kNone ? index_.find(node.inputs[i]) : index_.end();
      if (at == index_.end()) continue;
      if ((spec->flags & (kOpView | kOpControl)) != 0) {
        copy(at->second, graph);
        continue;
      }
      if ((spec->flags & kOpShapeOnly) != 0) continue;
      note(at->second, graph);
      Consumption taken = Consumption::whole;
      if (spec->consume != nullptr) taken = spec->consume(ir_.view(node), i, input_types(ir_, node));
      if (std::count(node.inputs.begin(), node.inputs.end(), node.inputs[i]) > 1) taken = Consumption::whole;
      joined_[at->second] = joined_[at->second] ? join(*joined_[at->second], taken) : taken;
      here.push_back(at->second);
    }
    if (here.size() > 1) shared_nodes_.push_back(std::move(here));
    packed_product(node);
  }

  void packed_product(const IrNode& node) {
    if (!ops::is_quant_product(node.domain, node.op)) return;
    const ops::QuantCut cut = ops::quant_cut(ir_.view(node), input_types(ir_, node));
    const auto weight = index_.find(node.inputs[1]);
    if (weight == index_.end()) return;
    out_[weight->second].row_unit = std::lcm(out_[weight->second].row_unit, cut.row_unit);
    for (const auto& [input, follows] :
         {std::pair(2, cut.scale_follows), std::pair(3, cut.zero_follows)}) {
      if (!follows) continue;
      const auto at = index_.find(node.inputs[static_cast<std::size_t>(input)]);
      if (at != index_.end()) followers_.emplace_back(weight->second, at->second);
    }
  }

  // With other uses beside this one it stays whole.
  void follow(std::size_t weight, std::size_t follower) {
    const bool alone =
        out_[weight].use_count == 1 && out_[follower].use_count == 1 && weight < follower;
    if (alone && out_[weight].consumption == out_[follower].consumption) {
      out_[follower].follows = static_cast<std::uint32_t>(weight);
    } else {
      out_[follower].consumption = Consumption::whole;
    }
  }

  bool cut(std::size_t weight) const {
    if (out_[weight].consumption == Consumption::whole || out_[weight].follows != plan::kNone)
      return false;
    const TypeShape& type = ir_.values[weights_.weights[weight].value].type;
    SlabWeight slab{
        type.dtype, type.shape(), true, 0, static_cast<std::uint64_t>(out_[weight].row_unit),
        plan::kNone};
    const std::uint64_t bytes = checked_bytes(type.dtype, type.dims).value_or(0);
    if (bytes <= kSmallWeightBytes && bytes < slab_bytes_ / 2) return false;
    return slab.shape.rank() > 0 && slab_rows(slab, slab_bytes_) < static_cast<std::uint64_t>(slab.shape[0]);
  }

  void leave_largest(const std::vector<std::size_t>& operands) {
    std::optional<std::size_t> largest;
    const auto bytes = [&](std::size_t weight) {
      const TypeShape& type = ir_.values[weights_.weights[weight].value].type;
      return checked_bytes(type.dtype, type.dims).value_or(0);
    };
    for (const std::size_t weight : operands)
      if (cut(weight) && (!largest || bytes(weight) > bytes(*largest))) largest = weight;
    for (const std::size_t weight : operands) {
      if (!largest || weight == *largest || !cut(weight)) continue;
      out_[weight].consumption = Consumption::whole;
      out_[weight].gather_only = false;
    }
  }

  Ir& ir_;
  const OpRegistry& registry_;
  const WeightPlan& weights_;
  std::uint64_t slab_bytes_;
  std::vector<WeightUsage> out_;
  std::vector<std::optional<Consumption>> joined_;
  std::map<ValueId, std::size_t> index_;
  std::map<std::size_t, bool> copied_;
  std::vector<std::vector<std::size_t>> shared_nodes_;
  std::vector<std::pair<std::size_t, std::size_t>> followers_;  // weight, what is to be cut like it
};

}  // namespace

std::vector<WeightUsage> weight_usage(Ir& ir, const OpRegistry& registry, const WeightPlan& weights, std::uint64_t slab_bytes) {
  return Usage(ir, registry, weights, slab_bytes).run();
}

}  // namespace forebay::builder
