#include "builder/plan_emit.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "builder/slab_layout.h"
#include "builder/weight_uses.h"

namespace forebay::builder {
namespace {

constexpr std::string_view kProducer = "forebay 0.1.0";

// Names that were not taken yet: "x", "x_2", "x_3", ...
class UniqueNames {
 public:
  std::string take(const std::string& wanted) {
    if (taken_.insert(wanted).second) return wanted;
    for (std::size_t& next = next_[wanted];;) {
      next = std::max<std::size_t>(2, next + 1);
      std::string name = wanted + "_" + std::to_string(next);
      if (taken_.insert(name).second) return name;
    }
  }

 private:
  std::unordered_set<std::string> taken_;
  std::unordered_map<std::string, std::size_t> next_;
};

class Emitter {
 public:
  explicit Emitter(const EmitInput& input) : input_(input), ir_(input.ir), plan_(out_.plan) {}

  Result<EmitOutput> run() {
    weights_ = plan_weights(ir_, input_.registry);
    plan_.model_name = input_.model_name;
    plan_.producer = kProducer;
    plan_.refit = input_.options.refit;
    plan_.opsets = ir_.opsets;
    plan_.dim_ranges = input_.ranges;
    FB_TRY(number_boundary());
    FB_TRY(emit_weights());
    plan_.graphs.emplace_back();
    FB_TRY(emit_graph(0, 0));
    for (const StateNames& pair : input_.states) plan_.state_pairs.push_back({value(pair.output), value(pair.input)});
    keep_deciding_sources();
    FB_TRY(add_defaults());
    FB_TRY(set_quantisation());
    FB_TRY(choose_kernels());
    plan_.numerics = {{"slab_bytes", std::to_string(plan_.slab_bytes)}, {"fusions", input_.options.fuse ? "on" : "off"}};
    return std::move(out_);
  }

 private:
  // Inputs and outputs of the model first: their numbers are then the same for every set of passes.
  Status number_boundary() {
    for (const ValueId id : ir_.graphs[0].inputs) value(id);
    for (const ValueId id : ir_.graphs[0].outputs) value(id);
    return {};
  }

  ValueId value(ValueId id) {
    if (id == kNone) return kNone;
    if (const auto at = values_.find(id); at != values_.end()) return at->second;
    const auto number = static_cast<ValueId>(plan_.values.size());
    values_[id] = number;
    const IrValue& from = ir_.values[id];
    plan::Value to;
    to.name = from.name;
    to.dtype = from.type.dtype;
    to.has_rank = from.type.has_rank;
    const auto declared = ir_.declared_outputs.find(id);
    for (std::size_t axis = 0; axis < from.type.dims.size(); ++axis) {
      plan::Dim dim;
      dim.size = from.type.dims[axis];
      if (dim.size < 0 && axis < from.dim_names.size()) dim.name = from.dim_names[axis];
      if (dim.size < 0 && dim.name.empty() && declared != ir_.declared_outputs.end() && axis < declared->second.dim_names.size())
        dim.name = declared->second.dim_names[axis];
      to.dims.push_back(std::move(dim));
    }
    if (from.origin == Origin::input && is_main_input(id)) to.kind = plan::ValueKind::input;
    plan_.values.push_back(std::move(to));
    if (from.origin == Origin::constant) {
      const std::uint32_t index = constant(id);
      plan_.values[number].kind = plan::ValueKind::constant;
      plan_.values[number].index = index;
      plan_.constants[index].value = number;
    }
    return number;
  }

  bool is_main_input(ValueId id) const {
    const auto& inputs = ir_.graphs[0].inputs;
    return std::find(inputs.begin(), inputs.end(), id) != inputs.end();
  }

  std::uint32_t source(std::uint32_t ir_source) {
    const auto [at, added] = sources_.emplace(ir_source, static_cast<std::uint32_t>(plan_.sources.size()));
    if (added) {
      const SourceTensor& from = ir_.sources[ir_source];
      plan::Source to;
      to.name = from.name;
      to.dtype = from.dtype;
      to.shape = from.shape;
      plan_.sources.push_back(std::move(to));
      out_.ir_sources.push_back(ir_source);
    }
    return at->second;
  }

