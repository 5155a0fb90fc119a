#include "builder/partial_values.h"

#include <algorithm>
#include <cstdlib>

namespace forebay::builder {
namespace {

constexpr std::int64_t kMostElements = 64;
constexpr int kMostDepth = 12, kMostReads = 256;

class Reader {
 public:
  Reader(const Ir& ir, HostValues& host) : ir_(ir), host_(host) {}

  PartialValue read(ValueId id, int depth) {
    PartialValue out;
    if (id == kNone || depth > kMostDepth || ++reads_ > kMostReads ||
        !dtype_is_integer(ir_.values[id].type.dtype))
      return out;
    const TypeShape& type = ir_.values[id].type;
    if (!type.known() || type.dims.size() > 1 || type.shape().elements() > kMostElements)
      return out;
    if (const HostTensor* known = host_.get(id))
      return of_tensor(*known, ir_.values[id].known_sources);
    const IrNode* node = ir_.values[id].producer;
    if (node == nullptr || !node->domain.empty() || node->outputs[0] != id) return out;
    if (node->op == "Shape") return of_dims(*node);
    if (node->op == "Concat") return joined(*node, depth);
    if (node->op == "Cast" || node->op == "Identity" || node->op == "Squeeze" ||
        node->op == "Unsqueeze" || node->op == "Reshape")
      return read(node->inputs[0], depth + 1);
    if (node->op == "Gather") return gathered(*node, depth);
    if (node->op == "Slice") return sliced(*node, depth);
    if (node->op == "Where") return chosen(*node, depth);
    if (node->op == "Add" || node->op == "Sub" || node->op == "Mul" || node->op == "Div")
      return computed(*node, depth);
    return out;
  }

 private:
  // Where(Equal(shape, -1), 1, shape), as TorchScript writes the target of an expand.
  PartialValue chosen(const IrNode& where, int depth) {
    const IrNode* equal = where.inputs[0] != kNone ? ir_.values[where.inputs[0]].producer : nullptr;
    if (equal == nullptr || equal->op != "Equal" || !equal->domain.empty()) return {};
    const PartialValue sides[] = {
        read(equal->inputs[0], depth + 1), read(equal->inputs[1], depth + 1),
        read(where.inputs[1], depth + 1), read(where.inputs[2], depth + 1)};
    PartialValue out;
    for (const PartialValue& side : sides) {
      if (side.elements.empty() || side.elements.size() != sides[0].elements.size()) return {};
      out.sources.insert(side.sources.begin(), side.sources.end());
    }
    for (std::size_t i = 0; i < sides[0].elements.size(); ++i) {
      const std::int64_t a = sides[0].elements[i], b = sides[1].elements[i];
      const bool known = !is_unknown(a) && !is_unknown(b);
      // A symbol is a size.
      const bool differ = (is_unknown(a) && a != kUnknownElement && !is_unknown(b) && b < 0) ||
                          (is_unknown(b) && b != kUnknownElement && !is_unknown(a) && a < 0);
      const std::size_t side = known && a == b ? 2 : 3;
      out.elements.push_back(known || differ ? sides[side].elements[i] : kUnknownElement);
    }
    return out;
  }

  // Half of a known size, and the like: one number of two.
  PartialValue computed(const IrNode& node, int depth) {
    constexpr std::int64_t kMost = 1ll << 30;
    PartialValue out = read(node.inputs[0], depth + 1);
    const PartialValue other = read(node.inputs[1], depth + 1);
    const auto one = [](const PartialValue& value) {
      return value.complete() && value.elements.size() == 1 && std::abs(value.elements[0]) < kMost;
    };
    if (!one(out) || !one(other) || (node.op == "Div" && other.elements[0] == 0)) return {};
    std::int64_t& a = out.elements[0];
    const std::int64_t b = other.elements[0];
    a = node.op == "Add" ? a + b : node.op == "Sub" ? a - b : node.op == "Mul" ? a * b : a / b;
    out.sources.insert(other.sources.begin(), other.sources.end());
    return out;
  }

