// The activations that forebay.Linear and forebay.Conv name in their attribute, as the device's kernels know them.
#pragma once

#include <optional>
#include <string>

#include "runtime/cuda/cuda_launch.h"
#include "runtime/op.h"

namespace forebay::cuda {

struct NamedActivation {
  Activation activation = Activation::none;
  float alpha = 0, beta = 0;
};

// None for a name that is not served.
inline std::optional<NamedActivation> node_activation(const NodeView& node, const std::string& attribute = "activation") {
  static constexpr std::pair<std::string_view, Activation> kNames[] = {{"", Activation::none},
                                                                       {"Relu", Activation::relu},
                                                                       {"LeakyRelu", Activation::leaky_relu},
                                                                       {"Clip", Activation::clip},
                                                                       {"Sigmoid", Activation::sigmoid},
                                                                       {"Tanh", Activation::tanh},
                                                                       {"HardSigmoid", Activation::hard_sigmoid},
                                                                       {"HardSwish", Activation::hard_swish},
                                                                       {"Swish", Activation::swish},
                                                                       {"Mish", Activation::mish},
                                                                       {"Gelu", Activation::gelu},
                                                                       {"GeluTanh", Activation::gelu_tanh}};
  const std::string_view wanted = node.text(attribute, "");
  for (const auto& [name, activation] : kNames) {
    if (name == wanted) return NamedActivation{activation, node.real(attribute + "_alpha", 0), node.real(attribute + "_beta", 0)};
  }
  return std::nullopt;
}

}  // namespace forebay::cuda