  std::uint32_t add_constant(std::string name, const HostTensor& contents, const std::vector<std::uint32_t>& from_sources) {
    plan::Constant to;
    to.name = std::move(name);
    to.dtype = contents.dtype();
    to.shape = contents.shape();
    to.data.assign(contents.data(), contents.data() + contents.bytes());
    to.kept = !from_sources.empty();
    for (const std::uint32_t from : from_sources) {
      to.sources.push_back(source(from));
      decided_.insert(from);
    }
    plan_.constants.push_back(std::move(to));
    return static_cast<std::uint32_t>(plan_.constants.size() - 1);
  }

  std::uint32_t constant(ValueId id) {
    if (const auto at = constants_.find(id); at != constants_.end()) return at->second;
    const IrValue& from = ir_.values[id];
    return constants_[id] = add_constant(from.name, *from.known, from.known_sources);
  }

  std::vector<plan::Attribute> attributes(const plan::Node& node) {
    std::vector<plan::Attribute> out = node.attributes;
    for (plan::Attribute& attribute : out) {
      auto* tensor = std::get_if<plan::TensorRef>(&attribute.value);
      if (tensor == nullptr) continue;
      const auto [at, added] = attribute_tensors_.emplace(tensor->constant, static_cast<std::uint32_t>(plan_.constants.size()));
      if (added) {
        plan_.constants.push_back(ir_.attributes.constants[tensor->constant]);
        plan_.constants.back().name = node.name.empty() ? node.op + "." + attribute.name : node.name + "." + attribute.name;
      }
      tensor->constant = at->second;
    }
    return out;
  }

  plan::Recipe recipe(const PlannedWeight& weight) {
    plan::Recipe out;
    std::unordered_map<ValueId, std::uint32_t> slots;
    std::unordered_map<std::uint32_t, std::uint32_t> source_slots;
    for (const std::uint32_t from : weight.sources) {
      source_slots[from] = static_cast<std::uint32_t>(out.sources.size());
      out.sources.push_back(source(from));
    }
    for (const ValueId shape : weight.shape_constants) constant(shape);
    auto next = static_cast<std::uint32_t>(out.sources.size());
    const auto slot = [&](ValueId id) {
      if (id == kNone) return kNone;
      const IrValue& from = ir_.values[id];
      if (from.origin == Origin::constant) return plan::kConstantSlot + constant(id);
      return from.origin == Origin::source ? source_slots[from.source] : slots[id];
    };
    for (const IrNode* node : weight.nodes) {
      plan::RecipeNode step;
      step.domain = node->domain;
      step.op = node->op;
      step.version = node->version;
      for (const ValueId input : node->inputs) step.inputs.push_back(slot(input));
      step.output_count = static_cast<std::uint32_t>(node->outputs.size());
      step.attributes = attributes(*node);
      for (const ValueId output : node->outputs) {
        if (output != kNone) slots[output] = next;
        ++next;
      }
      out.nodes.push_back(std::move(step));
    }
    // The last slot is the weight: a node with several outputs may have it elsewhere.
    if (!weight.nodes.empty() && slots[weight.value] + 1 != next) {
      plan::RecipeNode last;
      last.op = "Identity";
      last.version = 13;
      last.inputs = {slots[weight.value]};
      out.nodes.push_back(std::move(last));
    }
    return out;
  }

