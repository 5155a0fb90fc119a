// Element types and shapes of every value, bodies included, by the registry's infer functions; for control nodes from their bodies.
// What the model declares about intermediate values is not trusted.
#pragma once

#include <vector>

#include "builder/graph_ir.h"
#include "builder/host_values.h"

namespace forebay::builder {

class TypeInference {
 public:
  TypeInference(Ir& ir, const OpRegistry& registry, HostValues& host) : ir_(ir), registry_(registry), host_(host) {}

  // Infers everything and asks for every kernel. Problems of all nodes are collected: `invalid` ones and `unsupported` ones; what depends
  // on a refused node is poisoned and not reported again.
  void run();
  // One new node of a pass, its inputs being inferred. Fails instead of collecting.
  Status infer_added(IrNode& node);

  std::vector<Problem> invalid, unsupported;

 private:
  void graph(std::uint32_t index);
  void node(IrNode& node);
  Status ordinary(IrNode& node, const OpSpec& spec);
  Status control(IrNode& node);
  Status branch(IrNode& node);
  Status loop(IrNode& node);
  Status scan(IrNode& node);
  // Infers a body again and again with its carried inputs widened until nothing changes. `carried` pairs body input and body output.
  Status iterate(IrNode& node, std::uint32_t body, const std::vector<std::pair<ValueId, ValueId>>& carried);
  void set_type(ValueId value, TypeShape type);
  void collect(const IrNode& node, const Status& status);
  void poison(const IrNode& node);
  bool poisoned_input(const IrNode& node) const;

  Ir& ir_;
  const OpRegistry& registry_;
  HostValues& host_;
};

// What holds for both: dims that differ become unknown, ranks that differ leave none. Element types must be equal (checked before).
TypeShape widen(const TypeShape& a, const TypeShape& b);

}  // namespace forebay::builder
