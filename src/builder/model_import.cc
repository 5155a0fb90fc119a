#include "builder/model_import.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/name_match.h"
#include "onnx/tensor_walk.h"

namespace forebay::builder {
namespace {

// Attributes hold small tensors (the fill of ConstantOfShape); a table belongs into a Constant or an initializer.
constexpr std::uint64_t kMaxAttributeTensorBytes = 1ull << 20;

std::string plain_domain(const std::string& domain) { return domain == "ai.onnx" ? std::string() : domain; }

class Importer {
 public:
  Importer(const onnx::Model& model, std::vector<Problem>& unsupported) : model_(model), unsupported_(unsupported) {}

  Result<Ir> run() {
    for (const auto& [domain, version] : model_.opsets) {
      const std::int64_t clamped = std::clamp<std::int64_t>(version, INT32_MIN, INT32_MAX);
      ir_.opsets.emplace_back(plain_domain(domain), static_cast<std::int32_t>(clamped));
    }
    std::sort(ir_.opsets.begin(), ir_.opsets.end());
    ir_.graphs.emplace_back();
    import_graph(model_.graph, 0, "");
    declare();
    if (!invalid_.empty()) {
      const std::string message =
          std::to_string(invalid_.size()) + " problem(s) in the graph of " + model_.file_name + ": " + invalid_[0].message;
      return Status(Code::invalid_model, message, std::move(invalid_));
    }
    ir_.set_producers();
    return std::move(ir_);
  }

 private:
  using Scope = std::map<std::string, ValueId, std::less<>>;

  void refuse(std::string code, std::string message, const std::string& tensor = {}) {
    Problem problem;
    problem.code = std::move(code);
    problem.message = std::move(message);
    problem.file = model_.file_name;
    problem.tensor = tensor;
    invalid_.push_back(std::move(problem));
  }

  void not_supported(std::string message, const std::string& tensor) {
    Problem problem;
    problem.code = "unsupported_tensor";
    problem.message = std::move(message);
    problem.file = model_.file_name;
    problem.tensor = tensor;
    unsupported_.push_back(std::move(problem));
  }

  ValueId define(const std::string& name, const std::string& prefix, TypeShape type) {
    const ValueId id = ir_.add_value(prefix + name, std::move(type));
    if (!scopes_.back().emplace(name, id).second)
      refuse("name_twice", "'" + prefix + name + "' is defined twice in the same graph; every value must have one definition", name);
    return id;
  }

  ValueId look_up(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const auto at = scope->find(name); at != scope->end()) return at->second;
    return kNone;
  }

  void add_source(const SourceTensor& tensor, const std::string& prefix, bool literal = false) {
    TypeShape type;
    type.dtype = tensor.dtype;
    type.has_rank = true;
    type.dims.assign(tensor.shape.dims().begin(), tensor.shape.dims().end());
    const ValueId id = define(tensor.name, prefix, std::move(type));
    ir_.values[id].origin = Origin::source;
    ir_.values[id].literal = literal;
    ir_.values[id].source = static_cast<std::uint32_t>(ir_.sources.size());
    ir_.sources.push_back(tensor);
    ir_.sources.back().name = prefix + tensor.name;
  }

  static void set_dims(const onnx::ValueInfo& info, TypeShape& type, std::vector<std::string>& names) {
    type.dtype = info.dtype;
    type.has_rank = info.has_shape;
    for (const onnx::ValueInfo::Dim& dim : info.dims) {
      type.dims.push_back(dim.size);
      names.push_back(dim.size < 0 ? dim.name : std::string());
    }
  }

  void add_input(const onnx::ValueInfo& info, std::uint32_t graph, const std::string& prefix) {
    TypeShape type;
    std::vector<std::string> names;
    set_dims(info, type, names);
    const bool body = graph != 0;  // types of body inputs come from the node
    if (body) type = TypeShape();
    const ValueId id = define(info.name, prefix, std::move(type));
    IrValue& value = ir_.values[id];
    value.origin = Origin::input;
    if (!body) value.dim_names = std::move(names);
    ir_.graphs[graph].inputs.push_back(id);
    if (!info.unsupported.empty()) {
      not_supported("input '" + info.name + "' is of type " + info.unsupported + "; only dense tensors are supported", info.name);
      value.poisoned = true;
    } else if (!body && info.dtype == DType::none) {
      refuse("input_without_type", "input '" + info.name + "' states no element type", info.name);
    } else if (!body && info.dims.size() > static_cast<std::size_t>(kMaxRank)) {
      not_supported("input '" + info.name + "' has rank " + std::to_string(info.dims.size()) + "; at most 8 are supported", info.name);
      value.poisoned = true;
      value.type.dims.clear();
      value.type.has_rank = false;
    }
  }

