#include "runtime/ops/epilogue.h"

namespace forebay::ops {

Result<Epilogue> epilogue_of(const NodeView& node, const std::string& attribute) {
  static constexpr struct {
    std::string_view name;
    FloatUnary op;
  } kServed[] = {{"Relu", FloatUnary::relu},
                 {"LeakyRelu", FloatUnary::leaky_relu},
                 {"Clip", FloatUnary::clip},
                 {"Sigmoid", FloatUnary::sigmoid},
                 {"Tanh", FloatUnary::tanh},
                 {"HardSigmoid", FloatUnary::hard_sigmoid},
                 {"HardSwish", FloatUnary::hard_swish},
                 {"Swish", FloatUnary::swish},
                 {"Mish", FloatUnary::mish},
                 {"Gelu", FloatUnary::gelu_erf},
                 {"GeluTanh", FloatUnary::gelu_tanh}};
  const std::string_view name = node.text(attribute, "");
  if (name.empty()) return Epilogue();
  for (const auto& served : kServed) {
    if (served.name != name) continue;
    const LoopParams params{static_cast<double>(node.real(attribute + "_alpha", 0)), static_cast<double>(node.real(attribute + "_beta", 0)),
                            0};
    return Epilogue{vector_loops().unary(served.op, false), params};
  }
  return node.invalid("activation '" + std::string(name) + "' is not served here");
}

}  // namespace forebay::ops
