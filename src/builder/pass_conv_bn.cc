#include "base/check.h"
#include "builder/passes.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

// scale, bias, mean and variance per channel: y = (x - mean) * scale / sqrt(var + epsilon) + bias.
class ConvBatchNorm {
 public:
  explicit ConvBatchNorm(PassContext& context) : context_(context), ir_(context.ir) {}

  Result<std::size_t> run() {
    const ValueNeeds needs(ir_, context_.registry);
    const UseIndex uses(ir_);
    std::vector<std::pair<IrNode*, IrNode*>> pairs;
    for (IrNode* norm : execution_order(ir_)) {
      IrNode* conv = matching_conv(*norm, needs, uses);
      if (conv != nullptr) pairs.emplace_back(conv, norm);
    }
    for (const auto& [conv, norm] : pairs) FB_TRY(fold(*conv, *norm));
    insertions_.apply(ir_);
    ir_.sweep();
    return pairs.size();
  }

 private:
  bool fixed_f32(const ValueNeeds& needs, const IrNode& node, std::size_t i, std::size_t rank) const {
    if (i >= node.inputs.size() || node.inputs[i] == kNone || !needs.fixed(node.inputs[i])) return false;
    const TypeShape& type = ir_.values[node.inputs[i]].type;
    return type.dtype == DType::f32 && type.known() && (rank == 0 || type.dims.size() == rank);
  }

  IrNode* matching_conv(const IrNode& norm, const ValueNeeds& needs, const UseIndex& uses) const {
    if (!norm.domain.empty() || norm.op != "BatchNormalization" || norm.inputs.size() != 5 || norm.inputs[0] == kNone) return nullptr;
    const NodeView view = ir_.view(norm);
    if (view.integer("training_mode", 0) != 0 || view.integer("spatial", 1) != 1) return nullptr;
    if (norm.version < 7 && view.integer("is_test", 0) == 0) return nullptr;
    for (std::size_t i = 1; i < norm.outputs.size(); ++i)
      if (norm.outputs[i] != kNone && (!uses.uses(norm.outputs[i]).empty() || uses.is_graph_output(norm.outputs[i]))) return nullptr;
    for (std::size_t i = 1; i < 5; ++i)
      if (!fixed_f32(needs, norm, i, 1)) return nullptr;
    IrNode* conv = ir_.values[norm.inputs[0]].producer;
    if (conv == nullptr || conv->graph != norm.graph || !conv->domain.empty() || !uses.single_use(norm.inputs[0])) return nullptr;
    const bool transposed = conv->op == "ConvTranspose";
    if (conv->op != "Conv" && !transposed) return nullptr;
    if (transposed && ir_.view(*conv).integer("group", 1) != 1) return nullptr;
    const IrNode* weight = ir_.values[conv->inputs[1]].producer;
    if (weight != nullptr && weight->op == "DequantizeLinear") return nullptr;  // its codes stay packed
    if (!fixed_f32(needs, *conv, 1, 0) || ir_.values[conv->inputs[1]].type.dims.size() < 3) return nullptr;
    if (conv->inputs.size() > 2 && conv->inputs[2] != kNone && !fixed_f32(needs, *conv, 2, 1)) return nullptr;
    const std::int64_t channels = ir_.values[conv->inputs[1]].type.dims[transposed ? 1 : 0];
    for (std::size_t i = 1; i < 5; ++i)
      if (ir_.values[norm.inputs[i]].type.dims[0] != channels) return nullptr;
    return conv;
  }

  Result<ValueId> emit(IrNode& before, const std::string& name, const char* op, std::vector<ValueId> inputs) {
    const ValueId out = ir_.add_value(name, TypeShape());
    auto node = ir_.make_node(before.graph, name, op, kPassOpset, std::move(inputs), {out});
    FB_TRY(context_.types.infer_added(*node));
    insertions_.before(before, std::move(node));
    return out;
  }

  static std::shared_ptr<const HostTensor> scalar(float number) {
    HostTensor tensor(DType::f32, Shape{});
    tensor.as<float>()[0] = number;
    return std::make_shared<const HostTensor>(std::move(tensor));
  }

  static std::shared_ptr<const HostTensor> integers(const std::vector<std::int64_t>& numbers) {
    HostTensor tensor(DType::i64, Shape{static_cast<std::int64_t>(numbers.size())});
    std::copy(numbers.begin(), numbers.end(), tensor.as<std::int64_t>().begin());
    return std::make_shared<const HostTensor>(std::move(tensor));
  }

  Status fold(IrNode& conv, IrNode& norm) {
    const std::string name = ir_.values[conv.inputs[1]].name;
    const std::size_t rank = ir_.values[conv.inputs[1]].type.dims.size();
    std::vector<std::int64_t> per_channel(rank, 1);
    per_channel[conv.op == "ConvTranspose" ? 1 : 0] = -1;
    const ValueId epsilon = ir_.add_constant(name + "/bn_epsilon", scalar(ir_.view(norm).real("epsilon", 1e-5f)), {});
    const ValueId shape = ir_.add_constant(name + "/bn_shape", integers(per_channel), {});
    FB_ASSIGN(const ValueId shifted, emit(conv, name + "/bn_variance", "Add", {norm.inputs[4], epsilon}));
    FB_ASSIGN(const ValueId deviation, emit(conv, name + "/bn_deviation", "Sqrt", {shifted}));
    FB_ASSIGN(const ValueId factor, emit(conv, name + "/bn_factor", "Div", {norm.inputs[1], deviation}));
    FB_ASSIGN(const ValueId spread, emit(conv, name + "/bn_factors", "Reshape", {factor, shape}));
    FB_ASSIGN(const ValueId weight, emit(conv, name + "/bn", "Mul", {conv.inputs[1], spread}));
    const bool has_bias = conv.inputs.size() > 2 && conv.inputs[2] != kNone;
    ValueId centred = kNone;
    if (has_bias) {
      FB_ASSIGN(centred, emit(conv, name + "/bn_centred", "Sub", {conv.inputs[2], norm.inputs[3]}));
    } else {
      FB_ASSIGN(centred, emit(conv, name + "/bn_centred", "Neg", {norm.inputs[3]}));
    }
    FB_ASSIGN(const ValueId scaled, emit(conv, name + "/bn_scaled", "Mul", {centred, factor}));
    FB_ASSIGN(const ValueId bias, emit(conv, name + "/bn_bias", "Add", {scaled, norm.inputs[2]}));
    conv.inputs.resize(3, kNone);
    conv.inputs[1] = weight;
    conv.inputs[2] = bias;
    conv.outputs[0] = norm.outputs[0];
    conv.fused_from = {conv.name, norm.name};
    norm.removed = true;
    return {};
  }

  PassContext& context_;
  Ir& ir_;
  Insertions insertions_;
};

}  // namespace

Result<std::size_t> pass_conv_bn(PassContext& context) { return ConvBatchNorm(context).run(); }

}  // namespace forebay::builder