  void import_graph(const onnx::Graph& graph, std::uint32_t index, const std::string& prefix) {
    scopes_.emplace_back();
    ir_.graphs[index].name = graph.name;
    std::set<std::string_view> initialized;
    for (const SourceTensor& tensor : graph.initializers) initialized.insert(tensor.name);
    for (const std::string& name : graph.sparse) {
      initialized.insert(name);
      not_supported("sparse initializer '" + prefix + name + "': store it dense", prefix + name);
      ir_.values[define(name, prefix, TypeShape())].poisoned = true;
    }
    // An initializer that is also an input is a default value of old IR versions: a weight, not an input.
    for (const onnx::ValueInfo& input : graph.inputs)
      if (index != 0 || !initialized.contains(input.name)) add_input(input, index, prefix);
    for (const SourceTensor& tensor : graph.initializers) add_source(tensor, prefix);
    for (const onnx::Node& node : graph.nodes) import_node(node, index, prefix);
    for (const onnx::ValueInfo& output : graph.outputs) {
      const ValueId id = look_up(output.name);
      if (id == kNone) {
        refuse("unknown_name", "output '" + prefix + output.name + "' is made by no node; " + suggest(output.name), output.name);
        continue;
      }
      ir_.graphs[index].outputs.push_back(id);
      if (!output.unsupported.empty()) {
        not_supported("output '" + prefix + output.name + "' is of type " + output.unsupported + "; only dense tensors are supported",
                      output.name);
        ir_.values[id].poisoned = true;
      }
    }
    if (index == 0) ir_.main_names = scopes_.back();
    scopes_.pop_back();
  }

  std::string suggest(const std::string& name) const {
    std::vector<std::string> names;
    for (const Scope& scope : scopes_)
      for (const auto& entry : scope) names.push_back(entry.first);
    return did_you_mean(name, names);
  }

  std::int32_t version_of(const std::string& domain) const {
    for (const auto& [name, version] : ir_.opsets)
      if (name == domain) return version;
    return -1;
  }

  void import_node(const onnx::Node& written, std::uint32_t graph, const std::string& prefix) {
    if (written.op == "Constant" && plain_domain(written.domain).empty()) return import_constant(written, prefix);
    auto node = std::make_unique<IrNode>();
    node->graph = graph;
    node->name = written.name;
    node->domain = plain_domain(written.domain);
    node->op = written.op;
    node->version = version_of(node->domain);
    node->function_stack = written.function_stack;
    if (node->version < 0) {
      Problem problem = node_problem(*node, "no_opset", "the model imports no opset for domain '" + node->domain + "'");
      problem.file = model_.file_name;
      if (node->domain.empty()) invalid_.push_back(std::move(problem));  // a foreign domain is reported as unsupported by the registry
    }
    for (const std::string& name : written.inputs) {
      if (name.empty()) {
        node->inputs.push_back(kNone);
        continue;
      }
      const ValueId id = look_up(name);
      if (id == kNone) {
        Problem problem = node_problem(*node, "unknown_name", "input '" + name + "' is defined nowhere before this node; " + suggest(name));
        problem.file = model_.file_name;
        problem.tensor = name;
        invalid_.push_back(std::move(problem));
      }
      node->inputs.push_back(id);
    }
    while (!node->inputs.empty() && node->inputs.back() == kNone && written.inputs[node->inputs.size() - 1].empty())
      node->inputs.pop_back();
    node->refused = import_attributes(written, *node, prefix);
    for (const std::string& name : written.outputs) node->outputs.push_back(name.empty() ? kNone : define(name, prefix, TypeShape()));
    while (!node->outputs.empty() && node->outputs.back() == kNone) node->outputs.pop_back();
    ir_.graphs[graph].nodes.push_back(std::move(node));
  }

