// softmax(Q K' * scale + mask) V written out becomes one forebay.Attention: with the scale on the
// scores, on Q, on K or on both; with casts to f32 around the softmax; with an additive mask, or a
// boolean one by Where; with a soft cap; with Where(IsNaN) behind the softmax; with transposed keys
// however the exporter composed the transposes; with keys and values repeated for groups of query
// heads.
#include <cmath>

#include "base/check.h"
#include "builder/partial_values.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

struct Found {
  ValueId q = kNone, k = kNone, v = kNone, mask = kNone;
  std::vector<std::int64_t> k_perm;  // from the value k to keys as rows; empty: as it is
  double scale = 1, softcap = 0;
  std::optional<double> fill;  // of a boolean mask
  bool true_hides = false, nan_rows = false;
  bool stacked = false;  // the query heads of a group are rows of one product: a reshape before it,
                         // two around the softmax
  ValueId grouped = kNone;  // [B,G,R,S,T]: scores as the softmax sees them then
};

class AttentionPass {
 public:
  explicit AttentionPass(PassContext& context)
      : context_(context), ir_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    if (context_.registry.find("forebay", "Attention", 1) == nullptr) return std::size_t{0};
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !node->domain.empty() || node->op != "MatMul") continue;
      pattern_.begin(*node);
      Found found;
      if (!weights(*node, found) || !operands(*node, found) || !pattern_.closed(*node)) continue;
      FB_TRY(replace(*node, found));
      ++made;
    }
    pattern_.apply();
    ir_.sweep();
    return made;
  }

 private:
  // From the second product back to the first.
  bool weights(const IrNode& root, Found& found) {
    found.v = root.inputs[1];
    ValueId at = pattern_.through_casts(root.inputs[0]);
    if (const IrNode* rows = pattern_.take(at, "Reshape", 5)) {
      found.stacked = true;
      at = pattern_.through_casts(rows->inputs[0]);
    }
    if (const IrNode* guard = pattern_.take(at, "Where", 9)) {
      const IrNode* test = pattern_.take(guard->inputs[0], "IsNaN");
      if (test == nullptr || test->inputs[0] != guard->inputs[2] ||
          !pattern_.is_number(guard->inputs[1], 0))
        return false;
      found.nan_rows = true;
      at = pattern_.through_casts(guard->inputs[2]);
    }
    const IrNode* softmax = pattern_.take(at, "Softmax");
    if (softmax == nullptr || !last_axis(*softmax, found.stacked)) return false;
    return scores(softmax->inputs[0], found, false);
  }

  bool last_axis(const IrNode& softmax, bool stacked) const {
    const TypeShape& x = pattern_.type(softmax.inputs[0]);
    if (!x.has_rank || (stacked ? x.dims.size() != 5 : x.dims.size() != 3 && x.dims.size() != 4))
      return false;
    const std::int64_t axis = ir_.view(softmax).integer("axis", softmax.version < 13 ? 1 : -1);
    return axis == -1 || axis == static_cast<std::int64_t>(x.dims.size()) - 1;
  }

  // The scores, walking back: a mask, a soft cap, scales, the product. A scale behind a mask would
  // scale the mask, too.
  bool scores(ValueId id, Found& found, bool scaled) {
    id = pattern_.through_casts(id);
    if (const IrNode* product = pattern_.take(id, "MatMul")) return first_product(*product, found);
    if (const IrNode* mask = pattern_.take(id, "Where", 9)) return !scaled && chosen(*mask, found);
    if (const IrNode* sum = pattern_.take(id, "Add", 7)) return !scaled && added(*sum, found);
    if (const IrNode* split =
            found.stacked && found.grouped == kNone ? pattern_.take(id, "Reshape", 5) : nullptr) {
      found.grouped = id;
      return pattern_.type(split->inputs[0]).dims.size() == 4 &&
             scores(split->inputs[0], found, scaled);
    }
    IrNode* node = pattern_.maker(id);
    if (node == nullptr || node->version < 7 || (node->op != "Mul" && node->op != "Div"))
      return false;
    pattern_.add(*node);
    const std::size_t side = node->op == "Mul" && pattern_.number(node->inputs[0]) ? 1 : 0;
    const std::optional<double> number = pattern_.number(node->inputs[1 - side]);
    if (!number || *number == 0) return false;
    const double factor = node->op == "Div" ? 1 / *number : *number;
    if (const IrNode* cap = pattern_.take(pattern_.through_casts(node->inputs[side]), "Tanh"))
      return capped(*cap, factor, found, scaled);
    found.scale *= factor;
    return scores(node->inputs[side], found, true);
  }

  // factor * tanh(x / factor)
  bool capped(const IrNode& cap, double factor, Found& found, bool scaled) {
    if (scaled || found.softcap != 0 || factor <= 0) return false;
    found.softcap = factor;
    if (!scores(cap.inputs[0], found, true)) return false;
    found.scale *= factor;  // x / factor is scale * product: the kernel divides by the cap itself
    return true;
  }

  bool added(const IrNode& sum, Found& found) {
    if (found.mask != kNone || found.softcap != 0) return false;
    const std::size_t mark = pattern_.mark();
    for (std::size_t side = 0; side < 2; ++side) {
      Found tried = found;
      tried.mask = sum.inputs[1 - side];
      pattern_.back_to(mark);
      if (!mask_fits(tried.mask, sum.inputs[side]) || !scores(sum.inputs[side], tried, false))
        continue;
      found = tried;
      return true;
    }
    return false;
  }

  bool chosen(const IrNode& where, Found& found) {
    if (found.mask != kNone || found.softcap != 0) return false;
    const bool true_hides = pattern_.number(where.inputs[1]).has_value();
    const ValueId kept = where.inputs[true_hides ? 2 : 1];
    const std::optional<double> fill = pattern_.number(where.inputs[true_hides ? 1 : 2]);
    found.mask = where.inputs[0];
    found.fill = fill;
    found.true_hides = true_hides;
    return fill && mask_fits(found.mask, kept) && scores(kept, found, false);
  }

  // It broadcasts to the scores, not the other way round.
  bool mask_fits(ValueId mask, ValueId scores) const {
    const TypeShape &m = pattern_.type(mask), &s = pattern_.type(scores);
    if (!m.has_rank || !s.has_rank || m.dims.empty() || m.dims.size() > s.dims.size()) return false;
    const bool usable = m.dtype == DType::boolean || m.dtype == DType::f32 ||
                        m.dtype == DType::f16 || m.dtype == DType::bf16;
    for (std::size_t i = 1; i <= m.dims.size(); ++i) {
      const std::int64_t own = m.dims[m.dims.size() - i], full = s.dims[s.dims.size() - i];
      if (own != 1 && own != full && own >= 0 && full >= 0) return false;
      if (own < 0 && full == 1) return false;
    }
    return usable;
  }

  ValueId unscaled(ValueId id, Found& found) {
    while (IrNode* node = pattern_.maker(id)) {
      if (node->version < 7 || (node->op != "Mul" && node->op != "Div")) break;
      const std::size_t side = node->op == "Mul" && pattern_.number(node->inputs[0]) ? 1 : 0;
      const std::optional<double> number = pattern_.number(node->inputs[1 - side]);
      if (!number || *number == 0 ||
          pattern_.type(node->inputs[side]).dims.size() != pattern_.type(id).dims.size())
        break;
      pattern_.add(*node);
      found.scale *= node->op == "Div" ? 1 / *number : *number;
      id = node->inputs[side];
    }
    return id;
  }

  bool first_product(const IrNode& product, Found& found) {
    const TypeShape &q = pattern_.type(product.inputs[0]), &keys = pattern_.type(product.inputs[1]);
    if (!q.has_rank || !keys.has_rank || q.dims.size() != keys.dims.size() ||
        (q.dims.size() != 3 && q.dims.size() != 4))
      return false;
    found.q = unscaled(product.inputs[0], found);
    const ValueId turned = unscaled(product.inputs[1], found);
    if (found.stacked && !unstack(product, found)) return false;
    if (turned_flat(turned, found)) return true;
    const IrNode* transpose = pattern_.take(turned, "Transpose");
    if (transpose == nullptr) return false;
    const auto perm = ir_.view(*transpose).integers("perm");
    if (perm.size() != keys.dims.size()) return false;
    found.k = unscaled(transpose->inputs[0], found);
    std::vector<std::int64_t> swapped(perm.begin(), perm.end());
    std::swap(swapped[swapped.size() - 1], swapped[swapped.size() - 2]);
    for (std::size_t i = 0; i < swapped.size(); ++i)
      if (swapped[i] != static_cast<std::int64_t>(i)) found.k_perm = swapped;
    return true;
  }

  // Q [B,G*R,S,D] is read as [B,G,R*S,D]; the reshapes must say the same of heads and groups.
  bool unstack(const IrNode& product, Found& found) {
    const IrNode* stack = pattern_.take(found.q, "Reshape", 5);
    if (stack == nullptr || found.grouped == kNone) return false;
    const TypeShape &q = pattern_.type(stack->inputs[0]), &rows = pattern_.type(found.q),
                    &scores = pattern_.type(product.outputs[0]),
                    &grouped = pattern_.type(found.grouped);
    if (!q.has_rank || q.dims.size() != 4 || rows.dims.size() != 4 || scores.dims.size() != 4 ||
        grouped.dims.size() != 5)
      return false;
    const std::int64_t groups = grouped.dims[1], repeats = grouped.dims[2];
    if (groups <= 0 || repeats <= 0 || q.dims[1] != groups * repeats || rows.dims[1] != groups ||
        q.dims[3] <= 0 || rows.dims[3] != q.dims[3])
      return false;
    const bool aligned = found.mask == kNone ||
                         pattern_.type(found.mask).dims.size() <= 2;  // not over groups or repeats
    found.q = stack->inputs[0];
    return aligned && q.dims[0] == rows.dims[0] && rows.dims[0] == grouped.dims[0] &&
           q.dims[2] == grouped.dims[3];
  }

  // K [B,H,T,D] turned as [B*H,T,D] and folded back to [B,H,D,T]; sizes are compared as far as
  // symbols go.
  bool turned_flat(ValueId id, Found& found) {
    const IrNode* fold = pattern_.maker(id, "Reshape", 5);
    const IrNode* turn = fold != nullptr ? pattern_.maker(fold->inputs[0], "Transpose") : nullptr;
    const IrNode* flat = turn != nullptr ? pattern_.maker(turn->inputs[0], "Reshape", 5) : nullptr;
    if (flat == nullptr || pattern_.type(flat->inputs[0]).dims.size() != 4) return false;
    const auto perm = ir_.view(*turn).integers("perm");
    if (perm.size() != 3 || perm[0] != 0 || perm[1] != 2 || perm[2] != 1) return false;
    const std::vector<std::int64_t> k = symbolic_dims(ir_, context_.host, flat->inputs[0]);
    const auto inner = partial_value(ir_, context_.host, flat->inputs[1]).elements;
    const auto outer = partial_value(ir_, context_.host, fold->inputs[1]).elements;
    if (inner.size() != 3 || outer.size() != 4 || inner[1] != k[2] || inner[2] != k[3])
      return false;
    if (outer[0] != k[0] || outer[1] != k[1] || outer[2] != k[3] || outer[3] != k[2]) return false;
    for (const ValueId made : {id, fold->inputs[0], turn->inputs[0]})
      pattern_.take(made, ir_.values[made].producer->op);
    found.k = unscaled(flat->inputs[0], found);
    return true;
  }

  static bool same_size(std::int64_t a, std::int64_t b) {
    return a == b || (a < 0 && b != 1) || (b < 0 && a != 1);
  }

  // Q, K, V and the result agree in type, rank and heads, and none is broadcast over a batch.
  bool operands(const IrNode& root, const Found& found) const {
    const TypeShape &q = pattern_.type(found.q), &k = pattern_.type(found.k),
                    &v = pattern_.type(found.v), &y = pattern_.type(root.outputs[0]);
    if (q.dtype != k.dtype || q.dtype != v.dtype || q.dtype != y.dtype || q.dtype == DType::f64)
      return false;
    if (!v.has_rank || !k.has_rank || v.dims.size() != q.dims.size() ||
        k.dims.size() != q.dims.size())
      return false;
    const std::size_t rank = q.dims.size();
    const auto k_dim = [&](std::size_t i) {
      return k.dims[found.k_perm.empty() ? i : static_cast<std::size_t>(found.k_perm[i])];
    };
    for (std::size_t i = 0; i + (found.stacked ? 3 : 2) < rank; ++i)
      if (!same_size(q.dims[i], k_dim(i)) || !same_size(q.dims[i], v.dims[i]) ||
          !same_size(k_dim(i), v.dims[i]))
        return false;
    if (found.stacked) {
      const std::int64_t groups = pattern_.type(found.grouped).dims[1];
      return k_dim(1) == groups && v.dims[1] == groups && v.dims[3] > 0;
    }
    // The kernel divides the query heads by those of the keys when it is made.
    return rank == 3 || (q.dims[1] > 0 && k_dim(1) == q.dims[1] && v.dims[1] == q.dims[1]);
  }

  // [B,G,T,D] behind Unsqueeze(2), Expand and Reshape to [B,G*R,T,D]; the value itself when it is
  // not repeated.
  ValueId unrepeated(ValueId id) const {
    const IrNode* reshape = pattern_.maker(id, "Reshape");
    const IrNode* expand =
        reshape != nullptr ? pattern_.maker(reshape->inputs[0], "Expand") : nullptr;
    const IrNode* unsqueeze =
        expand != nullptr ? pattern_.maker(expand->inputs[0], "Unsqueeze", 13) : nullptr;
    if (unsqueeze == nullptr) return id;
    const auto axes = pattern_.integers(unsqueeze->inputs[1]);
    const TypeShape &few = pattern_.type(unsqueeze->inputs[0]),
                    &wide = pattern_.type(expand->outputs[0]), &full = pattern_.type(id);
    if (!axes || *axes != std::vector<std::int64_t>{2} || few.dims.size() != 4 ||
        wide.dims.size() != 5 || full.dims.size() != 4)
      return id;
    const std::int64_t groups = few.dims[1], repeats = wide.dims[2];
    const bool fits = groups > 0 && repeats > 0 && wide.dims[1] == groups &&
                      full.dims[1] == groups * repeats && full.dims[3] > 0 &&
                      few.dims[3] == full.dims[3] && wide.dims[3] == few.dims[2] &&
                      few.dims[2] == full.dims[2] && few.dims[0] == full.dims[0];
    return fits ? unsqueeze->inputs[0] : id;
  }

  Status replace(IrNode& root, Found& found) {
    const std::string name = ir_.values[root.outputs[0]].name;
    const bool three = pattern_.type(found.q).dims.size() == 3;
    if (!found.k_perm.empty()) {
      FB_ASSIGN(found.k, pattern_.insert(root, name + "/keys", "Transpose", kPassOpset, {found.k},
                                         {{"perm", found.k_perm}}));
    } else if (!three && !found.stacked) {
      const ValueId k = unrepeated(found.k), v = unrepeated(found.v);
      if (k != found.k && v != found.v && pattern_.type(k).dims[1] == pattern_.type(v).dims[1]) {
        found.k = k;
        found.v = v;
      }
    }
    std::vector<plan::Attribute> attributes{{"scale", static_cast<float>(found.scale)}};
    if (found.softcap != 0) attributes.push_back({"softcap", static_cast<float>(found.softcap)});
    if (found.nan_rows) attributes.push_back({"nan_rows", std::int64_t{1}});
    if (found.fill) attributes.push_back({"mask_fill", static_cast<float>(*found.fill)});
    if (three) {  // one head each: the batch is all heads
      attributes.push_back({"q_num_heads", std::int64_t{1}});
      attributes.push_back({"kv_num_heads", std::int64_t{1}});
    }
    std::vector<ValueId> inputs{found.q, found.k, found.v};
    if (found.mask != kNone) {
      FB_ASSIGN(const ValueId mask, mask_for(root, name, found, three));
      inputs.push_back(mask);
    }
    if (!found.stacked) {
      return pattern_.become(root, "forebay", "Attention", 1, std::move(inputs),
                             std::move(attributes));
    }
    HostTensor shape(DType::i64, Shape{4});
    const TypeShape &k = pattern_.type(found.k), &v = pattern_.type(found.v);
    const std::int64_t target[4] = {0, k.dims[1], -1, v.dims[3]};
    std::copy(target, target + 4, shape.as<std::int64_t>().begin());
    const ValueId rows =
        ir_.add_constant(name + "/rows", std::make_shared<const HostTensor>(std::move(shape)), {});
    FB_ASSIGN(const ValueId heads,
              pattern_.insert(root, name + "/heads", "Attention", 1, std::move(inputs),
                              std::move(attributes), "forebay"));
    return pattern_.become(root, "", "Reshape", kPassOpset, {heads, rows}, {});
  }

  Result<ValueId> mask_for(const IrNode& root, const std::string& name, const Found& found,
                           bool three) {
    ValueId mask = found.mask;
    if (found.true_hides) {
      FB_ASSIGN(mask, pattern_.insert(root, name + "/visible", "Not", kPassOpset, {mask}));
    }
    if (!three || pattern_.type(mask).dims.size() != 3) return mask;
    HostTensor axis(DType::i64, Shape{1});
    axis.as<std::int64_t>()[0] = 1;
    const ValueId axes = ir_.add_constant(name + "/mask_axis",
                                          std::make_shared<const HostTensor>(std::move(axis)), {});
    return pattern_.insert(root, name + "/mask", "Unsqueeze", kPassOpset, {mask, axes});
  }

  PassContext& context_;
  Ir& ir_;
  Pattern pattern_;
};

}  // namespace

Result<std::size_t> pass_attention(PassContext& context) {
  return AttentionPass(context).run();
}

}  // namespace forebay::builder