  Status emit_weights() {
    std::uint64_t total = 0;
    for (const PlannedWeight& weight : weights_.weights) {
      const TypeShape& type = ir_.values[weight.value].type;
      total += checked_bytes(type.dtype, type.dims).value_or(0);
    }
    plan_.slab_bytes = input_.options.slab_bytes != 0 ? input_.options.slab_bytes : auto_slab_bytes(total);
    const std::vector<WeightUsage> usage = weight_usage(ir_, input_.registry, weights_, plan_.slab_bytes);
    std::vector<SlabWeight> slabs;
    UniqueNames names;
    // A weight made by identity has its source's name, so these are taken first.
    for (const PlannedWeight& weight : weights_.weights)
      if (weight.nodes.empty() && ir_.values[weight.value].origin == Origin::source) names.take(ir_.sources[weight.sources[0]].name);
    for (std::size_t i = 0; i < weights_.weights.size(); ++i) {
      const PlannedWeight& from = weights_.weights[i];
      const IrValue& shown = ir_.values[from.value];
      plan::Weight to;
      const bool own_name = from.nodes.empty() && shown.origin == Origin::source;
      to.name = own_name ? ir_.sources[from.sources[0]].name : names.take(shown.name);
      to.dtype = shown.type.dtype;
      to.shape = shown.type.shape();
      to.bytes = checked_bytes(shown.type.dtype, shown.type.dims).value_or(0);
      to.recipe = recipe(from);
      to.consumption = usage[i].consumption;
      to.gather_only = usage[i].gather_only;
      to.use_count = usage[i].use_count;
      to.in_body = usage[i].in_body;
      to.value = value(from.value);
      plan_.values[to.value].kind = plan::ValueKind::weight;
      plan_.values[to.value].index = static_cast<std::uint32_t>(i);
      slabs.push_back({to.dtype, to.shape, to.consumption != plan::Consumption::whole,
                       usage[i].first_graph, static_cast<std::uint64_t>(usage[i].row_unit),
                       usage[i].follows});
      plan_.weights.push_back(std::move(to));
    }
    Result<SlabLayout> laid = lay_out_slabs(slabs, plan_.slab_bytes);
    if (!laid.ok()) return std::move(laid).status();
    plan_.parts = std::move(laid->parts);
    plan_.chunk_parts = std::move(laid->chunk_parts);
    plan_.chunks = std::move(laid->chunks);
    for (std::size_t i = 0; i < plan_.weights.size(); ++i) {
      plan_.weights[i].first_part = laid->first_part[i];
      plan_.weights[i].part_count = laid->first_part[i + 1] - laid->first_part[i];
    }
    return {};
  }

  Status emit_graph(std::uint32_t from_index, std::uint32_t to_index) {
    const IrGraph& from = ir_.graphs[from_index];
    plan_.graphs[to_index].name = from.name;
    for (const ValueId id : from.inputs) {
      const ValueId number = value(id);
      plan_.graphs[to_index].inputs.push_back(number);
    }
    for (const auto& node : from.nodes)
      if (weights_.in_graph.contains(node.get())) FB_TRY(emit_node(*node, to_index));
    for (const ValueId id : from.outputs) {
      const ValueId number = value(id);
      plan_.graphs[to_index].outputs.push_back(number);
    }
    return {};
  }

  Status emit_node(const IrNode& from, std::uint32_t graph) {
    plan::Node to;
    to.name = node_names_.take(from.name.empty() ? from.op : from.name);
    to.domain = from.domain;
    to.op = from.op;
    to.version = from.version;
    to.fused_from = from.fused_from;
    to.attributes = attributes(from);
    for (const ValueId id : from.inputs) to.inputs.push_back(value(id));
    for (plan::Attribute& attribute : to.attributes) {
      auto* body = std::get_if<plan::BodyRef>(&attribute.value);
      if (body == nullptr) continue;
      const auto index = static_cast<std::uint32_t>(plan_.graphs.size());
      plan_.graphs.emplace_back();
      FB_TRY(emit_graph(body->graph, index));
      body->graph = index;
    }
    for (const ValueId id : from.outputs) to.outputs.push_back(value(id));
    plan_.graphs[graph].nodes.push_back(std::move(to));
    emitted_.push_back({&from, graph, static_cast<std::uint32_t>(plan_.graphs[graph].nodes.size() - 1)});
    return {};
  }

  // What decided the graph's form is kept even where no node reads it, so that a refit with other values is refused.
  void keep_deciding_sources() {
    std::unordered_map<std::uint32_t, const IrValue*> values;
    for (const IrValue& value : ir_.values)
      if (value.origin == Origin::source && value.known != nullptr) values.emplace(value.source, &value);
    for (const std::uint32_t from : ir_.decided_by) {
      if (decided_.contains(from)) continue;
      if (const auto at = values.find(from); at != values.end()) add_constant(at->second->name, *at->second->known, {from});
    }
  }