  void import_constant(const onnx::Node& written, const std::string& prefix) {
    if (const auto tensor = onnx::constant_tensor(written); tensor && !tensor->name.empty()) return add_source(*tensor, prefix, true);
    IrNode node;
    node.name = written.name;
    node.op = written.op;
    node.version = version_of("");
    node.function_stack = written.function_stack;
    unsupported_.push_back(
        node_problem(node, "unsupported_constant", "holds no dense tensor of numbers (strings and sparse tensors are not supported)"));
    for (const std::string& name : written.outputs)
      if (!name.empty()) ir_.values[define(name, prefix, TypeShape())].poisoned = true;
  }

  // True when an attribute was refused.
  bool import_attributes(const onnx::Node& written, IrNode& node, const std::string& prefix) {
    bool refused = false;
    for (const onnx::Attribute& attribute : written.attributes) {
      if (!attribute.unsupported.empty()) {
        unsupported_.push_back(
            node_problem(node, "unsupported_attribute", "attribute '" + attribute.name + "' is of kind " + attribute.unsupported));
        refused = true;
        continue;
      }
      plan::Attribute out;
      out.name = attribute.name;
      if (std::holds_alternative<std::monostate>(attribute.value)) {
        if (!attribute.ref.empty())
          invalid_.push_back(
              node_problem(node, "bad_attribute", "attribute '" + attribute.name + "' refers to a function's attribute outside of one"));
        continue;
      }
      if (const auto* tensor = std::get_if<SourceTensor>(&attribute.value)) {
        Result<HostTensor> loaded = load_source_tensor(*tensor, kMaxAttributeTensorBytes);
        if (!loaded.ok()) {
          Problem problem = loaded.status().problems()[0];
          problem.message = "attribute '" + attribute.name + "': " + problem.message;
          problem.node = node.name;
          problem.op = op_label(node);
          unsupported_.push_back(std::move(problem));
          refused = true;
          continue;
        }
        out.value = plan::TensorRef{ir_.add_attribute_tensor(std::move(loaded).value())};
      } else if (const auto* body = std::get_if<std::shared_ptr<onnx::Graph>>(&attribute.value)) {
        const auto index = static_cast<std::uint32_t>(ir_.graphs.size());
        ir_.graphs.emplace_back();
        import_graph(**body, index, onnx::body_prefix(prefix, written, attribute.name));
        out.value = plan::BodyRef{index};
      } else {
        copy_plain(attribute, out);
      }
      node.attributes.push_back(std::move(out));
    }
    return refused;
  }

  static void copy_plain(const onnx::Attribute& attribute, plan::Attribute& out) {
    std::visit(
        [&](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (!std::is_same_v<T, std::monostate> && !std::is_same_v<T, SourceTensor> &&
                        !std::is_same_v<T, std::shared_ptr<onnx::Graph>>)
            out.value = value;
        },
        attribute.value);
  }

  void declare() {
    for (const onnx::ValueInfo& output : model_.graph.outputs) {
      const auto at = ir_.main_names.find(output.name);
      if (at == ir_.main_names.end()) continue;
      TypeShape type;
      DeclaredOutput declared;
      set_dims(output, type, declared.dim_names);
      declared.dtype = output.dtype;
      ir_.declared_outputs[at->second] = std::move(declared);
    }
    for (const onnx::ValueInfo& info : model_.graph.value_infos) {
      TypeShape type;
      std::vector<std::string> names;
      set_dims(info, type, names);
      if (type.present() && info.unsupported.empty() && type.dims.size() <= static_cast<std::size_t>(kMaxRank))
        ir_.declared_types[info.name] = std::move(type);
    }
  }

  const onnx::Model& model_;
  std::vector<Problem>& unsupported_;
  std::vector<Problem> invalid_;
  std::vector<Scope> scopes_;
  Ir ir_;
};

}  // namespace

Result<Ir> import_model(const onnx::Model& model, std::vector<Problem>& unsupported) { return Importer(model, unsupported).run(); }

}  // namespace forebay::builder
