// Layer and RMS normalisation written out: (x - mean) / sqrt(var + e) * scale + shift and x /
// sqrt(mean of squares + e) * scale, in the forms and with the casts to f32 that exporters write.
// The fused kernels compute in f32 from end to end.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

struct Norm {
  ValueId x = kNone;
  std::int64_t axis = -1;
  double epsilon = 0;
  bool centred = false;
};

// How far the match goes beyond the division.
struct Reach {
  IrNode* root = nullptr;
  ValueId scale = kNone, shift = kNone;
  std::size_t matched = 0;
};

class NormPass {
 public:
  explicit NormPass(PassContext& context) : context_(context), ir_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !node->domain.empty() || node->version < 7) continue;
      pattern_.begin(*node);
      Norm norm;
      if (node->op == "Add") {
        Reach reach;
        if (!affine(*node, norm, reach)) continue;
        FB_TRY(replace(norm, reach));
        ++made;
      } else if (node->op == "Div" || node->op == "Mul") {
        if (!core(*node, norm)) continue;
        FB_ASSIGN(const bool fused, fuse(*node, norm));
        made += fused ? 1 : 0;
      }
    }
    ir_.sweep();
    return made;
  }

 private:
  // x * f + (shift - mean * f) with f = scale / root, as TensorFlow normalises; tf2onnx writes
  // (-mean * f + shift), too.
  bool affine(IrNode& sum, Norm& norm, Reach& reach) {
    for (std::size_t way = 0; way < 12; ++way) {
      const std::size_t side = way % 2, operand = way / 2 % 2;
      pattern_.back_to(0);
      const IrNode* scaled = pattern_.take(sum.inputs[side], "Mul", 7);
      if (scaled == nullptr) continue;
      const ValueId factor = scaled->inputs[1 - operand];
      ValueId mean = kNone;
      norm.x = scaled->inputs[operand];
      reach = {&sum, kNone, kNone, 0};
      if (!rest_of(sum.inputs[1 - side], way / 4, factor, mean, reach.shift) ||
          !scaled_inverse(factor, norm, reach.scale) || !deviation_of(norm, mean))
        continue;
      reach.matched = pattern_.mark();
      return affine_fits(sum, norm, reach);
    }
    return false;
  }

  // shift - mean * f (form 0), or -mean * f + shift (1) in either order (2).
  bool rest_of(ValueId id, std::size_t form, ValueId factor, ValueId& mean, ValueId& shift) {
    const IrNode* rest = pattern_.take(id, form == 0 ? "Sub" : "Add", 7);
    if (rest == nullptr) return false;
    const std::size_t product = form == 1 ? 0 : 1;
    const IrNode* part = pattern_.take(rest->inputs[product], "Mul", 7);
    if (part == nullptr) return false;
    const std::size_t side = part->inputs[0] == factor ? 1 : 0;
    if (part->inputs[1 - side] != factor) return false;
    shift = rest->inputs[1 - product];
    mean = part->inputs[side];
    if (form == 0) return true;
    const IrNode* negative = pattern_.take(mean, "Neg");
    if (negative != nullptr) mean = negative->inputs[0];
    return negative != nullptr;
  }

  // A mean over axes; GlobalAveragePool is one over all but the first two.
  const IrNode* take_mean(ValueId id) {
    const IrNode* mean = pattern_.take(id, "ReduceMean");
    return mean != nullptr ? mean : pattern_.take(id, "GlobalAveragePool");
  }

  // 1 / root, perhaps times a scale.
  bool scaled_inverse(ValueId id, Norm& norm, ValueId& scale) {
    const std::size_t mark = pattern_.mark();
    if (const IrNode* product = pattern_.take(id, "Mul", 7)) {
      for (std::size_t side = 0; side < 2; ++side) {
        pattern_.back_to(mark + 1);
        scale = product->inputs[1 - side];
        if (inverse(product->inputs[side], norm)) return true;
      }
      return false;
    }
    scale = kNone;
    return inverse(id, norm);
  }

  // What was squared is x less this mean of it, over the axes of the variance.
  bool deviation_of(Norm& norm, ValueId mean) {
    const IrNode *difference = pattern_.take(squared_, "Sub", 7),
                 *average = take_mean(mean);
    std::int64_t axis = 0;
    norm.centred = true;
    return difference != nullptr && average != nullptr && difference->inputs[0] == norm.x &&
           difference->inputs[1] == mean && average->inputs[0] == norm.x &&
           trailing_axes(*average, axis) && axis == norm.axis;
  }

  bool affine_fits(const IrNode& sum, const Norm& norm, const Reach& reach) const {
    const TypeShape& x = pattern_.type(norm.x);
    return x.has_rank && !x.dims.empty() && x.dtype == pattern_.type(sum.outputs[0]).dtype &&
           x.dtype != DType::f64 && (reach.scale == kNone || parameter(reach.scale, norm)) &&
           parameter(reach.shift, norm) && pattern_.closed(sum);
  }

  // d / root or d * (1 / root).
  bool core(IrNode& node, Norm& norm) {
    if (node.op == "Div") return deviation(node.inputs[1], norm) && numerator(node.inputs[0], norm);
    for (std::size_t side = 0; side < 2; ++side) {
      pattern_.back_to(0);
      if (inverse(node.inputs[1 - side], norm) && numerator(node.inputs[side], norm)) return true;
    }
    return false;
  }

  bool inverse(ValueId id, Norm& norm) {
    id = pattern_.through_casts(id);
    if (const IrNode* reciprocal = pattern_.take(id, "Reciprocal"))
      return deviation(reciprocal->inputs[0], norm);
    if (const IrNode* divide = pattern_.take(id, "Div", 7)) {
      return pattern_.is_number(divide->inputs[0], 1) && deviation(divide->inputs[1], norm);
    }
    const IrNode* power = pattern_.take(id, "Pow", 7);
    return power != nullptr && pattern_.is_number(power->inputs[1], -0.5) &&
           variance(power->inputs[0], norm);
  }

  bool deviation(ValueId id, Norm& norm) {
    id = pattern_.through_casts(id);
    if (const IrNode* root = pattern_.take(id, "Sqrt")) return variance(root->inputs[0], norm);
    const IrNode* power = pattern_.take(id, "Pow", 7);
    return power != nullptr && pattern_.is_number(power->inputs[1], 0.5) &&
           variance(power->inputs[0], norm);
  }

  bool variance(ValueId id, Norm& norm) {
    id = pattern_.through_casts(id);
    norm.epsilon = 0;
    if (const IrNode* sum = pattern_.take(id, "Add", 7)) {
      const std::size_t side = pattern_.number(sum->inputs[1]) ? 0 : 1;
      const std::optional<double> epsilon = pattern_.number(sum->inputs[1 - side]);
      if (!epsilon || *epsilon < 0) return false;
      norm.epsilon = *epsilon;
      id = pattern_.through_casts(sum->inputs[side]);
    }
    const IrNode* mean = take_mean(id);
    if (mean == nullptr || !trailing_axes(*mean, norm.axis)) return false;
    return square(mean->inputs[0]);
  }

  // d * d or d ^ 2; d goes to squared_.
  bool square(ValueId id) {
    id = pattern_.through_casts(id);
    if (const IrNode* power = pattern_.take(id, "Pow", 7)) {
      if (!pattern_.is_number(power->inputs[1], 2)) return false;
      squared_ = power->inputs[0];
    } else if (const IrNode* product = pattern_.take(id, "Mul", 7);
               product != nullptr && product->inputs[0] == product->inputs[1]) {
      squared_ = product->inputs[0];
    } else {
      return false;
    }
    return squared_ != kNone;
  }

  // What is divided must be what was squared, before or behind casts.
  bool numerator(ValueId id, Norm& norm) {
    const std::size_t here = pattern_.mark();
    const ValueId bare = pattern_.through_casts(id),
                  bare_squared = pattern_.through_casts(squared_);
    if (const IrNode* difference = pattern_.take(bare, "Sub", 7)) {
      const std::size_t inside = pattern_.mark();
      if (centred(bare_squared, bare, *difference, norm)) return true;
      pattern_.back_to(inside);
    }
    pattern_.back_to(here);
    if (id != squared_ && bare != bare_squared) return false;
    norm.centred = false;
    norm.x = id;
    if (id != squared_) norm.x = bare;  // one of them was cast alone
    if (norm.x != squared_) pattern_.through_casts(squared_);
    if (norm.x != id) pattern_.through_casts(id);
    return true;
  }

  // x - mean(x) over the same axes; the squares may be of a second, equal difference.
  bool centred(ValueId squared, ValueId bare, const IrNode& difference, Norm& norm) {
    const auto is_centred = [&](const IrNode& node) {
      const IrNode* mean = take_mean(pattern_.through_casts(node.inputs[1]));
      std::int64_t axis = -1;
      return mean != nullptr && trailing_axes(*mean, axis) && axis == norm.axis &&
             (mean->inputs[0] == node.inputs[0] ||
              pattern_.through_casts(mean->inputs[0]) == node.inputs[0]);
    };
    if (!is_centred(difference)) return false;
    norm.centred = true;
    norm.x = difference.inputs[0];
    if (squared == bare) return true;
    const IrNode* other = pattern_.take(squared, "Sub", 7);
    return other != nullptr && other->inputs[0] == norm.x && is_centred(*other);
  }

  // The reduced axes are the last ones, and kept.
  bool trailing_axes(const IrNode& mean, std::int64_t& axis) const {
    const TypeShape& x = pattern_.type(mean.inputs[0]);
    const NodeView view = ir_.view(mean);
    if (!x.has_rank || view.integer("keepdims", 1) != 1) return false;
    const auto rank = static_cast<std::int64_t>(x.dims.size());
    if (mean.op == "GlobalAveragePool") {
      axis = 2 - rank;
      return axis < 0;
    }
    const auto listed = view.integers("axes");
    std::vector<std::int64_t> axes(listed.begin(), listed.end());
    if (mean.version >= 18) {
      const auto given = mean.inputs.size() > 1 ? pattern_.integers(mean.inputs[1]) : std::nullopt;
      if (!given) return false;
      axes = *given;
    }
    if (axes.empty()) return false;
    for (std::int64_t& one : axes) one += one < 0 ? rank : 0;
    std::sort(axes.begin(), axes.end());
    for (std::size_t i = 0; i < axes.size(); ++i)
      if (axes[i] != rank - static_cast<std::int64_t>(axes.size() - i)) return false;
    axis = axes[0] - rank;
    return true;
  }

  // A value that repeats for each row and does not widen the result.
  bool parameter(ValueId id, const Norm& norm) const {
    const TypeShape &own = pattern_.type(id), &x = pattern_.type(norm.x);
    if (!own.known() || own.dims.size() > x.dims.size()) return false;
    if (own.shape().elements() == 1) return true;
    const auto rank = static_cast<std::int64_t>(own.dims.size());
    for (std::int64_t i = 1; i <= rank; ++i) {
      const std::int64_t size = own.dims[static_cast<std::size_t>(rank - i)],
                         full = x.dims[x.dims.size() - static_cast<std::size_t>(i)];
      if (i <= -norm.axis ? size != full : size != 1) return false;
    }
    return rank >= -norm.axis;
  }

  bool dtypes_fit(const IrNode& root, const Norm& norm, ValueId scale) const {
    const DType y = pattern_.type(root.outputs[0]).dtype;
    if (norm.centred)
      return pattern_.type(norm.x).dtype == y || pattern_.type(narrow_source(norm.x)).dtype == y;
    return (scale == kNone ? DType::f32 : pattern_.type(scale).dtype) ==
           y;  // without a scale: one number, in f32
  }

  // x before it was widened.
  ValueId narrow_source(ValueId x) const {
    const IrNode* cast = pattern_.maker(x, "Cast");
    if (cast == nullptr || pattern_.type(x).dtype != DType::f32) return x;
    const DType from = pattern_.type(cast->inputs[0]).dtype;
    return from == DType::f16 || from == DType::bf16 ? cast->inputs[0] : x;
  }

  // From the division on: a cast back, the scale, the shift, a cast back; as far as one node can
  // stand for it.
  Reach extend(IrNode& node, const Norm& norm) {
    Reach best, at{&node, kNone, kNone, pattern_.mark()};
    const auto keep = [&] {
      if (dtypes_fit(*at.root, norm, at.scale) && pattern_.closed(*at.root)) best = at;
    };
    keep();
    while (IrNode* next = pattern_.sole_reader(at.root->outputs[0])) {
      const bool scales = next->op == "Mul" && at.scale == kNone,
                 shifts =
                     next->op == "Add" && at.scale != kNone && at.shift == kNone && norm.centred;
      if (next->op == "Cast") {
        const DType to = pattern_.type(next->outputs[0]).dtype;
        if (to != DType::f16 && to != DType::bf16 && to != DType::f32) break;
      } else if (scales || shifts) {
        if (next->version < 7) break;
        const ValueId other =
            next->inputs[0] == at.root->outputs[0] ? next->inputs[1] : next->inputs[0];
        if (other == at.root->outputs[0] || !parameter(other, norm)) break;
        (scales ? at.scale : at.shift) = other;
      } else {
        break;
      }
      pattern_.add(*at.root);
      at.root = next;
      at.matched = pattern_.mark();
      keep();
    }
    return best;
  }

  Result<bool> fuse(IrNode& node, Norm norm) {
    const TypeShape& x = pattern_.type(norm.x);
    if (!x.has_rank || x.dims.empty() || x.dtype == DType::f64) return false;
    const Reach reach = extend(node, norm);
    if (reach.root == nullptr) return false;
    pattern_.back_to(reach.matched);
    FB_TRY(replace(norm, reach));
    return true;
  }

  Status replace(const Norm& norm, const Reach& reach) {
    IrNode& root = *reach.root;
    const DType y = pattern_.type(root.outputs[0]).dtype;
    ValueId from = norm.x;
    if (const ValueId narrow = narrow_source(norm.x);
        narrow != from && (!norm.centred || pattern_.type(narrow).dtype == y))
      from = narrow;
    std::vector<ValueId> inputs{from, reach.scale};
    if (reach.scale == kNone) {
      HostTensor one(DType::f32, Shape{1});
      one.as<float>()[0] = 1.0f;
      inputs[1] = ir_.add_constant(ir_.values[root.outputs[0]].name + "/one",
                                   std::make_shared<const HostTensor>(std::move(one)), {});
    }
    if (reach.shift != kNone) inputs.push_back(reach.shift);
    std::vector<plan::Attribute> attributes{{"axis", norm.axis},
                                            {"epsilon", static_cast<float>(norm.epsilon)}};
    return pattern_.become(root, "", norm.centred ? "LayerNormalization" : "RMSNormalization",
                           norm.centred ? 17 : 23, std::move(inputs), std::move(attributes));
  }

  PassContext& context_;
  Ir& ir_;
  Pattern pattern_;
  ValueId squared_ = kNone;
};

}  // namespace

Result<std::size_t> pass_norm(PassContext& context) {
  return NormPass(context).run();
}

}  // namespace forebay::builder
