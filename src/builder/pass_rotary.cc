// Rotary positions written out become forebay.RotateHalf: x * cos + concat(-x2, x1) * sin, and
// concat(x1 cos - x2 sin, x2 cos + x1 sin), the halves being taken by Slice or Split.
#include <algorithm>

#include "base/check.h"
#include "builder/partial_values.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

struct Found {
  ValueId x = kNone, cos = kNone, sin = kNone;
};

class RotaryPass {
 public:
  explicit RotaryPass(PassContext& context)
      : context_(context), ir_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    if (context_.registry.find("forebay", "RotateHalf", 1) == nullptr) return std::size_t{0};
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !node->domain.empty()) continue;
      pattern_.begin(*node);
      Found found;
      const bool matches =
          node->op == "Add" ? whole(*node, found) : node->op == "Concat" && halves(*node, found);
      if (!matches || !table_fits(found.cos, found.x) || !table_fits(found.sin, found.x) ||
          !pattern_.closed(*node))
        continue;
      FB_TRY(replace(*node, found));
      ++made;
    }
    ir_.sweep();
    return made;
  }

 private:
  // x * cos + concat(-x2, x1) * sin
  bool whole(const IrNode& sum, Found& found) {
    for (std::size_t side = 0; side < 2; ++side) {
      pattern_.back_to(0);
      const IrNode *straight = pattern_.take(sum.inputs[side], "Mul", 7),
                   *turned = pattern_.take(sum.inputs[1 - side], "Mul", 7);
      if (straight == nullptr || turned == nullptr) continue;
      for (std::size_t operand = 0; operand < 2; ++operand) {
        pattern_.back_to(2);
        ValueId x = kNone;
        if (!rotated(turned->inputs[operand], x)) continue;
        found.sin = turned->inputs[1 - operand];
        if (straight->inputs[0] != x && straight->inputs[1] != x) continue;
        found.cos = straight->inputs[straight->inputs[0] == x ? 1 : 0];
        found.x = x;
        return true;
      }
    }
    return false;
  }

  // concat(-x2, x1)
  bool rotated(ValueId id, ValueId& x) {
    const IrNode* concat = pattern_.take(id, "Concat", 4);
    if (concat == nullptr || concat->inputs.size() != 2 || !last_axis(*concat)) return false;
    const IrNode* negated = pattern_.take(concat->inputs[0], "Neg");
    ValueId other = kNone;
    return negated != nullptr && half(negated->inputs[0], 1, x) &&
           half(concat->inputs[1], 0, other) && x == other;
  }

  // concat(x1 cos - x2 sin, x2 cos + x1 sin)
  bool halves(const IrNode& concat, Found& found) {
    if (concat.inputs.size() != 2 || !last_axis(concat)) return false;
    const IrNode *difference = pattern_.take(concat.inputs[0], "Sub", 7),
                 *sum = pattern_.take(concat.inputs[1], "Add", 7);
    if (difference == nullptr || sum == nullptr) return false;
    const std::size_t mark = pattern_.mark();
    for (std::size_t side = 0; side < 2; ++side) {
      pattern_.back_to(mark);
      Found second;
      if (scaled_half(difference->inputs[0], 0, found.x, found.cos) &&
          scaled_half(difference->inputs[1], 1, second.x, found.sin) && found.x == second.x &&
          scaled_half(sum->inputs[side], 1, second.x, second.cos) && second.cos == found.cos &&
          found.x == second.x && scaled_half(sum->inputs[1 - side], 0, second.x, second.sin) &&
          second.sin == found.sin && found.x == second.x)
        return true;
    }
    return false;
  }

  bool scaled_half(ValueId id, int which, ValueId& x, ValueId& factor) {
    const IrNode* product = pattern_.take(id, "Mul", 7);
    if (product == nullptr) return false;
    for (std::size_t side = 0; side < 2; ++side) {
      if (!half(product->inputs[side], which, x)) continue;
      factor = product->inputs[1 - side];
      return true;
    }
    return false;
  }

  bool last_axis(const IrNode& concat) const {
    const TypeShape& type = pattern_.type(concat.outputs[0]);
    const std::int64_t axis = ir_.view(concat).integer("axis", 0);
    return type.has_rank && (axis == -1 || axis == static_cast<std::int64_t>(type.dims.size()) - 1);
  }

  // `id` is the first (0) or second (1) half of a value along its last axis.
  bool half(ValueId id, int which, ValueId& x) {
    IrNode* node = id == kNone ? nullptr : ir_.values[id].producer;
    if (node == nullptr || node->removed || !node->domain.empty() || node->inputs.empty() ||
        node->inputs[0] == kNone)
      return false;
    const TypeShape& whole = pattern_.type(node->inputs[0]);
    if (!whole.has_rank || whole.dims.empty() || whole.dims.back() <= 0 ||
        whole.dims.back() % 2 != 0)
      return false;
    const bool fits = node->op == "Split" ? split_half(*node, id, which, whole)
                                          : node->op == "Slice" && slice_half(*node, which, whole);
    if (!fits) return false;
    pattern_.add(*node);
    x = node->inputs[0];
    return true;
  }

  bool split_half(const IrNode& split, ValueId id, int which, const TypeShape& whole) const {
    const auto rank = static_cast<std::int64_t>(whole.dims.size());
    const std::int64_t axis = ir_.view(split).integer("axis", 0);
    if ((axis != -1 && axis != rank - 1) || split.outputs.size() != 2 ||
        split.outputs[static_cast<std::size_t>(which)] != id)
      return false;
    const TypeShape& part = pattern_.type(id);
    return part.has_rank && part.dims.back() == whole.dims.back() / 2;
  }

  bool slice_half(const IrNode& slice, int which, const TypeShape& whole) const {
    if (slice.version < 10 || slice.inputs.size() < 4) return false;
    const auto rank = static_cast<std::int64_t>(whole.dims.size()), size = whole.dims.back();
    const auto start = bound(slice.inputs[1]), end = bound(slice.inputs[2]),
               axis = bound(slice.inputs[3]);
    if (!start || !end || (axis != -1 && axis != rank - 1)) return false;
    if (slice.inputs.size() > 4 && slice.inputs[4] != kNone) {
      const auto steps = pattern_.integers(slice.inputs[4]);
      if (!steps || *steps != std::vector<std::int64_t>{1}) return false;
    }
    const auto absolute = [&](std::int64_t at) { return at < 0 ? at + size : std::min(at, size); };
    return absolute(*start) == which * size / 2 && absolute(*end) == (which + 1) * size / 2;
  }

  // One integer, also where it is computed from a size that is known (TorchScript: Shape, Div).
  std::optional<std::int64_t> bound(ValueId id) const {
    const auto constant = pattern_.integers(id);
    const std::vector<std::int64_t> found =
        constant ? *constant : partial_value(ir_, context_.host, id).elements;
    if (found.size() != 1 || is_unknown(found[0])) return std::nullopt;
    return found[0];
  }

  // It broadcasts to x, not the other way round.
  bool table_fits(ValueId table, ValueId x) const {
    const TypeShape &own = pattern_.type(table), &full = pattern_.type(x);
    if (!own.has_rank || own.dims.empty() || own.dims.size() > full.dims.size() ||
        own.dtype != full.dtype)
      return false;
    const std::int64_t width = own.dims.back(), size = full.dims.back();
    if (width != size && width * 2 != size) return false;
    for (std::size_t i = 2; i <= own.dims.size(); ++i) {
      const std::int64_t a = own.dims[own.dims.size() - i], b = full.dims[full.dims.size() - i];
      if (a != 1 && (b == 1 || (a >= 0 && b >= 0 && a != b))) return false;
    }
    return true;
  }

  // With the casts around it where x was widened for it and the result narrowed again.
  Status replace(IrNode& node, const Found& found) {
    IrNode* root = &node;
    ValueId x = found.x;
    const IrNode* cast = pattern_.maker(x, "Cast");
    IrNode* back = pattern_.sole_reader(node.outputs[0]);
    if (cast != nullptr && back != nullptr && back->op == "Cast" &&
        pattern_.type(x).dtype == DType::f32) {
      const DType from = pattern_.type(cast->inputs[0]).dtype;
      if ((from == DType::f16 || from == DType::bf16) &&
          pattern_.type(back->outputs[0]).dtype == from) {
        pattern_.add(node);
        root = back;
        x = cast->inputs[0];
      }
    }
    return pattern_.become(*root, "forebay", "RotateHalf", 1, {x, found.cos, found.sin}, {});
  }

  PassContext& context_;
  Ir& ir_;
  Pattern pattern_;
};

}  // namespace

Result<std::size_t> pass_rotary(PassContext& context) {
  return RotaryPass(context).run();
}

}  // namespace forebay::builder
