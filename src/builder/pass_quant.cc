// Products and gathers of a dequantised weight read the packed weight itself: MatMul, FusedMatMul
// and Gemm over DequantizeLinear become forebay.QuantLinear, Gather of a dequantised table becomes
// DequantizeLinear of gathered codes. What moves elements between the two (Reshape, Transpose, ...)
// moves the codes instead, so no weight is ever kept in floats.
#include <algorithm>
#include <optional>

#include "base/check.h"
#include "builder/passes.h"
#include "builder/value_needs.h"
#include "runtime/cpu/quant_rows.h"

namespace forebay::builder {
namespace {

using Dims = std::vector<std::int64_t>;

// A dequantised weight as DequantizeLinear states it.
struct Packed {
  ValueId codes = kNone, scale = kNone, zero = kNone;
  std::int64_t axis = 0, block = 0;
  DType value = DType::none;
  Dims dims;
  std::vector<std::string> names;  // of the nodes that it replaces
};

class QuantPass {
 public:
  explicit QuantPass(PassContext& context)
      : context_(context), ir_(context.ir), needs_(context.ir, context.registry) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      Result<bool> done = node->op == "Gather"                 ? gather(*node)
                          : node->op == "GatherBlockQuantized" ? block_gather(*node)
                                                               : product(*node);
      if (!done.ok()) return std::move(done).status();
      made += *done ? 1 : 0;
    }
    insertions_.apply(ir_);
    if (made > 0) FB_TRY(pass_dead_code(context_).status());
    return made;
  }

 private:
  const TypeShape& type(ValueId id) const { return ir_.values[id].type; }
  bool fixed_codes(ValueId id) const {
    return id != kNone && needs_.fixed(id) && type(id).known() &&
           cpu::quant_code_dtype(type(id).dtype);
  }
  bool fixed_scale(ValueId id) const {
    const DType dtype = id != kNone ? type(id).dtype : DType::none;
    return (dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) &&
           needs_.fixed(id) && type(id).known();
  }

  std::optional<Packed> dequantised(const IrNode& node) const {
    if (!node.domain.empty() || node.op != "DequantizeLinear" || node.inputs.size() < 2)
      return std::nullopt;
    Packed packed;
    packed.codes = node.inputs[0];
    packed.scale = node.inputs[1];
    packed.zero = node.inputs.size() > 2 ? node.inputs[2] : kNone;
    if (!fixed_codes(packed.codes) || !fixed_scale(packed.scale) ||
        (packed.zero != kNone && !fixed_codes(packed.zero)))
      return std::nullopt;
    packed.dims = type(packed.codes).dims;
    packed.value = type(node.outputs[0]).dtype;
    if (packed.value != DType::f32 && packed.value != DType::f16 && packed.value != DType::bf16)
      return std::nullopt;
    const NodeView view = ir_.view(node);
    const auto rank = static_cast<std::int64_t>(packed.dims.size());
    packed.block = view.integer("block_size", 0);
    packed.axis = view.integer("axis", 1);
    if (packed.axis < 0) packed.axis += rank;
    const bool single = packed.block == 0 && type(packed.scale).shape().elements() == 1;
    if (single) packed.axis = 0;
    if (packed.axis < 0 || packed.axis >= rank) return std::nullopt;
    // A scale a channel is a list, a scale a block has the weight's rank.
    if (!single && type(packed.scale).dims.size() != (packed.block == 0 ? 1u : packed.dims.size()))
      return std::nullopt;
    packed.names = {node.name};
    return packed;
  }

  bool single(const Packed& packed) const {
    return packed.block == 0 && type(packed.scale).shape().elements() == 1;
  }