  // Parameters of one element keep the model's value beside them: exporters write numbers of the graph as initializers too, which no
  // checkpoint names.
  Status add_defaults() {
    for (std::size_t i = 0; i < out_.ir_sources.size(); ++i) {
      const SourceTensor& from = ir_.sources[out_.ir_sources[i]];
      if (from.shape.elements() != 1 || !dtype_is_float(from.dtype) || decided_.contains(out_.ir_sources[i])) continue;
      FB_ASSIGN(const HostTensor contents, load_source_tensor(from, 64));
      plan::Constant constant;
      constant.name = from.name;
      constant.dtype = contents.dtype();
      constant.shape = contents.shape();
      constant.data.assign(contents.data(), contents.data() + contents.bytes());
      constant.sources.push_back(static_cast<std::uint32_t>(i));
      plan_.constants.push_back(std::move(constant));
    }
    return {};
  }

  Status set_quantisation() {
    for (const Emitted& place : emitted_) {
      const plan::Node& node = plan_.graphs[place.graph].nodes[place.node];
      if (!node.domain.empty() || node.op != "DequantizeLinear") continue;
      const auto weight_at = [&](std::size_t i) {
        const bool is_weight =
            i < node.inputs.size() && node.inputs[i] != kNone && plan_.values[node.inputs[i]].kind == plan::ValueKind::weight;
        return is_weight ? plan_.values[node.inputs[i]].index : kNone;
      };
      const plan::WeightId values = weight_at(0), scales = weight_at(1), zero_points = weight_at(2);
      if (values == kNone) continue;
      const NodeView view = ir_.view(*place.from);
      for (const plan::WeightId member : {values, scales, zero_points}) {
        if (member == kNone) continue;
        plan::Weight& weight = plan_.weights[member];
        weight.quant_values = values;
        weight.quant_scales = scales;
        weight.quant_zero_points = zero_points;
        weight.quant_axis = static_cast<std::int32_t>(std::clamp<std::int64_t>(view.integer("axis", 1), -kMaxRank, kMaxRank));
        weight.quant_block = static_cast<std::int32_t>(std::clamp<std::int64_t>(view.integer("block_size", 0), 0, INT32_MAX));
      }
    }
    return {};
  }

  Status choose_kernels() {
    plan::KernelSection section;
    section.device_kind = "cpu";
    section.made_by = "heuristic";
    std::vector<Problem> problems;
    for (const Emitted& place : emitted_) {
      const OpSpec* spec = input_.registry.find(place.from->domain, place.from->op, place.from->version);
      if (spec == nullptr || spec->create == nullptr || (spec->flags & (kOpView | kOpControl)) != 0) continue;
      const auto kernel = spec->create(ir_.view(*place.from), input_types(ir_, *place.from), output_types(ir_, *place.from));
      if (!kernel.ok()) {
        problems.insert(problems.end(), kernel.status().problems().begin(), kernel.status().problems().end());
        continue;
      }
      section.entries.push_back({place.graph, place.node, std::string((*kernel)->id()), ""});
    }
    if (!problems.empty()) return Status(Code::unsupported, problems[0].message, std::move(problems));
    plan_.kernels.push_back(std::move(section));
    return {};
  }

  struct Emitted {
    const IrNode* from = nullptr;
    std::uint32_t graph = 0, node = 0;
  };

  const EmitInput& input_;
  Ir& ir_;
  EmitOutput out_;
  plan::Plan& plan_;
  WeightPlan weights_;
  UniqueNames node_names_;
  std::unordered_map<ValueId, ValueId> values_;
  std::unordered_map<ValueId, std::uint32_t> constants_;
  std::unordered_map<std::uint32_t, std::uint32_t> sources_, attribute_tensors_;
  std::unordered_set<std::uint32_t> decided_;  // sources that some kept constant was made from
  std::vector<Emitted> emitted_;
};

}  // namespace

Result<EmitOutput> emit_plan(const EmitInput& input) { return Emitter(input).run(); }

}  // namespace forebay::builder