  static PartialValue of_tensor(const HostTensor& tensor,
                                const std::vector<std::uint32_t>& sources) {
    PartialValue out;
    if (tensor.dtype() == DType::i64) {
      // The least integer is how exporters write the beginning of a slice; it must not look
      // unknown.
      for (const std::int64_t value : tensor.as<std::int64_t>())
        out.elements.push_back(std::max(value, kUnknownElement / 2));
    } else if (tensor.dtype() == DType::i32) {
      for (const std::int32_t value : tensor.as<std::int32_t>()) out.elements.push_back(value);
    }
    out.sources.insert(sources.begin(), sources.end());
    return out;
  }

  PartialValue of_dims(const IrNode& shape) const {
    PartialValue out;
    if (shape.inputs[0] == kNone || !input_type(ir_, shape, 0).has_rank) return out;
    const std::vector<std::int64_t> dims = symbolic_dims(ir_, host_, shape.inputs[0]);
    const NodeView view = ir_.view(shape);
    const auto rank = static_cast<std::int64_t>(dims.size());
    const auto place = [&](std::int64_t at) {
      return std::clamp<std::int64_t>(at < 0 ? at + rank : at, 0, rank);
    };
    const std::int64_t begin = place(view.integer("start", 0)),
                       end = std::max(begin, place(view.integer("end", rank)));
    out.elements.assign(dims.begin() + begin, dims.begin() + end);
    return out;
  }

  // A piece of known length of which nothing is known still tells where the next one begins.
  PartialValue joined(const IrNode& concat, int depth) {
    PartialValue out;
    for (const ValueId input : concat.inputs) {
      PartialValue piece = read(input, depth + 1);
      const TypeShape& type = ir_.values[input].type;
      if (!type.known() || type.dims.size() != 1) return {};
      const auto count = static_cast<std::size_t>(type.dims[0]);
      if (piece.elements.size() != count) piece.elements.assign(count, kUnknownElement);
      if (out.elements.size() + count > static_cast<std::size_t>(kMostElements)) return {};
      out.elements.insert(out.elements.end(), piece.elements.begin(), piece.elements.end());
      out.sources.insert(piece.sources.begin(), piece.sources.end());
    }
    return out;
  }

  PartialValue gathered(const IrNode& gather, int depth) {
    PartialValue out;
    const PartialValue from = read(gather.inputs[0], depth + 1),
                       at = read(gather.inputs[1], depth + 1);
    if (!at.complete() || from.elements.empty() ||
        ir_.values[gather.inputs[0]].type.dims.size() != 1)
      return out;
    const auto size = static_cast<std::int64_t>(from.elements.size());
    for (std::int64_t index : at.elements) {
      index += index < 0 ? size : 0;
      if (index < 0 || index >= size) return {};
      out.elements.push_back(from.elements[static_cast<std::size_t>(index)]);
    }
    out.sources = from.sources;
    out.sources.insert(at.sources.begin(), at.sources.end());
    return out;
  }

  PartialValue sliced(const IrNode& slice, int depth) {
    PartialValue out;
    if (slice.version < 10 || slice.inputs.size() < 3) return out;
    const PartialValue from = read(slice.inputs[0], depth + 1),
                       starts = read(slice.inputs[1], depth + 1),
                       ends = read(slice.inputs[2], depth + 1);
    if (from.elements.empty() || starts.elements.size() != 1 || ends.elements.size() != 1 ||
        !starts.complete() || !ends.complete())
      return out;
    out.sources = from.sources;
    for (std::size_t i = 1; i < slice.inputs.size(); ++i) {
      if (slice.inputs[i] == kNone) continue;
      const PartialValue bound = read(slice.inputs[i], depth + 1);
      if (i == 3 && bound.elements != std::vector<std::int64_t>{0} &&
          bound.elements != std::vector<std::int64_t>{-1})
        return {};
      if (i == 4 && bound.elements != std::vector<std::int64_t>{1}) return {};
      out.sources.insert(bound.sources.begin(), bound.sources.end());
    }
    const auto size = static_cast<std::int64_t>(from.elements.size());
    const auto place = [&](std::int64_t at) {
      return std::clamp<std::int64_t>(at < 0 ? at + size : at, 0, size);
    };
    const std::int64_t begin = place(starts.elements[0]),
                       end = std::max(begin, place(ends.elements[0]));
    out.elements.assign(from.elements.begin() + begin, from.elements.begin() + end);
    return out;
  }

