// Heads stay inside of the rows: forebay.Attention whose Q, K and V are transposed from [B,S,H,D] and whose result is transposed back
// reads and writes [B,S,H*D] as it lies. Four copies of the activations less; reshapes are views.
#include <array>

#include "base/check.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

class AttentionHeads {
 public:
  explicit AttentionHeads(PassContext& context) : context_(context), ir_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !moves_heads(*node)) continue;
      IrNode* attention = ir_.values[node->inputs[0]].producer;
      if (attention == nullptr || attention->domain != "forebay" || attention->op != "Attention" || attention->inputs.size() > 4) continue;
      pattern_.begin(*node);
      pattern_.add(*attention);
      std::array<ValueId, 3> rows{};
      bool all = ir_.view(*attention).integer("q_num_heads", 0) == 0;
      for (std::size_t i = 0; i < 3 && all; ++i) all = rows_of(attention->inputs[i], rows[i]);
      if (!all || !pattern_.closed(*node)) continue;
      FB_TRY(replace(*node, *attention, rows));
      ++made;
    }
    pattern_.apply();
    ir_.sweep();
    return made;
  }

 private:
  bool moves_heads(const IrNode& node) const {
    if (!node.domain.empty() || node.op != "Transpose" || node.inputs.empty() || node.inputs[0] == kNone) return false;
    const auto perm = ir_.view(node).integers("perm");
    constexpr std::array<std::int64_t, 4> kWanted{0, 2, 1, 3};
    return std::equal(perm.begin(), perm.end(), kWanted.begin(), kWanted.end());
  }

  // [B,S,H,D] with known heads, from which [B,H,S,D] is transposed.
  bool rows_of(ValueId id, ValueId& rows) const {
    const IrNode* turn = pattern_.maker(id, "Transpose");
    if (turn == nullptr || !moves_heads(*turn)) return false;
    rows = turn->inputs[0];
    const TypeShape& type = pattern_.type(rows);
    return type.has_rank && type.dims.size() == 4 && type.dims[2] > 0 && type.dims[3] > 0;
  }

  ValueId shape(const std::string& name, const std::vector<std::int64_t>& dims) {
    HostTensor values(DType::i64, Shape{static_cast<std::int64_t>(dims.size())});
    std::copy(dims.begin(), dims.end(), values.as<std::int64_t>().begin());
    return ir_.add_constant(name, std::make_shared<const HostTensor>(std::move(values)), {});
  }

  Status replace(IrNode& root, const IrNode& attention, const std::array<ValueId, 3>& rows) {
    const std::string name = ir_.values[root.outputs[0]].name;
    std::vector<ValueId> inputs = attention.inputs;
    for (std::size_t i = 0; i < 3; ++i) {
      const TypeShape& type = pattern_.type(rows[i]);
      const std::string part = name + "/" + "qkv"[i];
      const ValueId flat = shape(part + "_shape", {0, 0, type.dims[2] * type.dims[3]});
      FB_ASSIGN(inputs[i], pattern_.insert(root, part, "Reshape", kPassOpset, {rows[i], flat}));
    }
    const std::int64_t heads = pattern_.type(rows[0]).dims[2];
    std::vector<plan::Attribute> attributes = attention.attributes;
    attributes.push_back({"q_num_heads", heads});
    attributes.push_back({"kv_num_heads", pattern_.type(rows[1]).dims[2]});
    const ValueId split = shape(name + "/shape", {0, 0, heads, pattern_.type(rows[2]).dims[3]});
    FB_ASSIGN(const ValueId joined,
              pattern_.insert(root, name + "/rows", "Attention", 1, std::move(inputs), std::move(attributes), "forebay"));
    return pattern_.become(root, "", "Reshape", kPassOpset, {joined, split}, {});
  }

  PassContext& context_;
  Ir& ir_;
  Pattern pattern_;
};

}  // namespace

Result<std::size_t> pass_attention_heads(PassContext& context) {
  return AttentionHeads(context).run();
}

}  // namespace forebay::builder
