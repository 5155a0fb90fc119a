// Convolutions and products between DequantizeLinear and QuantizeLinear run in integers:
// QLinearConv and QLinearMatMul.
#include <algorithm>
#include <optional>

#include "base/check.h"
#include "builder/passes.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

bool is_op(const IrNode* node, std::string_view op) {
  return node != nullptr && !node->removed && node->domain.empty() && node->op == op;
}
bool is_byte(DType dtype) {
  return dtype == DType::i8 || dtype == DType::u8;
}

class QdqPass {
 public:
  explicit QdqPass(PassContext& context)
      : context_(context),
        ir_(context.ir),
        needs_(context.ir, context.registry),
        uses_(context.ir) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (!is_op(node, "QuantizeLinear")) continue;
      FB_ASSIGN(const bool done, fuse(*node));
      made += done ? 1 : 0;
    }
    if (made > 0) FB_TRY(pass_dead_code(context_).status());
    return made;
  }

 private:
  // Codes, scale and zero point of one operand.
  struct Operand {
    ValueId codes = kNone, scale = kNone, zero = kNone;
  };

  const TypeShape& type(ValueId id) const { return ir_.values[id].type; }
  IrNode* producer(ValueId id) const { return id != kNone ? ir_.values[id].producer : nullptr; }
  bool fixed_list(ValueId id) const {
    return id != kNone && needs_.fixed(id) && type(id).known() && type(id).dims.size() <= 1;
  }
  bool number(ValueId id) const { return fixed_list(id) && type(id).shape().elements() == 1; }

  // `channel`: the axis that may have a scale for each index; -1: one scale only.
  std::optional<Operand> operand(ValueId id, std::int64_t channel) {
    const IrNode* node = producer(id);
    if (!is_op(node, "DequantizeLinear") || node->inputs.size() < 2 ||
        !is_byte(type(node->inputs[0]).dtype))
      return std::nullopt;
    const NodeView view = ir_.view(*node);
    if (view.integer("block_size", 0) != 0 || !fixed_list(node->inputs[1]) ||
        type(node->inputs[1]).dtype != DType::f32)
      return std::nullopt;
    if (type(node->outputs[0]).dtype != DType::f32) return std::nullopt;
    Operand made{node->inputs[0], node->inputs[1],
                 node->inputs.size() > 2 ? node->inputs[2] : kNone};
    if (made.zero != kNone && !fixed_list(made.zero)) return std::nullopt;
    if (!number(made.scale)) {
      const auto rank = static_cast<std::int64_t>(type(made.codes).dims.size());
      const std::int64_t axis = view.integer("axis", 1);
      if (channel < 0 || (axis < 0 ? axis + rank : axis) != channel) return std::nullopt;
    }
    if (made.zero == kNone) made.zero = zeros(type(made.codes).dtype, type(made.scale).dims);
    return made;
  }

  ValueId zeros(DType dtype, const std::vector<std::int64_t>& dims) {
    HostTensor tensor(dtype, Shape(std::span<const std::int64_t>(dims)));
    std::fill(tensor.data(), tensor.data() + tensor.bytes(), std::byte{0});
    return ir_.add_constant("zero_point", std::make_shared<const HostTensor>(std::move(tensor)),
                            {});
  }

  // The lowest code is the zero point: quantising clips what Relu would.
  bool clips_below_zero(const IrNode& quantize) {
    const DType dtype = type(quantize.outputs[0]).dtype;
    if (quantize.inputs.size() < 3 || quantize.inputs[2] == kNone) return dtype == DType::u8;
    const HostTensor* zero = context_.host.get(quantize.inputs[2]);
    if (zero == nullptr || zero->bytes() != 1 ||
        zero->data()[0] != (dtype == DType::i8 ? std::byte{0x80} : std::byte{0}))
      return false;
    const std::vector<std::uint32_t>& from = ir_.values[quantize.inputs[2]].known_sources;
    ir_.decided_by.insert(ir_.decided_by.end(), from.begin(), from.end());
    return true;
  }

  Result<bool> fuse(IrNode& quantize) {
    if (quantize.inputs.size() < 2 || !is_byte(type(quantize.outputs[0]).dtype) ||
        !number(quantize.inputs[1]))
      return false;
    if (type(quantize.inputs[1]).dtype != DType::f32 ||
        (quantize.inputs.size() > 2 && quantize.inputs[2] != kNone && !number(quantize.inputs[2])))
      return false;
    std::vector<std::string> names{quantize.name};
    IrNode* node = producer(quantize.inputs[0]);
    if (is_op(node, "Relu") && uses_.single_use(quantize.inputs[0]) && clips_below_zero(quantize)) {
      names.insert(names.begin(), node->name);
      if (!uses_.single_use(node->inputs[0])) return false;
      node = producer(node->inputs[0]);
    } else if (!uses_.single_use(quantize.inputs[0])) {
      return false;
    }
    const bool conv = is_op(node, "Conv"), matmul = is_op(node, "MatMul");
    if ((!conv && !matmul) || node->graph != quantize.graph || node->inputs.size() < 2)
      return false;
    const std::int64_t weight_rank = static_cast<std::int64_t>(type(node->inputs[1]).dims.size());
    const auto x = operand(node->inputs[0], -1),
               w = operand(node->inputs[1], conv               ? 0
                                            : weight_rank == 2 ? 1
                                                               : -1);
    if (!x || !w || !type(x->codes).has_rank || (conv && !type(w->codes).known())) return false;
    ValueId bias = kNone;
    if (conv && node->inputs.size() > 2 && node->inputs[2] != kNone) {
      bias = node->inputs[2];
      if (!needs_.fixed(bias) || type(bias).dtype != DType::f32) return false;
    }
    names.insert(names.begin(), node->name);
    const ValueId y_zero = quantize.inputs.size() > 2 && quantize.inputs[2] != kNone
                               ? quantize.inputs[2]
                               : zeros(DType::u8, {});
    // The node takes the place of QuantizeLinear, where all it reads is there.
    quantize.fused_from = std::move(names);
    quantize.op = conv ? "QLinearConv" : "QLinearMatMul";
    quantize.domain = conv ? "forebay" : "";  // ours adds the bias as the float that it is
    quantize.version = conv ? 1 : 10;
    quantize.inputs = {x->codes, x->scale,           x->zero, w->codes, w->scale,
                       w->zero,  quantize.inputs[1], y_zero};
    if (bias != kNone) quantize.inputs.push_back(bias);
    quantize.attributes = conv ? node->attributes : std::vector<plan::Attribute>();
    FB_TRY(context_.types.infer_added(quantize));
    return true;
  }

  PassContext& context_;
  Ir& ir_;
  ValueNeeds needs_;
  UseIndex uses_;
};

}  // namespace

Result<std::size_t> pass_qdq(PassContext& context) {
  return QdqPass(context).run();
}

}  // namespace forebay::builder