  const Ir& ir_;
  HostValues& host_;
  int reads_ = 0;
};

}  // namespace

bool PartialValue::complete() const {
  return !elements.empty() && std::none_of(elements.begin(), elements.end(), is_unknown);
}

PartialValue partial_value(const Ir& ir, HostValues& host, ValueId id) {
  return Reader(ir, host).read(id, 0);
}

namespace {

std::int64_t own_symbol(ValueId id, std::size_t axis) {
  return kUnknownElement + 1 + static_cast<std::int64_t>(id) * kMaxRank +
         static_cast<std::int64_t>(axis);
}

// Inputs of the model that share a dimension's name share its size: a pass with others is refused.
std::int64_t input_symbol(const Ir& ir, ValueId id, std::size_t axis) {
  const IrValue& value = ir.values[id];
  const std::vector<ValueId>& inputs = ir.graphs[0].inputs;
  const bool named = axis < value.dim_names.size() && !value.dim_names[axis].empty() &&
                     value.dim_names[axis] != "?";
  if (!named || std::find(inputs.begin(), inputs.end(), id) == inputs.end())
    return own_symbol(id, axis);
  for (const ValueId input : inputs) {
    const IrValue& other = ir.values[input];
    for (std::size_t i = 0; i < other.dim_names.size() && i < other.type.dims.size(); ++i)
      if (other.dim_names[i] == value.dim_names[axis] && other.type.dims[i] < 0)
        return own_symbol(input, i);
  }
  return own_symbol(id, axis);
}

}  // namespace

std::vector<std::int64_t> symbolic_dims(const Ir& ir, const HostValues& host, ValueId id) {
  const TypeShape& type = ir.values[id].type;
  const std::vector<std::int64_t>* kept = host.symbols(id);
  std::vector<std::int64_t> dims = type.dims;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] >= 0) continue;
    const bool symbol = kept != nullptr && kept->size() == dims.size() && is_unknown((*kept)[i]);
    dims[i] = symbol && (*kept)[i] != kUnknownElement ? (*kept)[i]
              : ir.values[id].origin == Origin::input ? input_symbol(ir, id, i)
                                                      : own_symbol(id, i);
  }
  return dims;
}

namespace {

using Dims = std::vector<std::int64_t>;

// Sizes that are equal, or one beside ones.
Dims broadcast_symbols(const std::vector<Dims>& inputs, std::size_t rank) {
  Dims out(rank, kUnknownElement);
  for (std::size_t i = 1; i <= rank; ++i) {
    std::int64_t found = 1;
    for (const Dims& dims : inputs) {
      const std::int64_t own = i <= dims.size() ? dims[dims.size() - i] : 1;
      if (own == 1 || own == found) continue;
      found = found == 1 ? own : kUnknownElement;
      if (found == kUnknownElement) break;
    }
    out[rank - i] = found;
  }
  return out;
}

bool one_of(std::string_view op, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), op) != names.end();
}

Dims transposed_symbols(const Dims& x, std::span<const std::int64_t> perm) {
  Dims out;
  for (std::size_t i = 0; i < x.size(); ++i)
    out.push_back(x[perm.empty() ? x.size() - 1 - i : static_cast<std::size_t>(perm[i])]);
  return out;
}

