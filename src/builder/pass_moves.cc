// Transposes and views of known sizes, with products of rows and picked elements between them, are joined: what lies at the end of a chain
// is one transpose of what lies at its beginning, often none. nn.MultiheadAttention works on [S,B,..] and [S,B*H,..] and turns its input,
// its heads and its result; joined, its heads are those of [B,S,H,D].
#include <algorithm>
#include <compare>
#include <map>
#include <numeric>
#include <optional>

#include "base/check.h"
#include "builder/pattern.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

using Dims = std::vector<std::int64_t>;

// A value as Reshape(Transpose(Reshape(base, atoms), order)) in its own shape: `axes` counts the atoms of each axis.
struct Layout {
  ValueId base = kNone;
  Dims atoms;
  std::vector<std::size_t> order, axes;

  std::int64_t size(std::size_t place) const { return atoms[order[place]]; }
  // Nothing but atoms of one element is moved.
  bool lies_still() const {
    std::vector<std::size_t> moved;
    std::copy_if(order.begin(), order.end(), std::back_inserter(moved), [&](std::size_t atom) { return atoms[atom] != 1; });
    return std::is_sorted(moved.begin(), moved.end());
  }
  std::size_t first(std::size_t axis) const {
    return std::accumulate(axes.begin(), axes.begin() + static_cast<std::ptrdiff_t>(axis), std::size_t{0});
  }
};

Layout plain_layout(ValueId id, const Dims& dims) {
  Layout out{id, dims, std::vector<std::size_t>(dims.size()), std::vector<std::size_t>(dims.size(), 1)};
  std::iota(out.order.begin(), out.order.end(), std::size_t{0});
  return out;
}

Layout transposed(const Layout& from, std::span<const std::int64_t> perm) {
  Layout out{from.base, from.atoms, {}, {}};
  for (const std::int64_t axis : perm) {
    const auto at = static_cast<std::size_t>(axis);
    const auto begin = from.order.begin() + static_cast<std::ptrdiff_t>(from.first(at));
    out.order.insert(out.order.end(), begin, begin + static_cast<std::ptrdiff_t>(from.axes[at]));
    out.axes.push_back(from.axes[at]);
  }
  return out;
}

// The atom at `place` becomes two, the second of `inner` elements.
void cut(Layout& layout, std::size_t place, std::int64_t inner) {
  const std::size_t atom = layout.order[place];
  layout.atoms[atom] /= inner;
  layout.atoms.insert(layout.atoms.begin() + static_cast<std::ptrdiff_t>(atom) + 1, inner);
  for (std::size_t& other : layout.order) other += other > atom ? 1 : 0;
  layout.order.insert(layout.order.begin() + static_cast<std::ptrdiff_t>(place) + 1, atom + 1);
}

// The same bytes under another shape; none when an axis would need a part of what no factor cuts.
std::optional<Layout> reshaped(Layout from, const Dims& dims) {
  Layout out{from.base, {}, {}, {}};
  std::size_t place = 0;
  for (const std::int64_t wanted : dims) {
    std::int64_t have = 1;
    std::size_t count = 0;
    while (have < wanted || (count == 0 && place < from.order.size() && from.size(place) == 1)) {
      if (place == from.order.size() || wanted % have != 0) return std::nullopt;
      const std::int64_t need = wanted / have, size = from.size(place);
      if (size > need) {
        if (size % need != 0) return std::nullopt;
        cut(from, place, size / need);
      }
      have *= from.size(place);
      ++place;
      ++count;
    }
    if (have != wanted) return std::nullopt;
    if (count == 0) {  // an axis of one element that was not there
      from.atoms.push_back(1);
      from.order.insert(from.order.begin() + static_cast<std::ptrdiff_t>(place), from.atoms.size() - 1);
      ++place;
      count = 1;
    }
    out.axes.push_back(count);
  }
  if (out.axes.empty()) return std::nullopt;
  out.axes.back() += from.order.size() - place;  // of one element each
  out.atoms = std::move(from.atoms);
  out.order = std::move(from.order);
  return out;
}

class MovesPass {
 public:
  explicit MovesPass(PassContext& context) : ir_(context.ir), pattern_(context), needs_(context.ir, context.registry), uses_(context.ir) {}

