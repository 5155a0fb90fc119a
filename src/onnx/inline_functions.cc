// Model-local functions become the nodes of their bodies, at the place of each call. Inner values get the call's name as prefix, so that
// weights inside functions have stable names and no two calls share one.
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/printable.h"
#include "onnx/onnx_model.h"

namespace forebay::onnx {
namespace {

std::string plain_domain(const std::string& domain) { return domain == "ai.onnx" ? std::string() : domain; }

using Key = std::tuple<std::string, std::string, std::string>;  // domain, name, overload
using Names = std::unordered_map<std::string, std::string>;

std::string label_of(const Node& node) {
  if (!node.name.empty()) return node.name;
  for (const std::string& output : node.outputs) {
    if (!output.empty()) return output;
  }
  return node.op;
}

class Inliner {
 public:
  Inliner(Model& model, const Limits& limits) : model_(model), limits_(limits) {}

  Status run() {
    for (const Function& function : model_.functions) {
      const Key key(plain_domain(function.domain), function.name, function.overload);
      if (!functions_.emplace(key, &function).second) {
        return refuse(Code::invalid_model, "the function " + name_of(function) + " is defined twice");
      }
    }
    if (functions_.empty()) return {};
    FB_ASSIGN(const std::uint64_t nodes, expanded_nodes(model_.graph.nodes, 0));
    if (nodes > limits_.max_nodes) return too_many();
    note_names(model_.graph);
    return expand_graph(model_.graph, 0);
  }

 private:
  Status refuse(Code code, std::string why) const { return Status(code, std::move(why)).with_file(model_.file_name); }
  static std::string name_of(const Function& function) {
    std::string name = function.domain.empty() ? function.name : function.domain + "." + function.name;
    if (!function.overload.empty()) name += ":" + function.overload;
    return printable(name);
  }

  Status too_many() const {
    return refuse(Code::resource_exhausted, "the functions of the model expand to more than " + std::to_string(limits_.max_nodes) +
                                                " nodes, or to too long names");
  }

  // Nodes after inlining, counted before a single one is made: functions that call functions multiply. Not exact above the limit.
  Result<std::uint64_t> expanded_nodes(const std::vector<Node>& nodes, int depth) {
    if (depth > limits_.max_depth) {
      return refuse(Code::invalid_model, "functions call each other more than " + std::to_string(limits_.max_depth) + " deep, or for ever");
    }
    std::uint64_t count = 0;
    for (const Node& node : nodes) {
      for (const Attribute& attribute : node.attributes) {
        if (const auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute.value)) {
          FB_ASSIGN(const std::uint64_t inside, expanded_nodes((*body)->nodes, depth + 1));
          count += inside;
        }
      }
      const Function* const function = find(node);
      if (function == nullptr) {
        ++count;
      } else if (const auto known = counts_.find(function); known != counts_.end()) {
        count += known->second;
      } else {
        FB_ASSIGN(const std::uint64_t inside, expanded_nodes(function->nodes, depth + 1));
        counts_[function] = inside;
        count += inside;
      }
      if (count > limits_.max_nodes) return limits_.max_nodes + 1;
    }
    return count;
  }

  void note_names(const Graph& graph) {
    for (const ValueInfo& info : graph.inputs) taken_.insert(info.name);
    for (const SourceTensor& tensor : graph.initializers) taken_.insert(tensor.name);
    for (const Node& node : graph.nodes) {
      for (const std::string& output : node.outputs) taken_.insert(output);
      for (const Attribute& attribute : node.attributes) {
        if (const auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute.value)) note_names(**body);
      }
    }
  }
  std::string fresh(const std::string& wanted) {
    std::string name = wanted;
    name_bytes_ += name.size();
    // The last number given to this name is kept: functions that call functions want the same name very often.
    while (!taken_.insert(name).second) name = wanted + "#" + std::to_string(++numbers_[wanted] + 1);
    return name;
  }

  Status expand_graph(Graph& graph, int depth) { return expand_nodes(graph.nodes, depth); }