// Axes that are not cut are as long as before.
Dims sliced_symbols(const IrNode& slice, HostValues& host, Dims x) {
  const HostTensor* axes =
      slice.version >= 10 && slice.inputs.size() > 3 && slice.inputs[3] != kNone
          ? host.get(slice.inputs[3])
          : nullptr;
  if (axes == nullptr || axes->dtype() != DType::i64) return {};
  const auto rank = static_cast<std::int64_t>(x.size());
  for (const std::int64_t axis : axes->as<std::int64_t>()) {
    if (axis < -rank || axis >= rank) return {};
    x[static_cast<std::size_t>(axis < 0 ? axis + rank : axis)] = kUnknownElement;
  }
  return x;
}

// Output dims in terms of those of the inputs; elements that mean nothing are unknown.
Dims rule(const Ir& ir, HostValues& host, const IrNode& node, std::size_t rank) {
  std::vector<Dims> inputs;
  for (const ValueId id : node.inputs) {
    if (id != kNone && !ir.values[id].type.has_rank) return {};
    inputs.push_back(id != kNone ? symbolic_dims(ir, host, id) : Dims());
  }
  if (inputs.empty()) return {};
  const NodeView view = ir.view(node);
  const Dims& x = inputs[0];
  if (one_of(node.op, {"Add", "Sub", "Mul", "Div", "Pow", "Where", "And", "Or", "Equal", "Less",
                       "Greater", "LessOrEqual"}))
    return broadcast_symbols(inputs, rank);
  if (one_of(node.op, {"Cast",
                       "Identity",
                       "Neg",
                       "Sqrt",
                       "Reciprocal",
                       "Sigmoid",
                       "Tanh",
                       "Erf",
                       "Relu",
                       "Gelu",
                       "Swish",
                       "Softmax",
                       "Not",
                       "IsNaN",
                       "Exp",
                       "Cos",
                       "Sin",
                       "LayerNormalization",
                       "RMSNormalization",
                       "ReduceMean",
                       "HardSwish",
                       "Clip",
                       "ScatterND",
                       "ScatterElements"})) {
    return x;  // what ReduceMean reduces is known to be one
  }
  if (node.op == "Transpose") return transposed_symbols(x, view.integers("perm"));
  if (node.op == "Slice") return sliced_symbols(node, host, x);
  if (node.op == "MatMul" && x.size() >= 2 && inputs[1].size() >= 2) {
    Dims out = broadcast_symbols(
        {Dims(x.begin(), x.end() - 2), Dims(inputs[1].begin(), inputs[1].end() - 2)}, rank - 2);
    out.push_back(x[x.size() - 2]);
    out.push_back(inputs[1].back());
    return out;
  }
  if ((node.op == "Split" || node.op == "MatMulNBits") && !x.empty()) {  // one axis is another
    Dims out = x;
    const std::int64_t axis = node.op == "Split" ? view.integer("axis", 0) : -1,
                       at = axis < 0 ? axis + static_cast<std::int64_t>(out.size()) : axis;
    if (at < 0 || at >= static_cast<std::int64_t>(out.size())) return {};
    out[static_cast<std::size_t>(at)] = kUnknownElement;
    return out;
  }
  if (node.op == "Gather" && view.integer("axis", 0) == 0 && !x.empty()) {
    Dims out = inputs[1];
    out.insert(out.end(), x.begin() + 1, x.end());
    return out;
  }
  if (node.op == "Concat") {
    Dims out = x;
    const std::int64_t axis = view.integer("axis", 0),
                       at = axis < 0 ? axis + static_cast<std::int64_t>(out.size()) : axis;
    if (at < 0 || at >= static_cast<std::int64_t>(out.size())) return {};
    out[static_cast<std::size_t>(at)] = kUnknownElement;
    return out;
  }
  if (node.op == "Unsqueeze" && rank == x.size() + 1) {
    const HostTensor* axes = node.version >= 13 ? host.get(node.inputs[1]) : nullptr;
    if (axes == nullptr || axes->dtype() != DType::i64 || axes->bytes() != sizeof(std::int64_t))
      return {};
    const std::int64_t axis = axes->as<std::int64_t>()[0];
    Dims out = x;
    out.insert(out.begin() + (axis < 0 ? axis + static_cast<std::int64_t>(rank) : axis), 1);
    return out;
  }
  if (node.op == "Reshape" || node.op == "Expand") {
    Dims out = partial_value(ir, host, node.inputs[1]).elements;
    if (node.op == "Reshape" && view.integer("allowzero", 0) == 0)
      for (std::size_t i = 0; i < out.size() && i < x.size(); ++i)
        out[i] = out[i] == 0 ? x[i] : out[i];
    return node.op == "Reshape" ? out : broadcast_symbols({x, out}, rank);
  }
  return {};
}

