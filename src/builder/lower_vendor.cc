#include "builder/lower_vendor.h"

#include <algorithm>
#include <iterator>
#include <optional>

namespace forebay::builder {
namespace {

using Attributes = std::vector<plan::Attribute>;

// Opsets of the operators written here: the newest form whose arguments are attributes where they can be.
constexpr std::int32_t kBasic = 13, kShape = 15, kSplit = 18, kGelu = 20, kSwish = 24;

// Writes the nodes that take the place of one.
class Writer {
 public:
  Writer(Ir& ir, IrNode& node) : ir_(ir), node_(node), view_(ir.view(node)), label_(node.name) {
    if (label_.empty() && !node.outputs.empty() && node.outputs[0] != kNone) label_ = ir.values[node.outputs[0]].name;
  }

  const NodeView& view() const { return view_; }
  bool has(std::size_t i) const { return i < node_.inputs.size() && node_.inputs[i] != kNone; }
  ValueId in(std::size_t i) const { return has(i) ? node_.inputs[i] : kNone; }
  bool wanted(std::size_t i) const { return i < node_.outputs.size() && node_.outputs[i] != kNone; }
  // A value for output i of the lowered node, or for nobody.
  ValueId out(std::size_t i) const { return wanted(i) ? node_.outputs[i] : kNone; }
  ValueId fresh(std::string_view what) {
    return ir_.add_value(label_ + "/" + std::string(what) + "#" + std::to_string(made.size()), TypeShape());
  }

  void node(std::string op, std::int32_t version, std::vector<ValueId> inputs, std::vector<ValueId> outputs, Attributes attributes = {},
            std::string domain = {}) {
    while (!inputs.empty() && inputs.back() == kNone) inputs.pop_back();
    while (!outputs.empty() && outputs.back() == kNone) outputs.pop_back();
    auto added = ir_.make_node(node_.graph, label_ + "/" + op, std::move(op), version, std::move(inputs), std::move(outputs));
    added->domain = std::move(domain);
    added->attributes = std::move(attributes);
    added->function_stack = node_.function_stack;
    made.push_back(std::move(added));
  }
  // With one output, which goes to `to` or is new.
  ValueId value(std::string op, std::int32_t version, std::vector<ValueId> inputs, Attributes attributes = {}, ValueId to = kNone) {
    if (to == kNone) to = fresh(op);
    node(std::move(op), version, std::move(inputs), {to}, std::move(attributes));
    return to;
  }
  ValueId integers(std::vector<std::int64_t> values, bool scalar = false) {
    auto tensor = std::make_shared<HostTensor>(DType::i64, scalar ? Shape() : Shape{static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), tensor->as<std::int64_t>().begin());
    return ir_.add_constant(label_ + "/constant#" + std::to_string(constants_++) + "/" + std::to_string(made.size()), std::move(tensor),
                            {});
  }
  plan::Attribute tensor(std::string name, HostTensor contents) {
    return {std::move(name), plan::TensorRef{ir_.add_attribute_tensor(std::move(contents))}};
  }
  // The attributes of these names, as the node has them.
  Attributes keep(std::initializer_list<std::string_view> names) const {
    Attributes kept;
    for (const plan::Attribute& attribute : node_.attributes)
      if (std::find(names.begin(), names.end(), attribute.name) != names.end()) kept.push_back(attribute);
    return kept;
  }

  std::vector<std::unique_ptr<IrNode>> made;