  // Replaces the calls in `nodes`; `depth` counts the functions and graphs around them.
  Status expand_nodes(std::vector<Node>& nodes, int depth) {
    if (depth > limits_.max_depth) {
      return refuse(Code::invalid_model, "functions call each other more than " + std::to_string(limits_.max_depth) + " deep, or for ever");
    }
    bool any = false;
    for (Node& node : nodes) {
      for (Attribute& attribute : node.attributes) {
        if (auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute.value)) FB_TRY(expand_graph(**body, depth + 1));
      }
      any = any || find(node) != nullptr;
    }
    if (!any) return {};
    std::vector<Node> expanded;
    for (Node& node : nodes) {
      const Function* const function = find(node);
      if (function == nullptr) {
        expanded.push_back(std::move(node));
        continue;
      }
      FB_ASSIGN(std::vector<Node> inner, call(*function, node));
      FB_TRY(expand_nodes(inner, depth + 1));
      for (Node& each : inner) expanded.push_back(std::move(each));
    }
    nodes = std::move(expanded);
    return {};
  }

  const Function* find(const Node& node) const {
    const auto found = functions_.find(Key(plain_domain(node.domain), node.op, node.overload));
    return found == functions_.end() ? nullptr : found->second;
  }

  // The body of `function` for this call, its calls not yet expanded.
  Result<std::vector<Node>> call(const Function& function, const Node& node) {
    FB_TRY(check_opsets(function));
    if (node.inputs.size() > function.inputs.size() || node.outputs.size() > function.outputs.size()) {
      return refuse(Code::invalid_model, "the call " + printable(label_of(node)) + " of " + name_of(function) +
                                             " has more inputs or outputs than the function");
    }
    const std::string prefix = label_of(node) + "/";
    Names names;
    for (std::size_t i = 0; i < function.inputs.size(); ++i)
      names[function.inputs[i]] = i < node.inputs.size() ? node.inputs[i] : std::string();
    std::vector<Node> body;
    for (std::size_t i = 0; i < function.outputs.size(); ++i) {
      const std::string wanted = i < node.outputs.size() ? node.outputs[i] : std::string();
      const auto [place, is_new] = names.emplace(function.outputs[i], wanted);
      if (!is_new && !wanted.empty()) body.push_back(identity(node, place->second, wanted));  // an input handed through
      if (is_new && wanted.empty()) place->second = fresh(prefix + function.outputs[i]);
    }
    std::vector<Node> inner = function.nodes;
    for (Node& each : inner) FB_TRY(adopt(each, function, node, prefix, names));
    inner.insert(inner.end(), std::make_move_iterator(body.begin()), std::make_move_iterator(body.end()));
    nodes_ += inner.size();
    name_bytes_ += inner.size() * prefix.size();
    // Every copy carries the names of its callers. Calls that add no node of their own (Identity) are not in the count above.
    if (nodes_ > 2 * limits_.max_nodes || name_bytes_ > limits_.max_model_bytes) return too_many();
    return inner;
  }

  static Node identity(const Node& call, const std::string& from, const std::string& to) {
    Node node;
    node.name = label_of(call) + "/Identity";
    node.op = "Identity";
    node.inputs = {from};
    node.outputs = {to};
    node.function_stack = call.function_stack;
    return node;
  }

  Status check_opsets(const Function& function) {
    for (const auto& [domain, version] : function.opsets) {
      bool found = false;
      for (const auto& [known, model_version] : model_.opsets) {
        if (plain_domain(known) != plain_domain(domain)) continue;
        found = true;
        if (model_version != version && uses(function.nodes, plain_domain(domain))) {
          return refuse(Code::unsupported, "the function " + name_of(function) + " is written for opset " + std::to_string(version) +
                                               " of domain \"" + printable(domain) + "\", the model for " + std::to_string(model_version))
              .with_hint("inline the functions with onnx.inliner, or convert the model to one opset");
        }
      }
      if (!found) model_.opsets.emplace_back(domain, version);
    }
    return {};
  }
  bool uses(const std::vector<Node>& nodes, const std::string& domain) const {
    for (const Node& node : nodes) {
      if (plain_domain(node.domain) == domain && find(node) == nullptr) return true;
      for (const Attribute& attribute : node.attributes) {
        const auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute.value);
        if (body != nullptr && uses((*body)->nodes, domain)) return true;
      }
    }
    return false;
  }

  // A node of the function's body becomes one of the calling graph: attributes filled in, values renamed.
  Status adopt(Node& node, const Function& function, const Node& call, const std::string& prefix, Names& names) {
    node.name = prefix + (node.name.empty() ? node.op : node.name);
    node.function_stack = call.function_stack;
    node.function_stack.push_back(name_of(function));
    for (std::string& input : node.inputs) input = renamed(input, prefix, names);
    FB_TRY(adopt_attributes(node, function, call, prefix, names));
    for (std::string& output : node.outputs) output = renamed(output, prefix, names);
    return {};
  }

  std::string renamed(const std::string& name, const std::string& prefix, Names& names) {
    if (name.empty()) return name;
    const auto found = names.find(name);
    if (found != names.end()) return found->second;
    return names.emplace(name, fresh(prefix + name)).first->second;
  }

  Status adopt_attributes(Node& node, const Function& function, const Node& call, const std::string& prefix, Names& names) {
    std::vector<Attribute> kept;
    for (Attribute& attribute : node.attributes) {
      if (!attribute.ref.empty()) {
        const Attribute* const given = argument(attribute.ref, function, call);
        if (given == nullptr) continue;  // not given and no default: the node's own default holds
        Attribute filled = *given;
        filled.name = attribute.name;
        kept.push_back(std::move(filled));
        continue;
      }
      if (const auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute.value)) {
        auto own = std::make_shared<Graph>(**body);
        FB_TRY(adopt_graph(*own, function, call, prefix, names));
        attribute.value = std::move(own);
      }
      kept.push_back(std::move(attribute));
    }
    node.attributes = std::move(kept);
    return {};
  }

  static const Attribute* argument(const std::string& name, const Function& function, const Node& call) {
    for (const Attribute& attribute : call.attributes) {
      if (attribute.name == name) return &attribute;
    }
    for (const Attribute& attribute : function.attribute_defaults) {
      if (attribute.name == name) return &attribute;
    }
    return nullptr;
  }

  // A body inside a function: its own values are renamed too; `names` is copied, since they end with the body.
  Status adopt_graph(Graph& graph, const Function& function, const Node& call, const std::string& prefix, const Names& outer) {
    Names names = outer;
    const auto own = [&](std::string& name) {
      if (!name.empty()) names[name] = fresh(prefix + name);
    };
    for (ValueInfo& input : graph.inputs) own(input.name);
    for (SourceTensor& tensor : graph.initializers) {
      if (names.find(tensor.name) == names.end() || outer.count(tensor.name) != 0) own(tensor.name);
    }
    for (Node& node : graph.nodes) {
      for (std::string& output : node.outputs) own(output);
    }
    const auto map = [&](std::string& name) {
      const auto found = names.find(name);
      if (found != names.end()) name = found->second;
    };
    for (ValueInfo& input : graph.inputs) map(input.name);
    for (SourceTensor& tensor : graph.initializers) map(tensor.name);
    for (std::string& name : graph.sparse) map(name);
    graph.value_infos.clear();  // they spoke of the old names, and of this function before its attributes were known
    for (Node& node : graph.nodes) {
      for (std::string& input : node.inputs) map(input);
      for (std::string& output : node.outputs) map(output);
      node.name = prefix + (node.name.empty() ? node.op : node.name);
      node.function_stack = call.function_stack;
      node.function_stack.push_back(name_of(function));
      FB_TRY(adopt_attributes(node, function, call, prefix, names));
    }
    for (ValueInfo& output : graph.outputs) map(output.name);
    return {};
  }

  Model& model_;
  const Limits& limits_;
  std::map<Key, const Function*> functions_;
  std::map<const Function*, std::uint64_t> counts_;
  std::unordered_set<std::string> taken_;
  std::unordered_map<std::string, unsigned> numbers_;
  std::uint64_t nodes_ = 0, name_bytes_ = 0;
};

}  // namespace

Status inline_functions(Model& model, const Limits& limits) { return Inliner(model, limits).run(); }

}  // namespace forebay::onnx
