#include <algorithm>

#include "base/check.h"
#include "base/name_match.h"
#include "builder/passes.h"

namespace forebay::builder {
namespace {

Status no_such_value(const Ir& ir, const std::string& name, const char* option) {
  std::vector<std::string> names;
  for (const auto& entry : ir.main_names) names.push_back(entry.first);
  Problem problem;
  problem.code = "unknown_value";
  problem.message = std::string(option) + " names '" + name + "', but the main graph has no such value";
  problem.tensor = name;
  problem.hint = did_you_mean(name, names);
  return Status(Code::invalid_argument, std::move(problem));
}

Status cut_outputs(Ir& ir, const std::vector<std::string>& outputs) {
  std::vector<ValueId> kept;
  for (const std::string& name : outputs) {
    const auto at = ir.main_names.find(name);
    if (at == ir.main_names.end()) return no_such_value(ir, name, "--outputs");
    if (std::find(kept.begin(), kept.end(), at->second) != kept.end())
      return Status(Code::invalid_argument, "--outputs names '" + name + "' twice");
    kept.push_back(at->second);
  }
  ir.graphs[0].outputs = kept;
  return {};
}

// The type that a value has as an input: declared, else as inferred from the whole graph.
Status set_input_type(PassContext& context, ValueId id, const std::string& name) {
  IrValue& value = context.ir.values[id];
  if (value.origin == Origin::source) return {};
  if (const auto declared = context.ir.declared_types.find(name); declared != context.ir.declared_types.end()) {
    value.type = declared->second;
    return {};
  }
  if (!value.poisoned && value.type.present()) return {};
  return Status(Code::invalid_argument,
                "--inputs names '" + name +
                    "', whose element type is neither stated by the model nor can be inferred; cut elsewhere or run a "
                    "shape inference tool on the model first");
}

Status cut_inputs(PassContext& context, const std::vector<std::string>& inputs) {
  Ir& ir = context.ir;
  std::vector<ValueId> wanted;
  bool inferred = false;
  for (const std::string& name : inputs) {
    const auto at = ir.main_names.find(name);
    if (at == ir.main_names.end()) return no_such_value(ir, name, "--inputs");
    if (std::find(wanted.begin(), wanted.end(), at->second) != wanted.end())
      return Status(Code::invalid_argument, "--inputs names '" + name + "' twice");
    wanted.push_back(at->second);
    const IrValue& value = ir.values[at->second];
    if (!inferred && value.origin == Origin::computed && !ir.declared_types.contains(name)) {
      TypeInference all(ir, context.registry, context.host);  // its problems may lie in what is cut away
      all.run();
      inferred = true;
    }
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) FB_TRY(set_input_type(context, wanted[i], inputs[i]));
  if (inferred) context.host.forget_computed(0);
  const std::vector<ValueId> before = ir.graphs[0].inputs;
  for (const ValueId id : wanted) {
    IrValue& value = ir.values[id];
    if (value.producer != nullptr)
      for (ValueId& output : value.producer->outputs)
        if (output == id) output = kNone;
    value.origin = Origin::input;
    value.source = kNone;
    value.producer = nullptr;
    value.poisoned = false;
    value.knowledge = IrValue::Knowledge::untried;
    value.known.reset();
  }
  ir.graphs[0].inputs = wanted;
  FB_TRY(pass_dead_code(context).status());
  std::vector<std::string> missing;
  const UseIndex uses(ir);
  for (const ValueId id : before) {
    if (std::find(wanted.begin(), wanted.end(), id) != wanted.end()) continue;
    if (!uses.uses(id).empty() || uses.is_graph_output(id)) missing.push_back(ir.values[id].name);
  }
  if (missing.empty()) return {};
  std::string list;
  for (const std::string& name : missing) list += (list.empty() ? "'" : ", '") + name + "'";
  return Status(Code::invalid_argument, "--inputs leaves out " + list + ", which the outputs still need; name it too");
}

}  // namespace

Status pass_cut(PassContext& context, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs) {
  if (!outputs.empty()) FB_TRY(cut_outputs(context.ir, outputs));
  FB_TRY(pass_dead_code(context).status());
  if (!inputs.empty()) FB_TRY(cut_inputs(context, inputs));
  return {};
}

}  // namespace forebay::builder