 private:
  Ir& ir_;
  IrNode& node_;
  NodeView view_;
  std::string label_;
  int constants_ = 0;
};

using Lower = Status (*)(Writer&);

Attributes approximate(const char* kind) {
  return {{"approximate", std::string(kind)}};
}

Status need(const Writer& w, std::size_t inputs) {
  for (std::size_t i = 0; i < inputs; ++i)
    if (!w.has(i)) return w.view().invalid("input " + std::to_string(i) + " is missing");
  return {};
}

Status lower_gelu(Writer& w) {
  if (Status status = need(w, 1); !status.ok()) return status;
  w.value("Gelu", kGelu, {w.in(0)}, {}, w.out(0));
  return {};
}

Status lower_bias_gelu(Writer& w) {
  if (Status status = need(w, 2); !status.ok()) return status;
  w.value("Gelu", kGelu, {w.value("Add", kBasic, {w.in(0), w.in(1)})}, {}, w.out(0));
  return {};
}

Status lower_fast_gelu(Writer& w) {
  if (Status status = need(w, 1); !status.ok()) return status;
  const ValueId x = w.has(1) ? w.value("Add", kBasic, {w.in(0), w.in(1)}) : w.in(0);
  w.value("Gelu", kGelu, {x}, approximate("tanh"), w.out(0));
  return {};
}

Status lower_quick_gelu(Writer& w) {
  if (Status status = need(w, 1); !status.ok()) return status;
  w.value("Swish", kSwish, {w.in(0)}, {{"alpha", w.view().real("alpha", 1.702f)}}, w.out(0));
  return {};
}

Status lower_bias_split_gelu(Writer& w) {
  if (Status status = need(w, 2); !status.ok()) return status;
  const ValueId left = w.fresh("left"), right = w.fresh("right");
  w.node("Split", kSplit, {w.value("Add", kBasic, {w.in(0), w.in(1)})}, {left, right},
         {{"axis", std::int64_t{-1}}, {"num_outputs", std::int64_t{2}}});
  w.value("Mul", kBasic, {left, w.value("Gelu", kGelu, {right})}, {}, w.out(0));
  return {};
}

Status lower_fused_conv(Writer& w) {
  if (Status status = need(w, 2); !status.ok()) return status;
  const std::string activation(w.view().text("activation", ""));
  const auto given = w.view().reals("activation_params");
  const std::vector<float> params(given.begin(), given.end());
  const auto param = [&](std::size_t i, float otherwise) { return i < params.size() ? params[i] : otherwise; };
  Attributes attributes;
  std::int32_t version = kBasic;
  if (activation == "LeakyRelu") {
    attributes = {{"alpha", param(0, 0.01f)}};
  } else if (activation == "HardSigmoid") {
    attributes = {{"alpha", param(0, 0.2f)}, {"beta", param(1, 0.5f)}};
  } else if (activation == "Clip") {
    if (params.size() != 2) return w.view().invalid("activation_params of Clip are two numbers");
    attributes = {{"min", params[0]}, {"max", params[1]}};
    version = 6;  // bounds as attributes
  } else if (!activation.empty() && activation != "Relu" && activation != "Tanh" && activation != "Sigmoid") {
    return w.view().unsupported("activation '" + activation + "'");
  }
  const bool plain = activation.empty(), added = w.has(3);
  ValueId y = w.value("Conv", 11, {w.in(0), w.in(1), w.in(2)},
                      w.keep({"group", "pads", "strides", "dilations", "kernel_shape", "auto_pad"}), plain && !added ? w.out(0) : kNone);
  if (added) y = w.value("Add", kBasic, {y, w.in(3)}, {}, plain ? w.out(0) : kNone);
  if (!plain) w.value(activation, version, {y}, std::move(attributes), w.out(0));
  return {};
}

// Inputs: ids, segment ids, word, position and segment tables, gamma, beta, mask, position ids.
Status lower_embed(Writer& w) {
  for (const std::size_t i : {0, 2, 3, 5, 6})
    if (!w.has(i)) return w.view().invalid("input " + std::to_string(i) + " is missing");
  if (w.has(1) != w.has(4)) return w.view().invalid("segment_ids and segment_embedding come together");
  ValueId places = kNone;
  if (w.has(8)) {
    places = w.value("Gather", kBasic, {w.in(3), w.in(8)});
  } else {
    const ValueId length = w.value("Shape", kShape, {w.in(0)}, {{"start", std::int64_t{1}}, {"end", std::int64_t{2}}});
    places = w.value("Slice", kBasic, {w.in(3), w.integers({0}), length, w.integers({0})});
  }
  ValueId sum = w.value("Add", kBasic, {w.value("Gather", kBasic, {w.in(2), w.in(0)}), places}, {}, w.has(1) ? kNone : w.out(2));
  if (w.has(1)) sum = w.value("Add", kBasic, {sum, w.value("Gather", kBasic, {w.in(4), w.in(1)})}, {}, w.out(2));
  w.value("LayerNormalization", 17, {sum, w.in(5), w.in(6)}, {{"axis", std::int64_t{-1}}, {"epsilon", w.view().real("epsilon", 1e-12f)}},
          w.out(0));
  if (!w.wanted(1)) return {};
  if (w.has(7)) {
    const ValueId mask = w.value("Cast", kBasic, {w.in(7)}, {{"to", std::int64_t{6}}});
    w.value("ReduceSum", kBasic, {mask, w.integers({1})}, {{"keepdims", std::int64_t{0}}}, w.out(1));
  } else {
    HostTensor zero(DType::i32, Shape{1});
    zero.as<std::int32_t>()[0] = 0;
    const ValueId batch = w.value("Shape", kShape, {w.in(0)}, {{"start", std::int64_t{0}}, {"end", std::int64_t{1}}});
    w.value("ConstantOfShape", 9, {batch}, {w.tensor("value", std::move(zero))}, w.out(1));
  }
  return {};
}

// Inputs: x, weights, bias, mask_index, past, attention_bias, past_sequence_length.
Status lower_attention(Writer& w) {
  if (Status status = need(w, 2); !status.ok()) return status;
  const NodeView& view = w.view();
  if (view.integer("do_rotary", 0) != 0) return view.unsupported("do_rotary");
  if (view.integer("past_present_share_buffer", 0) != 0 || w.has(6)) return view.unsupported("past_present_share_buffer");
  const ValueId q = w.fresh("query"), k = w.fresh("key"), v = w.fresh("value");
  const ValueId product = w.value("MatMul", kBasic, {w.in(0), w.in(1)});
  const auto sizes = view.integers("qkv_hidden_sizes");
  if (!sizes.empty() && sizes.size() != 3) return view.invalid("qkv_hidden_sizes are three numbers");
  if (sizes.empty()) {
    w.node("Split", kSplit, {product}, {q, k, v}, {{"axis", std::int64_t{-1}}, {"num_outputs", std::int64_t{3}}});
  } else {
    w.node("Split", kBasic, {product, w.integers({sizes.begin(), sizes.end()})}, {q, k, v}, {{"axis", std::int64_t{-1}}});
  }
  ValueId past_key = kNone, past_value = kNone, key = kNone, value = kNone;
  if (w.has(4)) {
    past_key = w.value("Gather", kBasic, {w.in(4), w.integers({0}, true)});
    past_value = w.value("Gather", kBasic, {w.in(4), w.integers({1}, true)});
  }
  if (w.wanted(1)) {
    key = w.fresh("present_key");
    value = w.fresh("present_value");
  }
  const ValueId y = w.wanted(0) ? w.out(0) : w.fresh("output");
  w.node("MultiHeadAttention", 1, {q, k, v, w.in(2), w.in(3), w.in(5), past_key, past_value}, {y, key, value},
         w.keep({"num_heads", "unidirectional", "scale", "mask_filter_value"}), "com.microsoft");
  if (w.wanted(1)) {
    const ValueId axes = w.integers({0});
    w.value("Concat", kBasic, {w.value("Unsqueeze", kBasic, {key, axes}), w.value("Unsqueeze", kBasic, {value, axes})},
            {{"axis", std::int64_t{0}}}, w.out(1));
  }
  return {};
}

// A matrix for each expert: weights, and codes' scales and zero points, and a bias.
struct ExpertInputs {
  ValueId weights = kNone, scale = kNone, zero = kNone, bias = kNone;
  std::int64_t bits = 0;  // 0: floats
};

// MoE: x, scores, then weights and bias of each product: fc1, fc2, fc3.
// QMoE: x, scores, then codes, scales and bias of each; zero points of each; the weights of the experts where scores only choose.
ExpertInputs expert_inputs(const Writer& w, std::size_t fc, bool packed) {
  if (!packed) return {w.in(2 + 2 * fc), kNone, kNone, w.in(3 + 2 * fc), 0};
  const std::string name = "fc" + std::to_string(fc + 1) + "_expert_weight_bits";
  return {w.in(2 + 3 * fc), w.in(3 + 3 * fc), w.in(11 + fc), w.in(4 + 3 * fc),
          w.view().integer(name, w.view().integer("expert_weight_bits", 4))};
}

Status check_experts(const Writer& w, bool packed) {
  const NodeView& view = w.view();
  for (std::size_t fc = 0; fc < 2; ++fc) {
    const ExpertInputs one = expert_inputs(w, fc, packed);
    if (one.weights == kNone || (packed && one.scale == kNone))
      return view.invalid("the weights or scales of fc" + std::to_string(fc + 1) + " are missing");
  }
  if (view.integer("use_sparse_mixer", 0) != 0) return view.unsupported("use_sparse_mixer");
  if (!packed) return {};
  if (const std::string kind(view.text("quant_type", "int")); kind != "int")
    return view.unsupported("quant_type '" + kind + "'; int is served");
  if (view.integer("weights_prepacked", -1) == 1) return view.unsupported("weights_prepacked 1: weights as one device wants them");
  return {};
}

Status lower_experts(Writer& w, bool packed) {
  if (Status status = need(w, 2); !status.ok()) return status;
  if (Status status = check_experts(w, packed); !status.ok()) return status;
  const NodeView& view = w.view();
  const std::string activation(view.text("activation_type", "relu"));
  const bool gated = activation == "swiglu", third = expert_inputs(w, 2, packed).weights != kNone;
  const std::int64_t fusion = view.integer("swiglu_fusion", 0), block = std::max<std::int64_t>(0, view.integer("block_size", 0));
  if (gated && (fusion < 0 || fusion > 2 || (fusion == 0) != third))
    return view.invalid("swiglu_fusion " + std::to_string(fusion) + " and fc3 do not fit each other");
  const ValueId indices = w.fresh("experts"), weights = w.fresh("weights");
  w.node("ExpertRoute", 1, {w.in(1), packed ? w.in(14) : kNone}, {indices, weights},
         {{"k", view.integer("k", 1)}, {"normalize", view.integer("normalize_routing_weights", 0)}}, "forebay");
  const auto product = [&](ValueId x, std::size_t fc) {
    const ValueId y = w.fresh("product");
    const ExpertInputs one = expert_inputs(w, fc, packed);
    if (packed) {
      w.node("ExpertQuantLinear", 1, {x, one.weights, one.scale, one.zero, indices, one.bias}, {y},
             {{"bits", one.bits}, {"block_size", block}}, "forebay");
    } else {
      w.node("ExpertLinear", 1, {x, one.weights, indices, one.bias}, {y}, {}, "forebay");
    }
    return y;
  };
  ValueId y = product(w.in(0), 0);
  if (gated) {
    Attributes attributes{{"form", fusion}, {"alpha", view.real("activation_alpha", 1.0f)}, {"beta", view.real("activation_beta", 0.0f)}};
    if (view.has("swiglu_limit")) attributes.push_back({"limit", view.real("swiglu_limit", 0.0f)});
    const ValueId gate = y;
    y = w.fresh("gated");
    w.node("SwiGlu", 1, {gate, fusion == 0 ? product(w.in(0), 2) : kNone}, {y}, std::move(attributes), "forebay");
  } else if (activation == "relu" || activation == "gelu") {
    y = activation == "relu" ? w.value("Relu", kBasic, {y}) : w.value("Gelu", kGelu, {y}, approximate("tanh"));
  } else if (activation == "silu") {
    y = w.value("Swish", kSwish, {y});
  } else if (activation != "identity") {
    return view.unsupported("activation_type '" + activation + "'");
  }
  if (!gated && third) y = w.value("Mul", kBasic, {y, product(w.in(0), 2)});
  w.node("ExpertCombine", 1, {product(y, 1), weights, w.in(0)}, {w.out(0)}, {}, "forebay");
  return {};
}

Status lower_moe(Writer& w) {
  return lower_experts(w, false);
}
Status lower_qmoe(Writer& w) {
  return lower_experts(w, true);
}

struct Row {
  LoweredOp op;
  Lower lower;
};

constexpr Row kRows[] = {
    {{"Attention", "MatMul, Split, com.microsoft.MultiHeadAttention; not do_rotary, past_present_share_buffer"}, lower_attention},
    {{"BiasGelu", "Add, Gelu"}, lower_bias_gelu},
    {{"BiasSplitGelu", "Add, Split, Gelu, Mul"}, lower_bias_split_gelu},
    {{"EmbedLayerNormalization", "Gather, Add, LayerNormalization"}, lower_embed},
    {{"FastGelu", "Add where there is a bias, Gelu (tanh)"}, lower_fast_gelu},
    {{"FusedConv", "Conv, Add where there is a sum, activation"}, lower_fused_conv},
    {{"Gelu", "Gelu"}, lower_gelu},
    {{"MoE", "forebay.ExpertRoute, ExpertLinear, activation, ExpertCombine; not use_sparse_mixer"}, lower_moe},
    {{"QMoE", "as MoE with forebay.ExpertQuantLinear; quant_type int, no use_sparse_mixer, weights_prepacked"}, lower_qmoe},
    {{"QuickGelu", "Swish"}, lower_quick_gelu},
};

Lower find(const IrNode& node) {
  if (node.domain != "com.microsoft" || node.version < 0 || node.refused) return nullptr;
  const auto at = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& row) { return row.op.name == node.op; });
  return at == std::end(kRows) ? nullptr : at->lower;
}

}  // namespace

void lower_vendor(Ir& ir, TypeInference& types) {
  for (IrGraph& graph : ir.graphs) {
    std::vector<std::unique_ptr<IrNode>> nodes;
    for (std::unique_ptr<IrNode>& node : graph.nodes) {
      if (const Lower lower = find(*node); lower != nullptr) {
        Writer writer(ir, *node);
        const Status status = lower(writer);
        if (status.ok()) {
          for (std::unique_ptr<IrNode>& made : writer.made) nodes.push_back(std::move(made));
          continue;
        }
        std::vector<Problem>& told = status.code() == Code::unsupported ? types.unsupported : types.invalid;
        told.insert(told.end(), status.problems().begin(), status.problems().end());
        node->refused = true;
      }
      nodes.push_back(std::move(node));
    }
    graph.nodes = std::move(nodes);
  }
  ir.set_producers();
}

std::span<const LoweredOp> lowered_ops() {
  static const std::vector<LoweredOp> all = [] {
    std::vector<LoweredOp> names;
    for (const Row& row : kRows) names.push_back(row.op);
    return names;
  }();
  return all;
}

}  // namespace forebay::builder
