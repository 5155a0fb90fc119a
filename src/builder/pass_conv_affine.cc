// Conv followed by sums and products with a scalar or one number per channel (biases that exporters write as Add, learned scales): all of
// them go into the weights, as ordinary nodes over them.
#include <optional>
#include <set>

#include "base/check.h"
#include "builder/passes.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

class ConvAffine {
 public:
  explicit ConvAffine(PassContext& context) : context_(context), ir_(context.ir), needs_(context.ir, context.registry), uses_(context.ir) {}

  Result<std::size_t> run() {
    std::size_t folded = 0;
    for (IrNode* node : execution_order(ir_)) {
      const std::optional<Match> match = find(*node);
      if (!match) continue;
      FB_TRY(fold(*match->conv, *node, match->number));
      ++folded;
    }
    insertions_.apply(ir_);
    ir_.sweep();
    return folded;
  }

 private:
  struct Match {
    IrNode* conv = nullptr;
    ValueId number = kNone;
  };

  bool fixed_f32(ValueId id) const {
    if (id == kNone) return false;
    const TypeShape& type = ir_.values[id].type;
    return (made_.contains(id) || needs_.fixed(id)) && type.dtype == DType::f32 && type.known();
  }

  std::optional<Match> find(const IrNode& node) const {
    const bool either_side = node.op == "Add" || node.op == "Mul";
    if (!node.domain.empty() || node.version < 7 || node.inputs.size() != 2) return std::nullopt;
    if (!either_side && node.op != "Sub" && node.op != "Div") return std::nullopt;
    for (std::size_t side = 0; side < (either_side ? 2u : 1u); ++side) {
      if (node.inputs[0] == kNone || node.inputs[1] == kNone) return std::nullopt;
      IrNode* conv = producer_conv(node, node.inputs[side]);
      if (conv != nullptr && fits(*conv, node.inputs[1 - side])) return Match{conv, node.inputs[1 - side]};
    }
    return std::nullopt;
  }

  IrNode* producer_conv(const IrNode& node, ValueId id) const {
    const auto moved = moved_.find(id);
    IrNode* conv = moved != moved_.end() ? moved->second : ir_.values[id].producer;
    if (conv == nullptr || conv->graph != node.graph || !conv->domain.empty() || !uses_.single_use(id)) return nullptr;
    if (conv->op != "Conv" && (conv->op != "ConvTranspose" || ir_.view(*conv).integer("group", 1) != 1)) return nullptr;
    if (conv->inputs.size() < 2 || !fixed_f32(conv->inputs[1]) || ir_.values[conv->inputs[1]].type.dims.size() < 3) return nullptr;
    const IrNode* weight = ir_.values[conv->inputs[1]].producer;
    if (weight != nullptr && weight->op == "DequantizeLinear") return nullptr;  // its codes stay packed
    const bool has_bias = conv->inputs.size() > 2 && conv->inputs[2] != kNone;
    return !has_bias || fixed_f32(conv->inputs[2]) ? conv : nullptr;
  }

  static std::size_t channel_axis(const IrNode& conv) { return conv.op == "ConvTranspose" ? 1 : 0; }

  // One number, or one per output channel, that does not widen the result.
  bool fits(const IrNode& conv, ValueId number) const {
    if (!fixed_f32(number)) return false;
    const TypeShape& weight = ir_.values[conv.inputs[1]].type;
    const TypeShape& type = ir_.values[number].type;
    const std::size_t rank = weight.dims.size();
    if (type.dims.size() > rank) return false;
    for (std::size_t i = 0; i < type.dims.size(); ++i) {
      const bool channel = i + rank - type.dims.size() == 1;
      if (type.dims[i] != 1 && (!channel || type.dims[i] != weight.dims[channel_axis(conv)])) return false;
    }
    return true;
  }

  Result<ValueId> emit(IrNode& before, const std::string& name, const std::string& op, std::vector<ValueId> inputs) {
    const ValueId out = ir_.add_value(name, TypeShape());
    auto node = ir_.make_node(before.graph, name, op, kPassOpset, std::move(inputs), {out});
    FB_TRY(context_.types.infer_added(*node));
    insertions_.before(before, std::move(node));
    made_.insert(out);
    return out;
  }

  Result<ValueId> reshaped(IrNode& before, ValueId from, const std::string& name, const std::vector<std::int64_t>& dims) {
    if (ir_.values[from].type.dims == dims) return from;
    HostTensor shape(DType::i64, Shape{static_cast<std::int64_t>(dims.size())});
    std::copy(dims.begin(), dims.end(), shape.as<std::int64_t>().begin());
    const ValueId to = ir_.add_constant(name + "_shape", std::make_shared<const HostTensor>(std::move(shape)), {});
    return emit(before, name, "Reshape", {from, to});
  }

  Status fold(IrNode& conv, IrNode& node, ValueId number) {
    const std::string name = ir_.values[conv.inputs[1]].name;
    const TypeShape weight = ir_.values[conv.inputs[1]].type;
    const std::int64_t channels = weight.dims[channel_axis(conv)];
    const std::int64_t count = ir_.values[number].type.shape().elements();
    const bool product = node.op == "Mul" || node.op == "Div";
    conv.inputs.resize(3, kNone);
    FB_ASSIGN(const ValueId flat, reshaped(conv, number, ir_.values[number].name + "/flat", {count}));
    if (product) {
      std::vector<std::int64_t> dims(weight.dims.size(), 1);
      dims[channel_axis(conv)] = count;
      FB_ASSIGN(const ValueId spread, reshaped(conv, number, ir_.values[number].name + "/spread", dims));
      FB_ASSIGN(conv.inputs[1], emit(conv, name + "/" + node.op, node.op, {conv.inputs[1], spread}));
    }
    if (conv.inputs[2] != kNone) {
      FB_ASSIGN(conv.inputs[2], emit(conv, name + "/bias_" + node.op, node.op, {conv.inputs[2], flat}));
    } else if (!product) {
      FB_ASSIGN(conv.inputs[2], first_bias(conv, name, node.op, flat, channels));
    }
    if (conv.inputs.back() == kNone) conv.inputs.pop_back();
    if (conv.fused_from.empty()) conv.fused_from = {conv.name};
    conv.fused_from.push_back(node.name);
    conv.outputs[0] = node.outputs[0];
    moved_[node.outputs[0]] = &conv;
    node.removed = true;
    return {};
  }

  // The number itself, negated for Sub and repeated for every channel where it is one.
  Result<ValueId> first_bias(IrNode& conv, const std::string& name, const std::string& op, ValueId flat, std::int64_t channels) {
    if (op == "Sub") {
      FB_ASSIGN(flat, emit(conv, name + "/bias_Neg", "Neg", {flat}));
    }
    if (ir_.values[flat].type.dims[0] == channels) return flat;
    HostTensor shape(DType::i64, Shape{1});
    shape.as<std::int64_t>()[0] = channels;
    const ValueId to = ir_.add_constant(name + "/bias_size", std::make_shared<const HostTensor>(std::move(shape)), {});
    return emit(conv, name + "/bias", "Expand", {flat, to});
  }

  PassContext& context_;
  Ir& ir_;
  ValueNeeds needs_;
  UseIndex uses_;
  Insertions insertions_;
  std::set<ValueId> made_;
  std::map<ValueId, IrNode*> moved_;  // values that a Conv makes now, before producers are set anew
};

}  // namespace

Result<std::size_t> pass_conv_affine(PassContext& context) { return ConvAffine(context).run(); }

}  // namespace forebay::builder
