#include "runtime/compiled_plan.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/kernel_choice.h"
#include "runtime/ops/quant_layout.h"

namespace forebay {
namespace {

using plan::kNone;

class Compiler {
 public:
  explicit Compiler(std::shared_ptr<const plan::Plan> plan) : out_(std::make_shared<CompiledPlan>()), plan_(*plan) {
    out_->choices = std::make_shared<RecordedChoices>(plan_);
    out_->plan = std::move(plan);
  }

  Result<std::shared_ptr<const CompiledPlan>> run() {
    out_->graphs.resize(plan_.graphs.size());
    out_->gathered.assign(plan_.weights.size(), false);
    out_->loaded.assign(plan_.values.size(), false);
    for (std::size_t w = 0; w < plan_.weights.size(); ++w) {
      const plan::Weight& weight = plan_.weights[w];
      out_->gathered[w] = weight.gather_only && weight.bytes >= kGatherSlabs * std::max<std::uint64_t>(1, plan_.slab_bytes);
    }
    ungather_packed();
    for (std::size_t w = 0; w < plan_.weights.size(); ++w) {
      if (out_->gathered[w]) out_->gathered_bytes += plan_.weights[w].bytes;
    }
    FB_TRY(compile_graph(0, false));
    if (!problems_.empty()) {
      const std::string count = std::to_string(problems_.size());
      return Status(Code::unsupported, count + " node(s) of the plan cannot run in this build", std::move(problems_));
    }
    return std::shared_ptr<const CompiledPlan>(std::move(out_));
  }

 private:
  // A gathered weight shares no chunk with others: the chunk then takes no place at all.
  void ungather_packed() {
    for (const plan::Chunk& chunk : plan_.chunks) {
      if (chunk.part_count < 2) continue;
      for (std::uint32_t i = 0; i < chunk.part_count; ++i) out_->gathered[plan_.parts[plan_.chunk_parts[chunk.first_part + i]].weight] = false;
    }
  }

  bool is_weight(plan::ValueId value) const { return value != kNone && plan_.values[value].kind == plan::ValueKind::weight; }

  Status compile_graph(std::uint32_t index, bool in_body) {
    const plan::Graph& graph = plan_.graphs[index];
    CompiledGraph& out = out_->graphs[index];
    segment_open_ = false;
    for (const plan::Node& node : graph.nodes) {
      const OpSpec* spec = OpRegistry::builtin().find(node.domain, node.op, node.version);
      if (spec == nullptr) {
        Problem p;
        p.code = "unsupported_operator";
        p.node = node.name;
        p.op = node.domain.empty() ? node.op : node.domain + "::" + node.op;
        p.message = OpRegistry::builtin().why_missing(node.domain, node.op, node.version);
        problems_.push_back(std::move(p));
        continue;
      }
      if ((spec->flags & kOpView) != 0 && is_weight(node.inputs[0])) FB_TRY(load_weight(out, node.inputs[0], in_body));
      if ((spec->flags & kOpControl) != 0) {
        FB_TRY(control(out, node, *spec));
        continue;
      }
      Step step;
      step.node = &node;
      step.spec = spec;
      step.kind = (spec->flags & kOpView) != 0 ? Step::Kind::view : Step::Kind::kernel;
      if (step.kind == Step::Kind::kernel) FB_TRY(weights(step, in_body));
      out.steps.push_back(std::move(step));
    }
    for (const plan::ValueId value : graph.outputs) {
      if (is_weight(value)) FB_TRY(load_weight(out, value, in_body));
    }
    return {};
  }

  Status control(CompiledGraph& out, const plan::Node& node, const OpSpec& spec) {
    for (const plan::ValueId value : node.inputs) {
      if (is_weight(value)) FB_TRY(load_weight(out, value, false));
    }
    Step step;
    step.node = &node;
    step.spec = &spec;
    step.kind = Step::Kind::control;
    for (const plan::Attribute& attribute : node.attributes) {
      if (const auto* body = std::get_if<plan::BodyRef>(&attribute.value)) step.bodies.push_back(body->graph);
    }
    out.steps.push_back(step);
    for (const std::uint32_t body : step.bodies) FB_TRY(compile_graph(body, true));
    segment_open_ = false;  // what follows is a segment of its own
    return {};
  }

