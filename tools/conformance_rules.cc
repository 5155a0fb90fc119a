#include "conformance_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

namespace forebay::tools {
namespace {

struct ToleranceRule {
  std::string_view part;  // of the case's name
  double atol, rtol;
  std::string_view reason;
};
// Only reasons of arithmetic: where the expected file itself is that coarse, or was made with other rounding.
constexpr std::array kTolerances{
    ToleranceRule{"light_", 1e-4, 1e-2, "deep networks with equal weights: sums of thousands of terms in another order"},
    ToleranceRule{"float16", 1e-3, 1e-2, "f16 results: one unit in the last place is 1e-3"},
    ToleranceRule{"fp16", 1e-3, 1e-2, "f16 results: one unit in the last place is 1e-3"},
    ToleranceRule{"bfloat16", 1e-2, 2e-2, "bf16 results: one unit in the last place is 8e-3"},
    ToleranceRule{"_bf16", 1e-2, 2e-2, "bf16 results: one unit in the last place is 8e-3"},
    ToleranceRule{"test_resize_downsample_scales_cubic", 1e-6, 1e-3, "the reference sums in f64"},
    ToleranceRule{"test_operator_", 1e-5, 1e-3, "expected values were made by a GPU framework in f32"},
    ToleranceRule{"test_Conv", 1e-5, 1e-3, "expected values were made by a GPU framework in f32"},
    ToleranceRule{"test_ConvTranspose", 1e-5, 1e-3, "expected values were made by a GPU framework in f32"},
    ToleranceRule{"test_Linear", 1e-5, 1e-3, "expected values were made by a GPU framework in f32"},
    ToleranceRule{"test_BatchNorm", 1e-5, 1e-3, "expected values were made by a GPU framework in f32"},
    ToleranceRule{"test_log_softmax", 1e-6, 1e-3, "values near zero: differences of nearly equal numbers"},
    ToleranceRule{"test_LogSoftmax", 1e-6, 1e-3, "values near zero: differences of nearly equal numbers"},
    ToleranceRule{"test_dft", 1e-4, 1e-3, "values near zero are sums that cancel"},
    ToleranceRule{"test_stft", 1e-4, 1e-3, "values near zero are sums that cancel"},
};

struct OpRule {
  std::string_view op, reason;
};
constexpr std::array kSkippedOps{
    OpRule{"RandomNormal", "random"},       OpRule{"RandomUniform", "random"},     OpRule{"RandomNormalLike", "random"},
    OpRule{"RandomUniformLike", "random"},  OpRule{"Bernoulli", "random"},         OpRule{"Multinomial", "random"},
    OpRule{"ImageDecoder", "image decoding"}, OpRule{"SoftmaxCrossEntropyLoss", "training loss"},
    OpRule{"NegativeLogLikelihoodLoss", "training loss"}, OpRule{"Gradient", "training"}, OpRule{"Adam", "training"},
    OpRule{"Adagrad", "training"},          OpRule{"Momentum", "training"},
    OpRule{"StringNormalizer", "strings"},  OpRule{"StringConcat", "strings"},     OpRule{"StringSplit", "strings"},
    OpRule{"RegexFullMatch", "strings"},    OpRule{"TfIdfVectorizer", "strings"},
    OpRule{"SequenceConstruct", "sequence types"}, OpRule{"SequenceEmpty", "sequence types"}, OpRule{"SequenceAt", "sequence types"},
    OpRule{"SequenceInsert", "sequence types"}, OpRule{"SequenceErase", "sequence types"}, OpRule{"SequenceLength", "sequence types"},
    OpRule{"SequenceMap", "sequence types"}, OpRule{"SplitToSequence", "sequence types"}, OpRule{"ConcatFromSequence", "sequence types"},
    OpRule{"Optional", "optional types"},   OpRule{"OptionalGetElement", "optional types"}, OpRule{"OptionalHasElement", "optional types"},
};

std::string skip_nodes(const std::vector<onnx::Node>& nodes) {
  for (const onnx::Node& node : nodes) {
    if (node.domain == "ai.onnx.ml") return "ml domain";
    if (node.domain.find("training") != std::string::npos) return "training domain";
    for (const OpRule& rule : kSkippedOps) {
      if (node.domain.empty() && node.op == rule.op) return fmt::format("{} ({})", rule.reason, rule.op);
    }
    for (const onnx::Attribute& attribute : node.attributes) {
      const auto* body = std::get_if<std::shared_ptr<onnx::Graph>>(&attribute.value);
      if (body == nullptr || *body == nullptr) continue;
      if (std::string reason = skip_nodes((*body)->nodes); !reason.empty()) return reason;
    }
  }
  return {};
}

}  // namespace

Tolerance conformance_tolerance(std::string_view case_name) {
  Tolerance tolerance;
  for (const ToleranceRule& rule : kTolerances) {
    if (case_name.find(rule.part) == std::string_view::npos || rule.rtol < tolerance.rtol) continue;
    tolerance.atol = std::max(tolerance.atol, rule.atol);
    tolerance.rtol = rule.rtol;
    tolerance.reason = rule.reason;
  }
  return tolerance;
}

std::string conformance_skip(std::string_view case_name, const onnx::Model& model) {
  if (case_name.find("training_dropout") != std::string_view::npos) return "random (Dropout in training mode)";
  if (case_name.find("training_mode") != std::string_view::npos) return "training (BatchNormalization in training mode)";
  for (const auto* values : {&model.graph.inputs, &model.graph.outputs}) {
    for (const onnx::ValueInfo& value : *values) {
      if (!value.unsupported.empty()) return fmt::format("{} types (value {})", value.unsupported, value.name);
    }
  }
  for (const onnx::Function& function : model.functions) {
    if (std::string reason = skip_nodes(function.nodes); !reason.empty()) return reason;
  }
  return skip_nodes(model.graph.nodes);
}

}  // namespace forebay::tools
