// What passes share that put one node in place of a written-out form: they walk from values to the
// nodes that make them, collect what they matched, and ask at the end whether anything outside of
// the match reads an intermediate value.
#pragma once

#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "builder/passes.h"

namespace forebay::builder {

class Pattern {
 public:
  explicit Pattern(PassContext& context) : context_(context), ir_(context.ir), uses_(context.ir) {}

  // Starts a match that will be written into `root`.
  void begin(IrNode& root);
  // Matches can be taken back to a mark, for forms that differ in the order of operands.
  std::size_t mark() const { return matched_.size(); }
  void back_to(std::size_t mark) { matched_.resize(mark); }

  // The node of the standard domain that makes `id`, in the root's graph; null when it is another.
  // Not yet part of the match.
  IrNode* maker(ValueId id) const;
  IrNode* maker(ValueId id, std::string_view op, std::int32_t since = 1) const;
  // As maker, and part of the match.
  IrNode* take(ValueId id, std::string_view op, std::int32_t since = 1);
  void add(IrNode& node) { matched_.push_back(&node); }
  // Goes through casts between float types, which become part of the match.
  ValueId through_casts(ValueId id);
  // The only reader of `id`; null when it is a graph output or has several.
  IrNode* sole_reader(ValueId id) const;

  // A single float that is kept in the plan anyway (run pass_fold first).
  std::optional<double> number(ValueId id) const;
  bool is_number(ValueId id, double wanted) const;  // within the rounding of its dtype
  // The numbers of a known integer list (axes, a shape).
  std::optional<std::vector<std::int64_t>> integers(ValueId id) const;

  const TypeShape& type(ValueId id) const { return ir_.values[id].type; }
  // Every output of a matched node is read inside of the match alone, but for those of `root`.
  bool closed(const IrNode& root) const;

  // Makes `root` the given operation over `inputs`; the matched nodes become dead code. What
  // numbers were read is remembered, so that a refit that holds other ones is refused.
  Status become(IrNode& root, std::string_view domain, std::string_view op, std::int32_t version,
                std::vector<ValueId> inputs, std::vector<plan::Attribute> attributes);
  // A node placed before `root` when apply() is called.
  Result<ValueId> insert(const IrNode& root, std::string_view name, std::string_view op,
                         std::int32_t version, std::vector<ValueId> inputs,
                         std::vector<plan::Attribute> attributes = {},
                         std::string_view domain = {});
  void apply() { insertions_.apply(ir_); }

 private:
  PassContext& context_;
  Ir& ir_;
  UseIndex uses_;
  std::size_t known_count_ = ir_.values.size();  // of which uses_ knows
  Insertions insertions_;
  std::uint32_t graph_ = 0;
  std::vector<IrNode*> matched_;
  mutable std::set<std::uint32_t> read_;  // sources of the numbers read
};

// Is `a` what `b` rounds to in a type of `dtype`'s precision?
bool same_number(double a, double b, DType dtype);

}  // namespace forebay::builder
