// What each value is wanted for: its contents on the host when a node is prepared (shape arithmetic), or as data in a pass.
//
// A value is `fixed` when it follows from tensors of the file and known shapes alone. A fixed value wanted on the host becomes a constant
// of the plan; one wanted as data becomes a weight, unless it is a scalar or made from scalars and shapes only (`weightless`).
#pragma once

#include <vector>

#include "builder/graph_ir.h"

namespace forebay::builder {

enum class EdgeNeed : std::uint8_t { none, host, data };

class ValueNeeds {
 public:
  ValueNeeds(Ir& ir, const OpRegistry& registry);
  // Values added since count as not fixed.
  bool fixed(ValueId value) const { return value < fixed_.size() && fixed_[value] != 0; }
  bool weightless(ValueId value) const { return weightless_[value] != 0; }
  bool wanted_on_host(ValueId value) const { return host_[value] != 0; }
  bool wanted_as_data(ValueId value) const { return data_[value] != 0; }
  // What `node` wants its input `i` for.
  EdgeNeed edge(const IrNode& node, std::uint32_t i) const;

 private:
  void forward(const IrNode& node);
  void backward(const IrNode& node);
  bool output_on_host(const plan::Node& node) const;
  bool output_as_data(const plan::Node& node) const;
  void want(ValueId value, EdgeNeed need);

  const Ir& ir_;
  const OpRegistry& registry_;
  std::vector<char> fixed_, weightless_, derived_, host_, data_;
};

}  // namespace forebay::builder