// What -1 stands for: symbols on both sides cancel, and what is left must be numbers.
std::int64_t left_over(Dims data, const Dims& target) {
  std::int64_t above = 1, below = 1;
  for (const std::int64_t element : target) {
    if (is_unknown(element)) {
      const auto same =
          element == kUnknownElement ? data.end() : std::find(data.begin(), data.end(), element);
      if (same == data.end()) return -1;
      data.erase(same);
    } else if (element > 0 && element < (1 << 30) && below < (1ll << 30)) {
      below *= element;
    } else if (element != -1) {
      return -1;
    }
  }
  for (const std::int64_t element : data) {
    if (element <= 0 || element >= (1 << 30) || above >= (1ll << 30)) return -1;
    above *= element;
  }
  return above % below == 0 ? above / below : -1;
}

}  // namespace

Dims inferred_symbols(const Ir& ir, HostValues& host, const IrNode& node, const TypeShape& output) {
  const bool served = node.domain.empty() || node.op == "MatMulNBits";
  if (!served || !output.has_rank || output.known()) return {};
  Dims dims = rule(ir, host, node, output.dims.size());
  return dims.size() == output.dims.size() ? dims : Dims();
}

void refine_type(const Ir& ir, HostValues& host, const IrNode& node, TypeShape& output) {
  if (node.domain.empty() && node.op == "ConstantOfShape" && output.has_rank && !output.known()) {
    const Dims sizes = partial_value(ir, host, node.inputs[0]).elements;
    for (std::size_t i = 0; i < output.dims.size() && sizes.size() == output.dims.size(); ++i)
      if (output.dims[i] < 0 && sizes[i] >= 0) output.dims[i] = sizes[i];
    return;
  }
  const bool reshapes = node.op == "Reshape";
  if (!node.domain.empty() || (!reshapes && node.op != "Expand") || node.inputs.size() < 2 ||
      !output.has_rank || output.known())
    return;
  const Dims target = partial_value(ir, host, node.inputs[1]).elements;
  const std::size_t rank = output.dims.size(), count = target.size();
  if (count == 0 || count > rank || (reshapes && count != rank)) return;
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t& dim = output.dims[rank - count + i];
    // Zero copies an axis and minus one is what is left; a one of Expand keeps the input's size.
    if (dim < 0 && target[i] > (reshapes ? 0 : 1)) dim = target[i];
    const Dims& from = ir.values[node.inputs[0]].type.dims;
    if (dim < 0 && !reshapes && count == rank && from.size() + i >= rank) {
      const std::int64_t own = from[from.size() + i - rank];
      if (own > 1 || (own == 1 && target[i] == 1)) dim = own;
    }
    if (dim < 0 && reshapes && target[i] == -1 && ir.values[node.inputs[0]].type.has_rank &&
        std::count(target.begin(), target.end(), -1) == 1)
      dim = left_over(symbolic_dims(ir, host, node.inputs[0]), target);
  }
}

}  // namespace forebay::builder