  static bool moves_elements(const IrNode& node) {
    if (!node.domain.empty() || node.inputs.empty() || node.outputs.size() != 1) return false;
    for (const char* op : {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
      if (node.op == op) return true;
    return false;
  }

  // The weight behind `id`: a DequantizeLinear, or one below nodes that only move elements. Makes
  // the nodes that move the codes, before `reader`.
  Result<std::optional<Packed>> find(ValueId id, IrNode& reader) {
    std::vector<const IrNode*> moves;
    const IrNode* node = ir_.values[id].producer;
    while (node != nullptr && moves_elements(*node) && type(node->outputs[0]).known() &&
           needs_.fixed(node->outputs[0])) {
      moves.push_back(node);
      node = ir_.values[node->inputs[0]].producer;
    }
    std::optional<Packed> packed = node != nullptr ? dequantised(*node) : std::nullopt;
    if (!packed) return packed;
    Packed probe = *packed;
    for (auto move = moves.rbegin(); move != moves.rend(); ++move)
      if (!follow(**move, probe)) return std::optional<Packed>();
    for (auto move = moves.rbegin(); move != moves.rend(); ++move)
      FB_TRY(apply(**move, *packed, reader));
    return packed;
  }

  // Axis and dims behind a move; false when the scales cannot follow it.
  bool follow(const IrNode& move, Packed& packed) const {
    const Dims& out = type(move.outputs[0]).dims;
    if (move.op == "Transpose") {
      const Dims perm = permutation(move, packed.dims.size());
      const auto at = std::find(perm.begin(), perm.end(), packed.axis);
      packed.axis = at - perm.begin();
    } else if (!single(packed)) {
      const auto before = [](const Dims& dims, std::size_t axis) {
        std::int64_t product = 1;
        for (std::size_t i = 0; i < axis; ++i) product *= dims[i];
        return product;
      };
      const auto axis = static_cast<std::size_t>(packed.axis);
      std::size_t to = 0;
      while (to < out.size() &&
             (out[to] != packed.dims[axis] || before(out, to) != before(packed.dims, axis)))
        ++to;
      if (to == out.size()) return false;
      packed.axis = static_cast<std::int64_t>(to);
    } else {
      packed.axis = 0;
    }
    packed.dims = out;
    return !out.empty();
  }

  Dims permutation(const IrNode& transpose, std::size_t rank) const {
    const auto given = ir_.view(transpose).integers("perm");
    Dims perm(given.begin(), given.end());
    for (std::size_t i = 0; perm.size() < rank; ++i)
      perm.push_back(static_cast<std::int64_t>(rank - 1 - i));
    return perm;
  }

  Status apply(const IrNode& move, Packed& packed, IrNode& reader) {
    const Packed old = packed;
    if (!follow(move, packed))
      return Status(Code::internal, "a weight's scales cannot follow its elements");
    packed.names.push_back(move.name);
    for (std::size_t i = 1; i < move.inputs.size(); ++i) keep_source(move.inputs[i]);
    const auto moved = [&](ValueId id, const Dims& dims) -> Result<ValueId> {
      if (move.op != "Transpose") return reshape(id, dims, reader);
      return add(reader, "Transpose", {id}, {{"perm", permutation(move, old.dims.size())}});
    };
    FB_ASSIGN(packed.codes, moved(packed.codes, packed.dims));
    if (packed.block == 0) return {};  // a number or a list serves any order of the other axes
    Dims dims = packed.dims;
    dims[static_cast<std::size_t>(packed.axis)] =
        type(old.scale).dims[static_cast<std::size_t>(old.axis)];
    FB_ASSIGN(packed.scale, moved(packed.scale, dims));
    if (packed.zero == kNone) return {};
    FB_ASSIGN(packed.zero, moved(packed.zero, dims));
    return {};
  }

  void keep_source(ValueId shape) {
    if (shape == kNone || context_.host.get(shape) == nullptr) return;
    const std::vector<std::uint32_t>& from = ir_.values[shape].known_sources;
    ir_.decided_by.insert(ir_.decided_by.end(), from.begin(), from.end());
  }

  Result<ValueId> add(IrNode& before, const char* op, std::vector<ValueId> inputs,
                      std::vector<plan::Attribute> attributes) {
    const std::string name = ir_.values[inputs[0]].name + "/" + op;
    const ValueId out = ir_.add_value(name, TypeShape());
    auto node = ir_.make_node(before.graph, name, op, kPassOpset, std::move(inputs), {out});
    node->attributes = std::move(attributes);
    FB_TRY(context_.types.infer_added(*node));
    insertions_.before(before, std::move(node));
    return out;
  }

  Result<ValueId> reshape(ValueId id, const Dims& dims, IrNode& before) {
    if (type(id).dims == dims) return id;
    HostTensor shape(DType::i64, Shape{static_cast<std::int64_t>(dims.size())});
    std::copy(dims.begin(), dims.end(), shape.as<std::int64_t>().begin());
    const ValueId constant = ir_.add_constant(
        ir_.values[id].name + "/dims", std::make_shared<const HostTensor>(std::move(shape)), {});
    return add(before, "Reshape", {id, constant}, {});
  }

  static bool is_matmul(const IrNode& node) {
    return (node.domain.empty() && node.op == "MatMul") ||
           (node.domain == "com.microsoft" && node.op == "FusedMatMul");
  }

  // Axes of size 1 before the matrix of a batched product go, when A has them too and so decides
  // the result's rank.
  static bool drop_batch(Packed& packed, std::size_t a_rank) {
    const std::size_t rank = packed.dims.size(), extra = rank - 2;
    if (a_rank < rank || packed.axis < static_cast<std::int64_t>(extra)) return false;
    if (std::any_of(packed.dims.begin(), packed.dims.end() - 2,
                    [](std::int64_t dim) { return dim != 1; }))
      return false;
    packed.dims.erase(packed.dims.begin(), packed.dims.end() - 2);
    packed.axis -= static_cast<std::int64_t>(extra);
    return true;
  }

  Status to_matrix(Packed& packed, const Packed& from, IrNode& reader) {
    FB_ASSIGN(packed.codes, reshape(packed.codes, packed.dims, reader));
    if (packed.block == 0) return {};
    Dims dims = packed.dims;
    dims[static_cast<std::size_t>(packed.axis)] =
        type(from.scale).dims[static_cast<std::size_t>(from.axis)];
    FB_ASSIGN(packed.scale, reshape(packed.scale, dims, reader));
    if (packed.zero == kNone) return {};
    FB_ASSIGN(packed.zero, reshape(packed.zero, dims, reader));
    return {};
  }

  Result<bool> product(IrNode& node) {
    const bool gemm = node.domain.empty() && node.op == "Gemm";
    if ((!gemm && !is_matmul(node)) || node.inputs.size() < 2 || node.inputs[0] == kNone ||
        node.inputs[1] == kNone)
      return false;
    const NodeView view = ir_.view(node);
    const TypeShape a = type(node.inputs[0]);
    if (view.integer("transA", 0) != 0 || view.integer("transBatchA", 0) != 0 ||
        view.integer("transBatchB", 0) != 0)
      return false;
    if (!a.has_rank || a.dims.size() < 2 || needs_.fixed(node.inputs[0]) ||
        !needs_.fixed(node.inputs[1]))
      return false;
    bool trans_b = view.integer("transB", 0) != 0;
    ValueId weight = node.inputs[1];
    std::vector<std::string> names;
    if (const IrNode* transpose = ir_.values[weight].producer;
        transpose != nullptr && flips(*transpose)) {
      trans_b = !trans_b;
      weight = transpose->inputs[0];
      names = {transpose->name};
    }
    FB_ASSIGN(std::optional<Packed> found, find(weight, node));
    if (!found || found->value != a.dtype || found->dims.size() < 2) return false;
    const Packed before = *found;
    if (found->dims.size() > 2 && !drop_batch(*found, a.dims.size())) return false;
    FB_TRY(to_matrix(*found, before, node));
    node.fused_from = found->names;
    node.fused_from.insert(node.fused_from.end(), names.begin(), names.end());
    node.fused_from.push_back(node.name);
    const plan::Attribute alpha{"alpha", view.real("alpha", 1.0f)},
        beta{"beta", view.real("beta", 1.0f)};
    const ValueId c = gemm && node.inputs.size() > 2 ? node.inputs[2] : kNone;
    node.domain = "forebay";
    node.op = "QuantLinear";
    node.version = 1;
    node.inputs = {node.inputs[0], found->codes, found->scale, found->zero, c};
    while (node.inputs.back() == kNone) node.inputs.pop_back();
    node.attributes = {{"transB", std::int64_t{trans_b}},
                       {"axis", found->axis},
                       {"block_size", found->block},
                       alpha,
                       beta};
    FB_TRY(context_.types.infer_added(node));
    return true;
  }

  bool flips(const IrNode& node) const {
    return node.domain.empty() && node.op == "Transpose" && type(node.inputs[0]).dims.size() == 2 &&
           permutation(node, 2) == Dims{1, 0};
  }

  // Rows of codes, of scales and of zero points, dequantised together: the scale of a row lies
  // beside it as one block.
  Result<bool> gather(IrNode& node) {
    if (!node.domain.empty() || node.inputs.size() != 2 || node.inputs[0] == kNone ||
        needs_.fixed(node.inputs[1]))
      return false;
    if (ir_.view(node).integer("axis", 0) != 0) return false;
    FB_ASSIGN(std::optional<Packed> found, find(node.inputs[0], node));
    if (!found || found->dims.size() != 2 || !type(node.inputs[1]).has_rank) return false;
    const bool one = single(*found);
    const bool rows = !one && (found->block == 0 ? found->axis == 0 : found->axis == 1);
    if (!one && !rows) return false;
    if (found->block == 0 && rows) {
      const Dims column{found->dims[0], 1};
      FB_ASSIGN(found->scale, reshape(found->scale, column, node));
      if (found->zero != kNone) {
        FB_ASSIGN(found->zero, reshape(found->zero, column, node));
      }
      found->block = found->dims[1];
    }
    const auto take = [&](ValueId id) {
      return add(node, "Gather", {id, node.inputs[1]}, {{"axis", std::int64_t{0}}});
    };
    std::vector<ValueId> inputs(found->zero != kNone ? 3 : 2);
    FB_ASSIGN(inputs[0], take(found->codes));
    if (one) {
      inputs[1] = found->scale;
      if (inputs.size() > 2) inputs[2] = found->zero;
    } else {
      FB_ASSIGN(inputs[1], take(found->scale));
      if (inputs.size() > 2) {
        FB_ASSIGN(inputs[2], take(found->zero));
      }
    }
    node.fused_from = found->names;
    node.fused_from.push_back(node.name);
    node.op = "DequantizeLinear";
    node.version = 25;
    node.inputs = inputs;
    node.attributes = {{"axis", std::int64_t{-1}},
                       {"block_size", one ? std::int64_t{0} : found->block},
                       {"output_dtype", onnx_number(found->value)}};
    FB_TRY(context_.types.infer_added(node));
    return true;
  }

  // The table's rows by Gather, which fetches those of a large one; what is left makes values of
  // them.
  Result<bool> block_gather(IrNode& node) {
    if (node.domain != "com.microsoft" || node.inputs.size() < 3 || needs_.fixed(node.inputs[1]))
      return false;
    for (const std::size_t i : {std::size_t{0}, std::size_t{2}})
      if (!needs_.fixed(node.inputs[i]) || !type(node.inputs[i]).known()) return false;
    if (type(node.inputs[0]).dims.size() != 2 || !type(node.inputs[1]).has_rank ||
        type(node.inputs[1]).dims.empty())
      return false;
    std::vector<ValueId> inputs;
    for (const std::size_t i : {std::size_t{0}, std::size_t{2}, std::size_t{3}}) {
      if (i >= node.inputs.size() || node.inputs[i] == kNone) continue;
      FB_ASSIGN(const ValueId rows,
                add(node, "Gather", {node.inputs[i], node.inputs[1]}, {{"axis", std::int64_t{0}}}));
      inputs.push_back(rows);
    }
    node.fused_from = {node.name};
    node.domain = "forebay";
    node.op = "DequantRows";
    node.inputs = inputs;
    FB_TRY(context_.types.infer_added(node));
    return true;
  }

  static std::int64_t onnx_number(DType dtype) {
    return dtype == DType::f32 ? 1 : dtype == DType::f16 ? 10 : 16;
  }

  PassContext& context_;
  Ir& ir_;
  ValueNeeds needs_;
  Insertions insertions_;
};

}  // namespace

Result<std::size_t> pass_quant(PassContext& context) {
  return QuantPass(context).run();
}

}  // namespace forebay::builder
