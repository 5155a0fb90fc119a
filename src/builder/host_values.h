// Contents of values as far as they follow from constants, small tensors of the file and known shapes: what shape arithmetic needs at
// build. Asked for on demand, so that no payload is read that nothing needs.
#pragma once

#include <unordered_map>

#include "builder/graph_ir.h"
#include "runtime/thread_pool.h"

namespace forebay::builder {

// A tensor that decides shapes is small; anything larger counts as not known.
inline constexpr std::uint64_t kMaxHostValueBytes = 1ull << 20;

class HostValues {
 public:
  HostValues(Ir& ir, const OpRegistry& registry, ThreadPool& pool) : ir_(ir), registry_(registry), pool_(pool) {}
  // Null when not known. The pointer lives as long as the Ir, or until forget_computed.
  const HostTensor* get(ValueId value);
  // As get for inputs that the operator wants on the host; null elsewhere unless known already. One entry per input.
  std::vector<const HostTensor*> of_node(const IrNode& node, const OpSpec& spec);
  // Symbols of unknown dims (partial_values.h), kept for values whose dims follow from others.
  const std::vector<std::int64_t>* symbols(ValueId value) const {
    const auto at = symbols_.find(value);
    return at != symbols_.end() ? &at->second : nullptr;
  }
  void set_symbols(ValueId value, std::vector<std::int64_t> dims) { symbols_[value] = std::move(dims); }
  // What is known of the outputs of the nodes of `graph` and of the bodies inside, poison included: types have changed.
  void forget_computed(std::uint32_t graph);
  // The first read of a payload that failed; shape arithmetic over it was taken as not known.
  const Status& first_failure() const { return failure_; }

 private:
  void settle(ValueId value);
  bool ready_inputs(const IrNode& node, std::vector<ValueId>& pending);
  void load(IrValue& value);
  void evaluate(const IrNode& node);
  bool shape_only(const IrNode& node);
  bool evaluable(const IrNode& node, const OpSpec& spec);
  void set_unknown(const IrNode& node);
  void set_partly(const IrNode& node);

  Ir& ir_;
  const OpRegistry& registry_;
  ThreadPool& pool_;
  Status failure_;
  std::unordered_map<ValueId, std::vector<std::int64_t>> symbols_;
  int nesting_ = 0;  // of set_partly, which asks for other values
};

}  // namespace forebay::builder
