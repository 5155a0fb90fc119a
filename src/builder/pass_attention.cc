// softmax(Q K' * scale + mask) V written out becomes one forebay.Attention: with the scale on the
// scores, on Q, on K or on both; with casts to f32 around the softmax; with an additive mask, or a
// boolean one by Where, or both, or two; with a soft cap; with Where(IsNaN) behind the softmax;
// with transposed keys however the exporter composed the transposes; with keys and values repeated
// for groups of query heads; with products of [batch * heads, ..] whose scores are [batch, heads,
// ..] where a mask is added.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "builder/partial_values.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

struct Found {
  ValueId q = kNone, k = kNone, v = kNone;
  std::vector<std::int64_t> k_perm;  // from the value k to keys as rows; empty: as it is
  ValueId k_fold = kNone;            // then, with the last two of this shape swapped, to [B,H,T,D]
  std::vector<std::int64_t> k_dims;  // of the keys as rows
  double scale = 1, softcap = 0;
  std::vector<ValueId> added;  // masks, the last one next to the product
  ValueId chosen = kNone;      // a boolean mask by Where, ...
  ValueId fill_value = kNone;  // ... this where it hides
  std::optional<double> fill;
  bool true_hides = false, nan_rows = false;
  bool gate_inside = false;  // the Where is nearer to the product than what is added
  ValueId lift = kNone;      // the shape [B,H,S,T] of the scores of products of [B*H,..]
  bool flat_mask = false;    // a mask meets the scores of such products as they are
  bool masked() const { return !added.empty() || chosen != kNone; }
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
    if (const IrNode* view = found.stacked ? nullptr : pattern_.take(id, "Reshape", 5))
      return lifted(*view, found) && scores(view->inputs[0], found, scaled);
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
    if (found.added.size() == 2 || found.softcap != 0) return false;
    const std::size_t mark = pattern_.mark();
    for (std::size_t side = 0; side < 2; ++side) {
      Found tried = found;
      tried.added.push_back(sum.inputs[1 - side]);
      tried.flat_mask |= pattern_.type(sum.inputs[side]).dims.size() == 3;
      pattern_.back_to(mark);
      if (!mask_fits(sum.inputs[1 - side], sum.inputs[side]) ||
          (tried.chosen != kNone && !hides(tried)) || !scores(sum.inputs[side], tried, false))
        continue;
      found = tried;
      return true;
    }
    return false;
  }

  bool chosen(const IrNode& where, Found& found) {
    if (found.chosen != kNone || found.softcap != 0) return false;
    found.true_hides = pattern_.number(where.inputs[1]).has_value();
    const ValueId kept = where.inputs[found.true_hides ? 2 : 1];
    found.fill_value = where.inputs[found.true_hides ? 1 : 2];
    found.fill = pattern_.number(found.fill_value);
    found.chosen = where.inputs[0];
    found.gate_inside = !found.added.empty();
    found.flat_mask |= pattern_.type(kept).dims.size() == 3;
    return found.fill && (found.added.empty() || hides(found)) && mask_fits(found.chosen, kept) &&
           scores(kept, found, false);
  }

  // Beside such a number a score vanishes: to add it is to put it in the score's place.
  bool hides(const Found& found) const {
    return *found.fill <= (pattern_.type(found.fill_value).dtype == DType::f16 ? -6e4 : -1e30);
  }

  // [B*H,S,T] seen as [B,H,S,T] and back. The shape is trusted no further than batch and heads: the
  // kernel compares the mask with the keys, and with T the other sizes follow.
  bool lifted(const IrNode& view, Found& found) {
    const std::size_t rank = pattern_.type(view.outputs[0]).dims.size(),
                      from = pattern_.type(view.inputs[0]).dims.size();
    if (rank == 3 && from == 4) return true;
    if (rank != 4 || from != 3) return false;
    found.lift = view.inputs[1];
    const auto target = partial_value(ir_, context_.host, found.lift).elements;
    return target.size() == 4 && (is_unknown(target[0]) || target[0] > 0) && target[1] > 0;
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
    if (found.lift != kNone && !lift_fits(product, found)) return false;
    found.q = unscaled(product.inputs[0], found);
    const ValueId turned = unscaled(product.inputs[1], found);
    if (found.stacked && !unstack(product, found)) return false;
    if (turned_flat(turned, found)) {
      found.k_dims = pattern_.type(found.k).dims;
      return true;
    }
    const IrNode* transpose = folded(turned, found) ? pattern_.take(folded_from_, "Transpose")
                                                    : pattern_.take(turned, "Transpose");
    if (transpose == nullptr) return false;
    const auto perm = ir_.view(*transpose).integers("perm");
    if (perm.size() != pattern_.type(transpose->inputs[0]).dims.size()) return false;
    found.k = unscaled(transpose->inputs[0], found);
    std::vector<std::int64_t> swapped(perm.begin(), perm.end());
    std::swap(swapped[swapped.size() - 1], swapped[swapped.size() - 2]);
    for (std::size_t i = 0; i < swapped.size(); ++i)
      if (swapped[i] != static_cast<std::int64_t>(i)) found.k_perm = swapped;
    found.k_dims = keys.dims;
    std::swap(found.k_dims[keys.dims.size() - 1], found.k_dims[keys.dims.size() - 2]);
    if (found.k_fold != kNone) return true;
    const TypeShape& k = pattern_.type(found.k);
    for (std::size_t i = 0; i < k.dims.size(); ++i)
      found.k_dims[i] = k.dims[found.k_perm.empty() ? i : static_cast<std::size_t>(swapped[i])];
    return true;
  }

  // A mask of each key, added to the lifted scores, and head sizes that are known.
  bool lift_fits(const IrNode& product, const Found& found) const {
    const TypeShape &q = pattern_.type(product.inputs[0]), &v = pattern_.type(found.v);
    if (q.dims.size() != 3 || q.dims[2] <= 0 || v.dims.size() != 3 || v.dims[2] <= 0) return false;
    const auto one_column = [&](ValueId mask) { return pattern_.type(mask).dims.back() == 1; };
    if (!found.masked() || found.flat_mask || found.stacked) return false;
    return (found.chosen == kNone || !one_column(found.chosen)) &&
           std::none_of(found.added.begin(), found.added.end(), one_column);
  }

  // Keys [B*H,D,T] folded to [B,H,D,T].
  bool folded(ValueId id, Found& found) {
    const IrNode* fold = pattern_.maker(id, "Reshape", 5);
    if (fold == nullptr || pattern_.maker(fold->inputs[0], "Transpose") == nullptr) return false;
    const std::vector<std::int64_t> from = symbolic_dims(ir_, context_.host, fold->inputs[0]);
    const auto to = partial_value(ir_, context_.host, fold->inputs[1]).elements;
    if (from.size() != 3 || to.size() != 4 || to[2] != from[1] || to[3] != from[2]) return false;
    if (from[1] == kUnknownElement || from[2] == kUnknownElement || to[2] == 0 || to[3] == 0)
      return false;
    pattern_.take(id, "Reshape");
    found.k_fold = fold->inputs[1];
    folded_from_ = fold->inputs[0];
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
    const auto plain = [&](ValueId mask) {  // not over groups or repeats
      return pattern_.type(mask).dims.size() <= 2;
    };
    const bool aligned = (found.chosen == kNone || plain(found.chosen)) &&
                         std::all_of(found.added.begin(), found.added.end(), plain);
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
        found.k_dims.size() != q.dims.size())
      return false;
    const std::size_t rank = q.dims.size();
    const auto k_dim = [&](std::size_t i) { return found.k_dims[i]; };
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

  // Who asks for the size of the repeated heads asks for that of the few: TorchScript cuts masks by
  // it, and the copies would be made for that alone.
  Status size_from(ValueId full, ValueId few) {
    const std::int64_t repeats = pattern_.type(full).dims[1] / pattern_.type(few).dims[1];
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !node->domain.empty() || node->op != "Shape" ||
          node->inputs[0] != full || !node->attributes.empty())
        continue;
      const std::string name = ir_.values[node->outputs[0]].name;
      FB_ASSIGN(const ValueId size,
                pattern_.insert(*node, name + "/few", "Shape", kPassOpset, {few}));
      node->op = "Mul";
      node->version = kPassOpset;
      node->inputs = {size, integers(name + "/repeats", {1, repeats, 1, 1})};
    }
    return {};
  }

  Result<ValueId> keys_as_rows(const IrNode& root, const std::string& name, const Found& found) {
    ValueId k = found.k;
    if (!found.k_perm.empty()) {
      FB_ASSIGN(k, pattern_.insert(root, name + "/keys", "Transpose", kPassOpset, {k},
                                   {{"perm", found.k_perm}}));
    }
    if (found.k_fold == kNone) return k;
    ValueId shape = kNone;
    if (const auto known = pattern_.integers(found.k_fold)) {
      shape = integers(name + "/rows_shape", {(*known)[0], (*known)[1], (*known)[3], (*known)[2]});
    } else {
      const ValueId order = integers(name + "/rows_order", {0, 1, 3, 2});
      FB_ASSIGN(shape, pattern_.insert(root, name + "/rows_shape", "Gather", kPassOpset,
                                       {found.k_fold, order}));
    }
    return pattern_.insert(root, name + "/key_rows", "Reshape", kPassOpset, {k, shape});
  }

  // [B*H,S,D] as [B,H,S,D].
  Result<ValueId> lift(const IrNode& root, const std::string& name, ValueId heads, ValueId value) {
    const ValueId tail = integers(name + "_tail", {-1, pattern_.type(value).dims[2]});
    FB_ASSIGN(const ValueId shape, pattern_.insert(root, name + "_shape", "Concat", kPassOpset,
                                                   {heads, tail}, {{"axis", std::int64_t{0}}}));
    return pattern_.insert(root, name, "Reshape", kPassOpset, {value, shape});
  }

  Status replace(IrNode& root, Found& found) {
    const std::string name = ir_.values[root.outputs[0]].name;
    const bool lifts = found.lift != kNone;
    const bool three = !lifts && pattern_.type(found.q).dims.size() == 3;
    ValueId rows = kNone;  // the shape of the result, where Attention makes another
    if (!three && !lifts && !found.stacked && found.k_perm.empty() && found.k_fold == kNone) {
      const ValueId k = unrepeated(found.k), v = unrepeated(found.v);
      if (k != found.k && v != found.v && pattern_.type(k).dims[1] == pattern_.type(v).dims[1]) {
        FB_TRY(size_from(found.k, k));
        FB_TRY(size_from(found.v, v));
        found.k = k;
        found.v = v;
      }
    }
    FB_ASSIGN(found.k, keys_as_rows(root, name, found));
    if (found.stacked) {
      const TypeShape &k = pattern_.type(found.k), &v = pattern_.type(found.v);
      rows = integers(name + "/rows", {0, k.dims[1], -1, v.dims[3]});
    } else if (lifts) {
      FB_ASSIGN(rows, lift_operands(root, name, found));
    }
    std::vector<plan::Attribute> attributes = attributes_of(found, three);
    std::vector<ValueId> inputs{found.q, found.k, found.v};
    if (found.masked()) {
      FB_ASSIGN(const ValueId mask, mask_for(root, name, found, three));
      inputs.push_back(mask);
    }
    if (rows == kNone) {
      return pattern_.become(root, "forebay", "Attention", 1, std::move(inputs),
                             std::move(attributes));
    }
    FB_ASSIGN(const ValueId heads,
              pattern_.insert(root, name + "/heads", "Attention", 1, std::move(inputs),
                              std::move(attributes), "forebay"));
    return pattern_.become(root, "", "Reshape", kPassOpset, {heads, rows}, {});
  }

  static std::vector<plan::Attribute> attributes_of(const Found& found, bool three) {
    std::vector<plan::Attribute> attributes{{"scale", static_cast<float>(found.scale)}};
    if (found.softcap != 0) attributes.push_back({"softcap", static_cast<float>(found.softcap)});
    if (found.nan_rows) attributes.push_back({"nan_rows", std::int64_t{1}});
    if (found.fill && found.added.empty())
      attributes.push_back({"mask_fill", static_cast<float>(*found.fill)});
    if (three) {  // one head each: the batch is all heads
      attributes.push_back({"q_num_heads", std::int64_t{1}});
      attributes.push_back({"kv_num_heads", std::int64_t{1}});
    }
    return attributes;
  }

  // Q, K and V with heads of their own; gives the shape that takes them back into the batch.
  Result<ValueId> lift_operands(const IrNode& root, const std::string& name, Found& found) {
    FB_ASSIGN(const ValueId heads,
              pattern_.insert(root, name + "/batch_heads", "Gather", kPassOpset,
                              {found.lift, integers(name + "/first_two", {0, 1})}));
    FB_ASSIGN(const ValueId lead,
              pattern_.insert(root, name + "/lead", "Shape", kPassOpset, {found.q},
                              {{"start", std::int64_t{0}}, {"end", std::int64_t{2}}}));
    const ValueId width = integers(name + "/width", {pattern_.type(found.v).dims[2]});
    FB_ASSIGN(found.q, lift(root, name + "/q", heads, found.q));
    FB_ASSIGN(found.k, lift(root, name + "/k", heads, found.k));
    FB_ASSIGN(found.v, lift(root, name + "/v", heads, found.v));
    return pattern_.insert(root, name + "/rows", "Concat", kPassOpset, {lead, width},
                           {{"axis", std::int64_t{0}}});
  }

  ValueId integers(const std::string& name, std::vector<std::int64_t> values) {
    HostTensor tensor(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), tensor.as<std::int64_t>().begin());
    return ir_.add_constant(name, std::make_shared<const HostTensor>(std::move(tensor)), {});
  }

  // All masks in one.
  Result<ValueId> mask_for(const IrNode& root, const std::string& name, const Found& found,
                           bool three) {
    ValueId mask = found.added.empty() ? found.chosen : found.added.back();
    if (found.added.empty() && found.true_hides) {
      FB_ASSIGN(mask, pattern_.insert(root, name + "/visible", "Not", kPassOpset, {mask}));
    }
    if (found.added.size() == 2) {
      FB_ASSIGN(mask, pattern_.insert(root, name + "/masks", "Add", kPassOpset,
                                      {found.added[0], found.added[1]}));
    }
    if (!found.added.empty() && found.chosen != kNone) {
      FB_ASSIGN(mask, gated(root, name, found, mask));
    }
    if (!three || pattern_.type(mask).dims.size() != 3) return mask;
    return pattern_.insert(root, name + "/mask", "Unsqueeze", kPassOpset,
                           {mask, integers(name + "/mask_axis", {1})});
  }

  // Where(seen, score, fill) + mask, or Where(seen, score + mask, fill), as something to add.
  Result<ValueId> gated(const IrNode& root, const std::string& name, const Found& found,
                        ValueId mask) {
    ValueId seen = mask;
    if (found.gate_inside) {
      HostTensor zero(pattern_.type(found.fill_value).dtype, Shape{});
      std::memset(zero.data(), 0, zero.bytes());
      seen =
          ir_.add_constant(name + "/zero", std::make_shared<const HostTensor>(std::move(zero)), {});
    }
    std::vector<ValueId> inputs{found.chosen, seen, found.fill_value};
    if (found.true_hides) std::swap(inputs[1], inputs[2]);
    FB_ASSIGN(const ValueId gate,
              pattern_.insert(root, name + "/gate", "Where", kPassOpset, std::move(inputs)));
    if (!found.gate_inside) return gate;
    return pattern_.insert(root, name + "/masks_seen", "Add", kPassOpset, {mask, gate});
  }

  PassContext& context_;
  Ir& ir_;
  Pattern pattern_;
  ValueId folded_from_ = kNone;
};

}  // namespace

Result<std::size_t> pass_attention(PassContext& context) {
  return AttentionPass(context).run();
}

}  // namespace forebay::builder
