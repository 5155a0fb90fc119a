#include <algorithm>
#include <string>

#include "runtime/op.h"
#include "runtime/ops/families.h"

namespace forebay {
namespace {

// The newest opsets whose meaning is known here: a newer import is refused rather than guessed at.
constexpr std::int32_t kOldestOpset = 6, kNewestOpset = 27;

std::string_view plain_domain(std::string_view domain) { return domain == "ai.onnx" ? std::string_view() : domain; }

bool same_op(const OpSpec& spec, std::string_view domain, std::string_view name) { return spec.domain == domain && spec.name == name; }

// The standard operator that does the work of a vendor's under another name.
struct Standard {
  std::string_view vendor, standard;
};
constexpr Standard kStandard[] = {
    {"BiasAdd", "Add"},
    {"BiasSoftmax", "Add and Softmax"},
    {"DecoderMaskedMultiHeadAttention", "Attention"},
    {"DecoderMaskedSelfAttention", "Attention"},
    {"DynamicQuantizeMatMul", "DynamicQuantizeLinear and MatMulInteger"},
    {"FusedGemm", "Gemm and its activation"},
    {"FusedMatMulActivation", "MatMul and its activation"},
    {"GroupNorm", "GroupNormalization"},
    {"LongformerAttention", "Attention"},
    {"MatMulIntegerToFloat", "MatMulInteger, Cast and Mul"},
    {"NhwcConv", "Conv"},
    {"NhwcFusedConv", "Conv and its activation"},
    {"NhwcMaxPool", "MaxPool"},
    {"PackedAttention", "Attention"},
    {"PackedMultiHeadAttention", "Attention"},
    {"PagedAttention", "Attention"},
    {"QAttention", "Attention"},
    {"QLinearAdd", "DequantizeLinear, Add and QuantizeLinear"},
    {"QLinearAveragePool", "DequantizeLinear, AveragePool and QuantizeLinear"},
    {"QLinearConcat", "DequantizeLinear, Concat and QuantizeLinear"},
    {"QLinearGlobalAveragePool", "DequantizeLinear, GlobalAveragePool and QuantizeLinear"},
    {"QLinearLeakyRelu", "DequantizeLinear, LeakyRelu and QuantizeLinear"},
    {"QLinearMul", "DequantizeLinear, Mul and QuantizeLinear"},
    {"QLinearSigmoid", "DequantizeLinear, Sigmoid and QuantizeLinear"},
    {"QLinearSoftmax", "DequantizeLinear, Softmax and QuantizeLinear"},
    {"Rfft", "DFT"},
    {"Irfft", "DFT"},
    {"SkipGroupNorm", "Add and GroupNormalization"},
    {"TransposeMatMul", "Transpose and MatMul"},
};

}  // namespace

const OpRegistry& OpRegistry::builtin() {
  static const OpRegistry registry = [] {
    OpRegistry made;
    for (const ops::Family family : ops::kFamilies) {
      const std::span<const OpSpec> specs = family();
      made.specs_.insert(made.specs_.end(), specs.begin(), specs.end());
    }
    std::stable_sort(made.specs_.begin(), made.specs_.end(), [](const OpSpec& a, const OpSpec& b) {
      return a.name != b.name ? a.name < b.name : a.domain != b.domain ? a.domain < b.domain : a.since < b.since;
    });
    return made;
  }();
  return registry;
}

const OpSpec* OpRegistry::find(std::string_view domain, std::string_view name, std::int32_t version) const {
  domain = plain_domain(domain);
  if (domain.empty() && (version < 1 || version > kNewestOpset)) return nullptr;
  auto at = std::lower_bound(specs_.begin(), specs_.end(), name, [](const OpSpec& spec, std::string_view n) { return spec.name < n; });
  for (; at != specs_.end() && at->name == name; ++at) {
    if (same_op(*at, domain, name) && version >= at->since && version <= at->until) return &*at;
  }
  return nullptr;
}

std::string OpRegistry::why_missing(std::string_view domain, std::string_view name, std::int32_t version) const {
  domain = plain_domain(domain);
  if (domain.empty() && version > kNewestOpset) {
    return "opset " + std::to_string(version) + " is newer than this build knows (" + std::to_string(kOldestOpset) + " to " +
           std::to_string(kNewestOpset) + ")";
  }
  std::string ranges;
  for (const OpSpec& spec : specs_) {
    if (!same_op(spec, domain, name)) continue;
    if (!ranges.empty()) ranges += ", ";
    const std::int32_t last = domain.empty() ? std::min(spec.until, kNewestOpset) : spec.until;
    ranges += std::to_string(spec.since) + " to " + (last == 0x7fffffff ? std::string("the newest") : std::to_string(last));
  }
  const std::string full = domain.empty() ? std::string(name) : std::string(domain) + "." + std::string(name);
  if (ranges.empty()) return "no such operator here: " + full;
  return "opset " + std::to_string(version) + " of " + full + " is not served (" + ranges + " are)";
}

std::string OpRegistry::hint_for(std::string_view domain, std::string_view name) const {
  domain = plain_domain(domain);
  if (domain.empty() || domain.starts_with("ai.onnx")) return {};
  std::string_view standard;
  for (const Standard& known : kStandard) {
    if (domain == "com.microsoft" && known.vendor == name) standard = known.standard;
  }
  for (const OpSpec& spec : specs_) {
    if (spec.domain.empty() && spec.name == name) standard = name;
  }
  const std::string where = "operators of " + std::string(domain) + " are written by an optimiser: export the model without it";
  return standard.empty() ? where : where + ", so that it holds the standard " + std::string(standard);
}

}  // namespace forebay
