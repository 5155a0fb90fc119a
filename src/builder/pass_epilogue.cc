// What follows a product or a convolution with weights goes into it: MatMul + bias and Gemm become
// forebay.Linear, a sum with an image behind Conv becomes its fourth input, and an activation behind
// Linear or Conv becomes its `activation`. The weight keeps its form, so slabs and refits stay as
// they were.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "builder/pattern.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

class EpiloguePass {
 public:
  explicit EpiloguePass(PassContext& context)
      : context_(context),
        ir_(context.ir),
        needs_(context.ir, context.registry),
        pattern_(context) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed) continue;
      const bool convolves =
          node->domain.empty() && node->op == "Conv" && has("Conv") && narrow(node->inputs[0]);
      if (!convolves && !(has("Linear") && product(*node))) continue;
      FB_ASSIGN(const bool fused, fuse(*node, convolves));
      made += fused ? 1 : 0;
    }
    ir_.sweep();
    return made;
  }

 private:
  bool has(std::string_view op) const {
    return context_.registry.find("forebay", op, 1) != nullptr;
  }

  bool narrow(ValueId id) const {
    const DType dtype = id == kNone ? DType::none : ir_.values[id].type.dtype;
    return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
  }

  // x times a matrix of the file, or made from such; quantised ones are left to what keeps them
  // packed.
  bool product(const IrNode& node) const {
    const bool linear = node.domain == "forebay" && node.op == "Linear";
    if (!linear && (!node.domain.empty() || (node.op != "MatMul" && node.op != "Gemm")))
      return false;
    if (node.inputs.size() < 2 || node.inputs[0] == kNone || node.inputs[1] == kNone) return false;
    const TypeShape& w = ir_.values[node.inputs[1]].type;
    if (!narrow(node.inputs[0]) || !needs_.fixed(node.inputs[1]) || !w.known() ||
        w.dims.size() != 2 || dequantised(node.inputs[1]))
      return false;
    if (!ir_.values[node.inputs[0]].type.has_rank || needs_.fixed(node.inputs[0])) return false;
    if (node.op != "Gemm") return true;
    const NodeView view = ir_.view(node);
    const bool plain = view.integer("transA", 0) == 0 && view.real("alpha", 1) == 1.0f &&
                       view.real("beta", 1) == 1.0f && node.version >= 7;
    return plain && (node.inputs.size() < 3 || node.inputs[2] == kNone ||
                     is_bias(node.inputs[2], columns(node)));
  }

  bool dequantised(ValueId id) const {
    const IrNode* node = ir_.values[id].producer;
    while (node != nullptr && (node->op == "Transpose" || node->op == "Reshape"))
      node = ir_.values[node->inputs[0]].producer;
    return node != nullptr && node->op == "DequantizeLinear";
  }

  bool transposed(const IrNode& node) const {
    if (node.op == "MatMul") return false;
    return ir_.view(node).integer("transB", node.op == "Linear" ? 1 : 0) != 0;
  }

  std::int64_t columns(const IrNode& node) const {
    return ir_.values[node.inputs[1]].type.dims[transposed(node) ? 0 : 1];
  }

  bool is_bias(ValueId id, std::int64_t count) const {
    if (id == kNone) return false;
    const TypeShape& type = ir_.values[id].type;
    return type.known() && type.dims.size() == 1 && type.dims[0] == count;
  }

  // Nothing is broadcast: channels and more are known and agree, and both or neither batch is known.
  bool same_image(ValueId a, ValueId b) const {
    const TypeShape &x = ir_.values[a].type, &y = ir_.values[b].type;
    if (!x.has_rank || !y.has_rank || x.dtype != y.dtype || x.dims != y.dims || needs_.fixed(a)) return false;
    return std::find(x.dims.begin() + 1, x.dims.end(), -1) == x.dims.end();
  }

  // `node` and what follows it become the last one of them, so that a bias is made by then.
  Result<bool> fuse(IrNode& node, bool convolves) {
    pattern_.begin(node);
    IrNode* root = &node;
    std::vector<ValueId> inputs = node.inputs;
    std::vector<plan::Attribute> attributes = node.attributes;
    if (!convolves) {
      const bool turned = transposed(node);
      attributes.clear();
      if (!turned) attributes.push_back({"transB", std::int64_t{0}});
      IrNode* add = inputs.size() < 3 ? pattern_.sole_reader(root->outputs[0]) : nullptr;
      if (add != nullptr && add->op == "Add" && add->version >= 7) {
        const ValueId bias = add->inputs[add->inputs[0] == root->outputs[0] ? 1 : 0];
        if (is_bias(bias, columns(node)) && bias != root->outputs[0]) {
          pattern_.add(*root);
          inputs.push_back(bias);
          root = add;
        }
      }
    }
    IrNode* sum = convolves ? pattern_.sole_reader(root->outputs[0]) : nullptr;
    if (sum != nullptr && sum->op == "Add" && sum->domain.empty() && sum->version >= 7) {
      const ValueId other = sum->inputs[sum->inputs[0] == root->outputs[0] ? 1 : 0];
      if (other != root->outputs[0] && same_image(other, root->outputs[0])) {
        pattern_.add(*root);
        inputs.resize(3, kNone);
        inputs.push_back(other);
        root = sum;
      }
    }
    IrNode* next = pattern_.sole_reader(root->outputs[0]);
    if (next != nullptr && activation(*next, attributes)) {
      pattern_.add(*root);
      root = next;
    }
    if (root == &node) return false;
    FB_TRY(pattern_.become(*root, "forebay", convolves ? "Conv" : "Linear", 1, std::move(inputs),
                           std::move(attributes)));
    return true;
  }

  // Adds the attributes for an activation of one input that epilogues serve.
  bool activation(const IrNode& node, std::vector<plan::Attribute>& attributes) const {
    const NodeView view = ir_.view(node);
    std::string name = node.op;
    float alpha = 0, beta = 0;
    if (name == "LeakyRelu") {
      alpha = view.real("alpha", 0.01f);
    } else if (name == "HardSigmoid") {
      alpha = view.real("alpha", 0.2f);
      beta = view.real("beta", 0.5f);
    } else if (name == "Swish") {
      alpha = view.real("alpha", 1.0f);
    } else if (name == "Gelu") {
      if (view.text("approximate", "none") == "tanh") name = "GeluTanh";
    } else if (name == "Clip") {
      if (!bounds(node, alpha, beta)) return false;
    } else if (name != "Relu" && name != "Sigmoid" && name != "Tanh" && name != "HardSwish" &&
               name != "Mish") {
      return false;
    }
    attributes.push_back({"activation", name});
    if (alpha != 0) attributes.push_back({"activation_alpha", alpha});
    if (beta != 0) attributes.push_back({"activation_beta", beta});
    return true;
  }

  // Both must be known numbers.
  bool bounds(const IrNode& clip, float& low, float& high) const {
    const NodeView view = ir_.view(clip);
    if (clip.version < 11) {
      if (!view.has("min") || !view.has("max")) return false;
      low = view.real("min", 0);
      high = view.real("max", 0);
      return true;
    }
    if (clip.inputs.size() != 3) return false;
    const std::optional<double> least = pattern_.number(clip.inputs[1]),
                                most = pattern_.number(clip.inputs[2]);
    if (!least || !most) return false;
    low = static_cast<float>(*least);
    high = static_cast<float>(*most);
    return true;
  }

  PassContext& context_;
  Ir& ir_;
  ValueNeeds needs_;
  Pattern pattern_;
};

}  // namespace

Result<std::size_t> pass_epilogue(PassContext& context) {
  return EpiloguePass(context).run();
}

}  // namespace forebay::builder
