// Rotary positions written out become forebay.RotateHalf: x * cos + concat(-x2, x1) * sin, and
// concat(x1 cos - x2 sin, x2 cos + x1 sin), the halves being taken by Slice or Split. Where even
// and odd elements stand for the halves they are taken by Slice, or by Gather from [.., D/2, 2],
// and joined by stacking.
#include <algorithm>

#include "base/check.h"
#include "builder/partial_values.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

struct Found {
  ValueId x = kNone, cos = kNone, sin = kNone;
  bool pairs = false;
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
      const bool matches = node->op == "Add"      ? whole(*node, found)
                           : node->op == "Concat" ? halves(*node, found)
                                                  : node->op == "Reshape" && stacked(*node, found);
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
        pairs_ = pattern_.maker(turned->inputs[operand], "Reshape", 5) != nullptr;
        found.pairs = pairs_;
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
    ValueId parts[2] = {kNone, kNone};
    if (pairs_ ? !stack_of(id, parts) : !joint_of(id, parts)) return false;
    const IrNode* negated = pattern_.take(parts[0], "Neg");
    ValueId other = kNone;
    return negated != nullptr && half(negated->inputs[0], 1, x) && half(parts[1], 0, other) &&
           x == other;
  }

  bool joint_of(ValueId id, ValueId* parts) {
    const IrNode* concat = pattern_.take(id, "Concat", 4);
    if (concat == nullptr || concat->inputs.size() != 2 || !last_axis(*concat)) return false;
    std::copy(concat->inputs.begin(), concat->inputs.end(), parts);
    return true;
  }

  // TorchScript asks the stack itself for the shape it is flattened to.
  void take_shape(const IrNode& flat) {
    const IrNode* target = pattern_.maker(flat.inputs[1], "Concat");
    for (std::size_t i = 0; target != nullptr && i < target->inputs.size(); ++i) {
      const IrNode* part = pattern_.maker(target->inputs[i], "Slice");
      const IrNode* shape = part != nullptr ? pattern_.maker(part->inputs[0], "Shape") : nullptr;
      if (shape == nullptr || shape->inputs[0] != flat.inputs[0]) continue;
      pattern_.take(flat.inputs[1], "Concat");
      pattern_.take(target->inputs[i], "Slice");
      pattern_.take(part->inputs[0], "Shape");
    }
  }

  // stack((p, q), -1).flatten(-2): p and q by turns.
  bool stack_of(ValueId id, ValueId* parts) {
    const IrNode* flat = pattern_.take(id, "Reshape", 5);
    ValueId ends[2];
    if (flat == nullptr || !joint_of(flat->inputs[0], ends)) return false;
    take_shape(*flat);
    for (int i = 0; i < 2; ++i) {
      const IrNode* column = pattern_.take(ends[i], "Unsqueeze", 13);
      const auto axes = column != nullptr ? pattern_.integers(column->inputs[1]) : std::nullopt;
      if (!axes || axes->size() != 1) return false;
      const auto rank = static_cast<std::int64_t>(pattern_.type(column->inputs[0]).dims.size());
      if ((*axes)[0] != -1 && (*axes)[0] != rank) return false;
      parts[i] = column->inputs[0];
    }
    const TypeShape &type = pattern_.type(id), &part = pattern_.type(parts[0]);
    if (!type.has_rank || type.dims.size() != part.dims.size() || part.dims.back() <= 0 ||
        type.dims.back() != 2 * part.dims.back())
      return false;
    for (std::size_t i = 0; i + 1 < type.dims.size(); ++i)
      if (type.dims[i] >= 0 && part.dims[i] >= 0 && type.dims[i] != part.dims[i]) return false;
    return true;
  }

  // stack(x1 cos - x2 sin, x2 cos + x1 sin)
  bool stacked(const IrNode& flat, Found& found) {
    ValueId parts[2] = {kNone, kNone};
    pairs_ = found.pairs = true;
    return stack_of(flat.outputs[0], parts) && turned_parts(parts, found);
  }

  // concat(x1 cos - x2 sin, x2 cos + x1 sin)
  bool halves(const IrNode& concat, Found& found) {
    if (concat.inputs.size() != 2 || !last_axis(concat)) return false;
    pairs_ = false;
    return turned_parts(concat.inputs.data(), found);
  }

  bool turned_parts(const ValueId* parts, Found& found) {
    const IrNode *difference = pattern_.take(parts[0], "Sub", 7),
                 *sum = pattern_.take(parts[1], "Add", 7);
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
    if (pairs_ && node->op == "Gather") return gathered_half(*node, which, x);
    const bool fits = node->op == "Split" ? !pairs_ && split_half(*node, id, which, whole)
                                          : node->op == "Slice" && slice_half(*node, which, whole);
    if (!fits) return false;
    pattern_.add(*node);
    x = node->inputs[0];
    return true;
  }

  // Element `which` of the last axis of x seen as [.., D/2, 2].
  bool gathered_half(IrNode& gather, int which, ValueId& x) {
    const TypeShape& pairs = pattern_.type(gather.inputs[0]);
    const auto rank = static_cast<std::int64_t>(pairs.dims.size());
    const std::int64_t axis = ir_.view(gather).integer("axis", 0);
    const IrNode* view = pattern_.maker(gather.inputs[0], "Reshape", 5);
    if (view == nullptr || pairs.dims.back() != 2 || (axis != -1 && axis != rank - 1)) return false;
    const TypeShape &from = pattern_.type(view->inputs[0]),
                    &index = pattern_.type(gather.inputs[1]);
    if (!index.has_rank || !index.dims.empty() || bound(gather.inputs[1]) != which) return false;
    if (!from.has_rank || from.dims.size() + 1 != pairs.dims.size() || from.dims.back() <= 0 ||
        pairs.dims[pairs.dims.size() - 2] * 2 != from.dims.back())
      return false;
    for (std::size_t i = 0; i + 1 < from.dims.size(); ++i)
      if (from.dims[i] >= 0 && pairs.dims[i] >= 0 && from.dims[i] != pairs.dims[i]) return false;
    pattern_.add(gather);
    pattern_.take(gather.inputs[0], "Reshape");
    x = view->inputs[0];
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
    const bool stepped = slice.inputs.size() > 4 && slice.inputs[4] != kNone;
    const auto step = stepped ? bound(slice.inputs[4]) : std::optional<std::int64_t>(1);
    const auto absolute = [&](std::int64_t at) { return at < 0 ? at + size : std::min(at, size); };
    if (pairs_) return step == 2 && absolute(*start) == which && absolute(*end) >= size - 1 + which;
    if (step != 1) return false;
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
    std::vector<plan::Attribute> attributes;
    if (found.pairs) attributes.push_back({"pairs", std::int64_t{1}});
    return pattern_.become(*root, "forebay", "RotateHalf", 1, {x, found.cos, found.sin},
                           std::move(attributes));
  }

  PassContext& context_;
  Ir& ir_;
  Pattern pattern_;
  bool pairs_ = false;  // of the form that is tried
};

}  // namespace

Result<std::size_t> pass_rotary(PassContext& context) {
  return RotaryPass(context).run();
}

}  // namespace forebay::builder