  // Gives a weight storage of its own, once a graph: for views of it, control nodes and graph outputs.
  Status load_weight(CompiledGraph& out, plan::ValueId value, bool in_body) {
    const auto same = [&](const Step& s) { return s.kind == Step::Kind::load_weight && s.loaded == value; };
    if (std::any_of(out.steps.begin(), out.steps.end(), same)) return {};
    out_->loaded[value] = true;
    const plan::WeightId id = plan_.values[value].index;
    out_->gathered[id] = false;
    Step step;
    step.kind = Step::Kind::load_weight;
    step.loaded = value;
    step.weights.push_back({0, id, 0});
    step.sliced_input = 0;
    add_substeps(step, in_body);
    out.steps.push_back(std::move(step));
    return {};
  }

  Status weights(Step& step, bool in_body) {
    const plan::Node& node = *step.node;
    for (std::uint32_t i = 0; i < node.inputs.size(); ++i) {
      if (!is_weight(node.inputs[i])) continue;
      const plan::WeightId id = plan_.values[node.inputs[i]].index;
      if (out_->gathered[id]) {
        step.kind = Step::Kind::gather_rows;
        step.weights.assign(1, {i, id, 0});
        return {};
      }
      if (plan_.weights[id].part_count > 1) {
        if (step.sliced_input != kNone && step.weights.front().weight != id) {
          if (!ops::is_quant_product(node.domain, node.op) ||
              !cut_alike(step.weights.front().weight, id))
            return Status(Code::invalid_model,
                          "node '" + node.name + "' takes two weights slab by slab");
          step.weights.push_back({i, id, 0});
          continue;
        }
        step.sliced_input = i;
        step.weights.insert(step.weights.begin(), {i, id, 0});
      } else {
        step.weights.push_back({i, id, 0});
      }
    }
    if (!step.weights.empty()) add_substeps(step, in_body);
    return {};
  }

  // Each slab of `other` belongs to the same rows as that of `weight`, in proportion.
  bool cut_alike(plan::WeightId weight, plan::WeightId other) const {
    const plan::Weight &a = plan_.weights[weight], &b = plan_.weights[other];
    if (a.part_count != b.part_count || a.shape.rank() == 0 || b.shape.rank() == 0) return false;
    for (std::uint32_t p = 0; p < a.part_count; ++p) {
      const auto one = checked_mul(plan_.parts[a.first_part + p].row_begin,
                                   static_cast<std::uint64_t>(b.shape[0]));
      const auto two = checked_mul(plan_.parts[b.first_part + p].row_begin,
                                   static_cast<std::uint64_t>(a.shape[0]));
      if (!one || !two || *one != *two) return false;
    }
    return true;
  }

  void add_substeps(Step& step, bool in_body) {
    PassProgram& program = out_->program;
    if (!segment_open_) {
      program.segments.push_back({static_cast<std::uint32_t>(program.substeps.size()), 0, in_body});
      segment_open_ = true;
    }
    step.segment = static_cast<std::uint32_t>(program.segments.size() - 1);
    step.first_substep = static_cast<std::uint32_t>(program.substeps.size());
    step.substep_count = step.sliced_input == kNone ? 1 : plan_.weights[step.weights.front().weight].part_count;
    for (std::uint32_t s = 0; s < step.substep_count; ++s) {
      PassProgram::Substep substep{static_cast<std::uint32_t>(program.uses.size()), 0};
      for (WeightOperand& operand : step.weights) {
        const plan::Weight& weight = plan_.weights[operand.weight];
        const std::uint32_t part = weight.first_part + (weight.part_count > 1 ? s : 0);
        const plan::ChunkId chunk = plan_.parts[part].chunk;
        std::uint32_t use = 0;
        while (use < substep.use_count && program.uses[substep.first_use + use] != chunk) ++use;
        if (use == substep.use_count) {
          program.uses.push_back(chunk);
          ++substep.use_count;
        }
        operand.use = use;
      }
      program.substeps.push_back(substep);
    }
    program.segments.back().substep_count += step.substep_count;
  }

  std::shared_ptr<CompiledPlan> out_;
  const plan::Plan& plan_;
  std::vector<Problem> problems_;
  bool segment_open_ = false;
};

}  // namespace

Result<std::shared_ptr<const CompiledPlan>> compile_plan(std::shared_ptr<const plan::Plan> plan) { return Compiler(std::move(plan)).run(); }

}  // namespace forebay
