#include "builder/partial_values.h"

#include <algorithm>

namespace forebay::builder {
namespace {

constexpr std::int64_t kMostElements = 64;
constexpr int kMostDepth = 12, kMostReads = 256;

class Reader {
 public:
  Reader(const Ir& ir, HostValues& host) : ir_(ir), host_(host) {}

  PartialValue read(ValueId id, int depth) {
    PartialValue out;
    if (id == kNone || depth > kMostDepth || ++reads_ > kMostReads || !dtype_is_integer(ir_.values[id].type.dtype))
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
    return out;
  }

 private:
  static PartialValue of_tensor(const HostTensor& tensor,
                                const std::vector<std::uint32_t>& sources) {
    PartialValue out;
    if (tensor.dtype() == DType::i64) {
      for (const std::int64_t value : tensor.as<std::int64_t>()) out.elements.push_back(value);
    } else if (tensor.dtype() == DType::i32) {
      for (const std::int32_t value : tensor.as<std::int32_t>()) out.elements.push_back(value);
    }
    out.sources.insert(sources.begin(), sources.end());
    return out;
  }

  PartialValue of_dims(const IrNode& shape) const {
    PartialValue out;
    const TypeShape type = input_type(ir_, shape, 0);
    const NodeView view = ir_.view(shape);
    if (!type.has_rank || view.has("start") || view.has("end")) return out;
    for (const std::int64_t dim : type.dims)
      out.elements.push_back(dim < 0 ? kUnknownElement : dim);
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
  return !elements.empty() &&
         std::find(elements.begin(), elements.end(), kUnknownElement) == elements.end();
}

PartialValue partial_value(const Ir& ir, HostValues& host, ValueId id) {
  return Reader(ir, host).read(id, 0);
}

void refine_type(const Ir& ir, HostValues& host, const IrNode& node, TypeShape& output) {
  const bool reshapes = node.op == "Reshape";
  if (!node.domain.empty() || (!reshapes && node.op != "Expand") || node.inputs.size() < 2 ||
      !output.has_rank || output.known())
    return;
  const PartialValue target = partial_value(ir, host, node.inputs[1]);
  const std::size_t rank = output.dims.size(), count = target.elements.size();
  if (count == 0 || count > rank || (reshapes && count != rank)) return;
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t& dim = output.dims[rank - count + i];
    // Zero copies an axis and minus one is what is left; a one of Expand keeps the input's size.
    if (dim < 0 && target.elements[i] > (reshapes ? 0 : 1)) dim = target.elements[i];
  }
}

}  // namespace forebay::builder
