// x * clip(x + 3, 0, 6) / 6 as exporters write it before opset 14 is one HardSwish, where this build has it.
#include "builder/passes.h"

namespace forebay::builder {
namespace {

class HardSwish {
 public:
  explicit HardSwish(PassContext& context) : context_(context), ir_(context.ir), uses_(context.ir) {}

  std::size_t run() {
    if (context_.registry.find("", "HardSwish", kOpset) == nullptr) return 0;
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) made += replace(*node) ? 1 : 0;
    ir_.sweep();
    return made;
  }

 private:
  static constexpr std::int32_t kOpset = 14;

  // The node that makes `id`, when nothing else reads it.
  IrNode* only(ValueId id, const IrNode& reader, std::string_view op, std::int32_t since) const {
    if (id == kNone || !uses_.single_use(id)) return nullptr;
    IrNode* node = ir_.values[id].producer;
    const bool fits = node != nullptr && node->graph == reader.graph && node->domain.empty() && node->op == op && node->version >= since;
    return fits ? node : nullptr;
  }

  // One f32 number of a value that is kept in the plan anyway.
  bool is_number(ValueId id, float wanted) {
    if (id == kNone || ir_.values[id].origin != Origin::constant) return false;
    const IrValue& value = ir_.values[id];
    if (value.type.dtype != DType::f32 || value.known->bytes() != sizeof(float) || value.known->as<float>()[0] != wanted) return false;
    read_.insert(read_.end(), value.known_sources.begin(), value.known_sources.end());
    return true;
  }

  bool replace(IrNode& divide) {
    read_.clear();
    if (!divide.domain.empty() || divide.op != "Div" || divide.version < 7 || divide.inputs.size() != 2) return false;
    IrNode* product = only(divide.inputs[0], divide, "Mul", 7);
    if (product == nullptr || !is_number(divide.inputs[1], 6.0f)) return false;
    for (std::size_t side = 0; side < 2; ++side) {
      IrNode* clip = only(product->inputs[side], divide, "Clip", 11);
      const ValueId x = product->inputs[1 - side];
      if (clip == nullptr || clip->inputs.size() != 3 || !is_number(clip->inputs[1], 0.0f) || !is_number(clip->inputs[2], 6.0f)) continue;
      IrNode* sum = only(clip->inputs[0], divide, "Add", 7);
      if (sum == nullptr || sum->inputs.size() != 2) continue;
      const bool plus_three =
          (sum->inputs[0] == x && is_number(sum->inputs[1], 3.0f)) || (sum->inputs[1] == x && is_number(sum->inputs[0], 3.0f));
      // A constant of higher rank than x would widen the result.
      if (!plus_three || !same_rank(x, divide.outputs[0])) continue;
      divide.fused_from = {sum->name, clip->name, product->name, divide.name};
      divide.op = "HardSwish";
      divide.version = kOpset;
      divide.inputs = {x};
      sum->removed = clip->removed = product->removed = true;
      ir_.decided_by.insert(ir_.decided_by.end(), read_.begin(), read_.end());
      return context_.types.infer_added(divide).ok();
    }
    return false;
  }

  bool same_rank(ValueId a, ValueId b) const {
    const TypeShape &x = ir_.values[a].type, &y = ir_.values[b].type;
    return x.dtype == DType::f32 && x.has_rank && y.has_rank && x.dims.size() == y.dims.size();
  }

  PassContext& context_;
  Ir& ir_;
  UseIndex uses_;
  std::vector<std::uint32_t> read_;
};

}  // namespace

Result<std::size_t> pass_hard_swish(PassContext& context) { return HardSwish(context).run(); }

}  // namespace forebay::builder