  Result<std::size_t> run() {
    const std::vector<IrNode*> nodes = execution_order(ir_);
    for (IrNode* node : nodes) FB_TRY(follow(*node));
    for (const auto& [id, chain] : chains_)
      if (is_end(id)) root(chain).after += cost(chain.layout, id);
    std::size_t made = 0;
    for (IrNode* node : nodes) {
      const auto at = node->outputs.empty() ? chains_.end() : chains_.find(node->outputs[0]);
      if (at == chains_.end() || !is_end(at->first)) continue;
      const Cluster& cluster = root(at->second);
      if (cluster.before.transposes == 0 || cluster.after > cluster.before) continue;
      pattern_.begin(*node);
      FB_TRY(finish(*node, at->second.layout));
      ++made;
    }
    pattern_.apply();
    return made;
  }

 private:
  // Chains that share a node are rewritten together or not at all: then nothing of the old ones stays. Where it costs the same they are,
  // too: the order of heads is one that pass_attention_heads knows.
  struct Cost {
    std::int64_t elements = 0, transposes = 0;  // moved; also those that move nothing
    auto operator<=>(const Cost&) const = default;
    void operator+=(const Cost& other) {
      elements += other.elements;
      transposes += other.transposes;
    }
  };
  struct Cluster {
    std::size_t parent = 0;
    Cost before, after;
  };
  struct Chain {
    Layout layout;
    std::size_t cluster = 0;
  };

  Cluster& root(const Chain& chain) { return clusters_[find(chain.cluster)]; }
  std::size_t find(std::size_t at) {
    while (clusters_[at].parent != at) at = clusters_[at].parent;
    return at;
  }

  const Dims* dims(ValueId id) const {
    if (id == kNone || !ir_.values[id].type.known()) return nullptr;
    const Dims& found = ir_.values[id].type.dims;
    return !found.empty() && std::all_of(found.begin(), found.end(), [](std::int64_t d) { return d > 0; }) ? &found : nullptr;
  }
  std::int64_t elements(ValueId id) const { return ir_.values[id].type.shape().elements(); }
  Cost cost(const Layout& layout, ValueId id) const { return layout.lies_still() ? Cost() : Cost{elements(id), 1}; }

  Layout layout_of(ValueId id) const {
    const auto at = chains_.find(id);
    return at != chains_.end() ? at->second.layout : plain_layout(id, *dims(id));
  }

  // Is `id` read by something that is no link of a chain?
  bool is_end(ValueId id) const {
    if (uses_.is_graph_output(id)) return true;
    const auto& readers = uses_.uses(id);
    return std::any_of(readers.begin(), readers.end(), [&](const Use& use) {
      const auto at = links_.find(use.node);
      return at == links_.end() || at->second != use.input;
    });
  }

  // Which input the rows of a product or sum come from; none when the node is another.
  std::optional<std::size_t> row_input(const IrNode& node) const {
    const auto fixed = [&](std::size_t i, std::size_t most) {
      const ValueId id = i < node.inputs.size() ? node.inputs[i] : kNone;
      return id == kNone || (needs_.fixed(id) && ir_.values[id].type.has_rank && ir_.values[id].type.dims.size() <= most);
    };
    if (node.op == "MatMul" && fixed(1, 2) && ir_.values[node.inputs[1]].type.dims.size() == 2) return 0;
    if (node.op == "Gemm" && ir_.view(node).integer("transA", 0) == 0 && fixed(1, 2) && fixed(2, 1)) return 0;
    if (node.op != "Add" || node.version < 7) return std::nullopt;
    for (std::size_t side = 0; side < 2; ++side)
      if (fixed(1 - side, 1) && dims(node.inputs[side]) != nullptr && *dims(node.inputs[side]) == *dims(node.outputs[0])) return side;
    return std::nullopt;
  }

  Status follow(IrNode& node) {
    if (node.removed || !node.domain.empty() || node.graph != 0 || node.outputs.size() != 1) return {};
    const ValueId out = node.outputs[0];
    if (dims(out) == nullptr || needs_.fixed(out)) return {};
    std::optional<Layout> layout;
    std::size_t from = 0;
    Cost before, after;
    if (node.op == "Transpose" && dims(node.inputs[0]) != nullptr) {
      const auto perm = ir_.view(node).integers("perm");
      if (perm.size() != dims(out)->size()) return {};
      layout = transposed(layout_of(node.inputs[0]), perm);
      before = {cost(transposed(plain_layout(node.inputs[0], *dims(node.inputs[0])), perm), out).elements, 1};
    } else if ((node.op == "Reshape" || node.op == "Squeeze" || node.op == "Unsqueeze" || node.op == "Flatten") &&
               dims(node.inputs[0]) != nullptr) {
      layout = reshaped(layout_of(node.inputs[0]), *dims(out));
    } else if (node.op == "Gather") {
      FB_ASSIGN(layout, picked(node));
    } else if (const auto rows = row_input(node); rows && chains_.contains(node.inputs[*rows])) {
      from = *rows;
      FB_ASSIGN(layout, product(node, from, after));
    }
    if (!layout) return {};
    links_[&node] = from;
    Chain chain{*layout, clusters_.size()};
    clusters_.push_back({chain.cluster, before, after});
    if (const auto at = chains_.find(node.inputs[from]); at != chains_.end()) {
      Cluster& joined = root(at->second);
      joined.before += before;
      joined.after += after;
      clusters_[chain.cluster].parent = find(at->second.cluster);
    }
    chains_[out] = std::move(chain);
    return {};
  }

