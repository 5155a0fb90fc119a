// The builder's mutable typed graph. Values are numbered over the whole model, bodies included; nodes have stable addresses, so that a
// value can point at its producer while passes insert and remove nodes around it.
//
// A tensor of the file is a value of origin `source`; passes treat nodes over sources like any other nodes. What depends on sources alone
// becomes a recipe or a constant only when the plan is emitted (weight_recipes.h), so every rewrite is an ordinary graph rewrite.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/source_tensor.h"
#include "plan/plan_data.h"
#include "runtime/op.h"

namespace forebay::builder {

using plan::kNone;
using plan::ValueId;

enum class Origin : std::uint8_t {
  computed,  // output of a node
  input,     // of the main graph or of a body
  source,    // a tensor of the file: Ir::sources
  constant,  // contents known, kept in the plan: IrValue::known
};

struct IrNode : plan::Node {
  std::uint32_t graph = 0;
  std::vector<std::string> function_stack;  // for messages
  bool refused = false;                     // the importer has reported it
  bool removed = false;                     // swept by Ir::sweep
};

struct IrValue {
  std::string name;
  TypeShape type;
  std::vector<std::string> dim_names;  // beside type.dims for inputs and outputs; "" or missing: anonymous
  Origin origin = Origin::computed;
  std::uint32_t source = kNone;
  bool literal = false;  // a source that is the value of a Constant node: part of the graph as written
  IrNode* producer = nullptr;
  // Contents as far as asked for and known (host_values.h), and the sources that they were made from, sorted.
  enum class Knowledge : std::uint8_t { untried, unknown, known } knowledge = Knowledge::untried;
  std::shared_ptr<const HostTensor> known;
  std::vector<std::uint32_t> known_sources;
  bool poisoned = false;  // its type is not known because of a problem that has been reported
};

struct IrGraph {
  std::string name;
  std::vector<ValueId> inputs, outputs;
  std::vector<std::unique_ptr<IrNode>> nodes;  // in execution order
};

// What the model states about an output of the main graph.
struct DeclaredOutput {
  DType dtype = DType::none;
  std::vector<std::string> dim_names;
};

struct Ir {
  std::vector<IrValue> values;
  std::vector<IrGraph> graphs;        // [0] is the main graph
  std::vector<SourceTensor> sources;  // `name` is the path name (onnx/tensor_walk.h)
  plan::Plan attributes;              // its constants hold the tensors of attributes (NodeView looks them up there)
  std::vector<std::pair<std::string, std::int32_t>> opsets;
  // Sources whose values decided the graph itself (a known branch): kept in the plan with their digests, though no node reads them.
  std::vector<std::uint32_t> decided_by;
  std::map<std::string, ValueId, std::less<>> main_names;        // values of the main graph
  std::map<ValueId, DeclaredOutput> declared_outputs;            // of the main graph
  std::map<std::string, TypeShape, std::less<>> declared_types;  // value_infos of the main graph, for cut inputs only

  Ir() = default;
  Ir(const Ir&) = delete;
  Ir& operator=(const Ir&) = delete;
  Ir(Ir&&) = default;
  Ir& operator=(Ir&&) = default;

  NodeView view(const IrNode& node) const { return NodeView(node, attributes); }
  ValueId add_value(std::string name, TypeShape type);
  ValueId add_constant(std::string name, std::shared_ptr<const HostTensor> contents, std::vector<std::uint32_t> from_sources);
  std::uint32_t add_attribute_tensor(HostTensor tensor);
  // A new node of `graph`, not yet in it: its outputs have no producer before set_producers().
  std::unique_ptr<IrNode> make_node(std::uint32_t graph, std::string name, std::string op, std::int32_t version,
                                    std::vector<ValueId> inputs, std::vector<ValueId> outputs) const;
  void set_producers();  // from the nodes
  // Drops nodes marked removed.
  void sweep();
  std::size_t node_count() const;
};

// Type of input `i` of a node; absent for kNone.
TypeShape input_type(const Ir& ir, const plan::Node& node, std::size_t i);
std::vector<TypeShape> input_types(const Ir& ir, const plan::Node& node);
std::vector<TypeShape> output_types(const Ir& ir, const plan::Node& node);

// Graphs that are bodies of `node`, in attribute order.
std::vector<std::uint32_t> bodies_of(const plan::Node& node);

// Every node in execution order; the bodies of a node come before the node itself. Depth is bounded by the model reader's limit.
void for_each_node(Ir& ir, const std::function<void(IrNode&)>& visit);
std::vector<IrNode*> execution_order(Ir& ir);

// Where a value is read. Graph outputs count apart.
struct Use {
  IrNode* node = nullptr;
  std::uint32_t input = 0;
};
class UseIndex {
 public:
  explicit UseIndex(Ir& ir);
  const std::vector<Use>& uses(ValueId value) const { return uses_[value]; }
  bool is_graph_output(ValueId value) const { return output_[value] != 0; }
  // One reader in all, and not an output of any graph.
  bool single_use(ValueId value) const { return uses_[value].size() == 1 && !is_graph_output(value); }

 private:
  std::vector<std::vector<Use>> uses_;
  std::vector<char> output_;
};

// Values to be read in place of others; chains are followed. apply() rewrites every input and every graph output.
class Substitution {
 public:
  void replace(ValueId from, ValueId to) { map_[from] = to; }
  bool empty() const { return map_.empty(); }
  ValueId resolve(ValueId value) const;
  void apply(Ir& ir) const;

 private:
  std::map<ValueId, ValueId> map_;
};

// Nodes to be placed before others, all at once.
class Insertions {
 public:
  void before(const IrNode& node, std::unique_ptr<IrNode> added) { map_[&node].push_back(std::move(added)); }
  void apply(Ir& ir);

 private:
  std::map<const IrNode*, std::vector<std::unique_ptr<IrNode>>> map_;
};

// "Conv" or "com.microsoft.FusedConv".
std::string op_label(const plan::Node& node);
// A problem of this node with its function stack.
Problem node_problem(const IrNode& node, std::string code, std::string message);

}  // namespace forebay::builder