  ValueId integers(const std::string& name, const Dims& values) {
    HostTensor tensor(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), tensor.as<std::int64_t>().begin());
    return ir_.add_constant(name, std::make_shared<const HostTensor>(std::move(tensor)), {});
  }

  Result<ValueId> viewed(const IrNode& root, ValueId id, const Dims& shape) {
    if (ir_.values[id].type.dims == shape) return id;
    const std::string name = ir_.values[root.outputs[0]].name + "/view";
    return pattern_.insert(root, name, "Reshape", kPassOpset, {id, integers(name + "_shape", shape)});
  }

  // Neighbours within an axis that stay neighbours are one; ones beside others are dropped.
  struct Move {
    Dims from, perm, to;
  };
  Move move_of(const Layout& layout) const {
    if (layout.atoms == ir_.values[layout.base].type.dims) return move_in_place(layout);
    std::vector<std::size_t> order;
    Dims sizes;  // of the atoms in `order`
    for (std::size_t axis = 0, place = 0; axis < layout.axes.size(); ++axis) {
      const std::size_t begin = order.size(), end = place + layout.axes[axis];
      for (std::size_t last = 0; place < end; ++place) {
        const std::size_t atom = layout.order[place];
        const bool alone = place + 1 == end && order.size() == begin;
        if (layout.atoms[atom] == 1 && !alone) continue;
        if (order.size() > begin && atom == last + 1) {
          sizes.back() *= layout.atoms[atom];
        } else {
          order.push_back(atom);
          sizes.push_back(layout.atoms[atom]);
        }
        last = atom;
      }
    }
    // Ones can lie anywhere; where they are not turned, later passes see which axes are.
    std::vector<std::size_t> by_source;
    for (std::size_t i = 0; i < order.size(); ++i)
      if (sizes[i] != 1) by_source.push_back(i);
    const std::vector<std::size_t> free = by_source;
    std::sort(by_source.begin(), by_source.end(), [&](std::size_t x, std::size_t y) { return order[x] < order[y]; });
    Move out{Dims(order.size(), 1), Dims(order.size()), sizes};
    std::iota(out.perm.begin(), out.perm.end(), std::int64_t{0});
    for (std::size_t i = 0; i < free.size(); ++i) {
      out.from[free[i]] = sizes[by_source[i]];
      out.perm[by_source[i]] = static_cast<std::int64_t>(free[i]);
    }
    return out;
  }

  // Of the base as it is, ones staying where they are: heads that come out of attention still look so.
  static Move move_in_place(const Layout& layout) {
    Dims turned;
    for (const std::size_t atom : layout.order)
      if (layout.atoms[atom] != 1) turned.push_back(static_cast<std::int64_t>(atom));
    Move out{layout.atoms, {}, {}};
    auto next = turned.begin();
    for (std::size_t i = 0; i < layout.atoms.size(); ++i) {
      const std::int64_t from = layout.atoms[i] == 1 ? static_cast<std::int64_t>(i) : *next++;
      out.perm.push_back(from);
      out.to.push_back(layout.atoms[static_cast<std::size_t>(from)]);
    }
    return out;
  }

  // What the layout says, before `root`.
  Result<ValueId> moved(const IrNode& root, const Layout& layout, const Dims& shape) {
    if (layout.lies_still()) return viewed(root, layout.base, shape);
    const Move move = move_of(layout);
    FB_ASSIGN(const ValueId whole, viewed(root, layout.base, move.from));
    const std::string name = ir_.values[root.outputs[0]].name + "/moved";
    FB_ASSIGN(const ValueId turned, pattern_.insert(root, name, "Transpose", kPassOpset, {whole}, {{"perm", move.perm}}));
    return viewed(root, turned, shape);
  }

  // One element of an axis, picked from the base.
  Result<std::optional<Layout>> picked(IrNode& node) {
    const ValueId data = node.inputs[0];
    const TypeShape& index = ir_.values[node.inputs[1]].type;
    if (!chains_.contains(data) || !index.has_rank || !index.dims.empty()) return std::optional<Layout>();
    Layout layout = layout_of(data);
    std::int64_t axis = ir_.view(node).integer("axis", 0);
    axis += axis < 0 ? static_cast<std::int64_t>(layout.axes.size()) : 0;
    const auto at = static_cast<std::size_t>(axis);
    if (layout.axes[at] != 1) return std::optional<Layout>();
    const std::size_t place = layout.first(at), atom = layout.order[place];
    pattern_.begin(node);
    FB_ASSIGN(const ValueId whole, viewed(node, layout.base, layout.atoms));
    const std::string name = ir_.values[node.outputs[0]].name + "/picked";
    FB_ASSIGN(layout.base,
              pattern_.insert(node, name, "Gather", node.version, {whole, node.inputs[1]}, {{"axis", static_cast<std::int64_t>(atom)}}));
    layout.atoms.erase(layout.atoms.begin() + static_cast<std::ptrdiff_t>(atom));
    layout.order.erase(layout.order.begin() + static_cast<std::ptrdiff_t>(place));
    layout.axes.erase(layout.axes.begin() + axis);
    for (std::size_t& other : layout.order) other -= other > atom ? 1 : 0;
    return std::optional<Layout>(std::move(layout));
  }

  // The product of the rows in the order of the base: [rows, columns], whatever order they are read in.
  Result<std::optional<Layout>> product(IrNode& node, std::size_t from, Cost& after) {
    const ValueId data = node.inputs[from];
    Layout layout = layout_of(data);
    const std::size_t rows = layout.first(layout.axes.size() - 1);
    std::vector<std::size_t> sorted = layout.order;
    std::sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(rows));
    if (layout.lies_still() || sorted == layout.order) return std::optional<Layout>();
    const std::int64_t columns = dims(data)->back();
    pattern_.begin(node);
    ValueId& flat = rows_[data];
    if (flat == 0) {
      Layout lined{layout.base, layout.atoms, sorted, {rows, layout.order.size() - rows}};
      FB_ASSIGN(flat, moved(node, lined, {elements(data) / columns, columns}));
      after += cost(lined, data);
    }
    std::vector<ValueId> inputs = node.inputs;
    inputs[from] = flat;
    const std::string name = ir_.values[node.outputs[0]].name + "/rows";
    Layout out;
    FB_ASSIGN(out.base, pattern_.insert(node, name, node.op, node.version, std::move(inputs), node.attributes));
    // The rows' atoms by their order in the base, then the columns.
    for (std::size_t i = 0; i < rows; ++i) {
      out.atoms.push_back(layout.atoms[sorted[i]]);
      out.order.push_back(static_cast<std::size_t>(std::find(sorted.begin(), sorted.end(), layout.order[i]) - sorted.begin()));
    }
    out.atoms.push_back(dims(node.outputs[0])->back());
    out.order.push_back(rows);
    out.axes = std::move(layout.axes);
    out.axes.back() = 1;
    return std::optional<Layout>(std::move(out));
  }

  Status finish(IrNode& node, const Layout& layout) {
    const Dims shape = *dims(node.outputs[0]);
    if (!layout.lies_still()) {
      const Move move = move_of(layout);
      if (move.to == shape) {
        FB_ASSIGN(const ValueId whole, viewed(node, layout.base, move.from));
        return pattern_.become(node, "", "Transpose", kPassOpset, {whole}, {{"perm", move.perm}});
      }
    }
    FB_ASSIGN(const ValueId all, moved(node, layout, layout.lies_still() ? ir_.values[layout.base].type.dims : move_of(layout).to));
    const ValueId target = integers(ir_.values[node.outputs[0]].name + "/shape", shape);
    return pattern_.become(node, "", "Reshape", kPassOpset, {all, target}, {});
  }

  Ir& ir_;
  Pattern pattern_;
  ValueNeeds needs_;
  UseIndex uses_;
  std::map<ValueId, Chain> chains_;
  std::map<ValueId, ValueId> rows_;             // of a value, as the product of its rows reads them
  std::map<const IrNode*, std::size_t> links_;  // and the input that they follow
  std::vector<Cluster> clusters_;
};

}  // namespace

Result<std::size_t> pass_moves(PassContext& context) {
  return MovesPass(context).run();
}

}  // namespace forebay::builder
