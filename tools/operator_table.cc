#include "operator_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "builder/lower_vendor.h"
#include "device_operators.h"
#include "runtime/op.h"

namespace forebay::tools {
namespace {

constexpr std::int32_t kOpen = 0x7fffffff, kNewest = 27;

struct Group {
  std::string_view name;
  std::vector<DType> types;
};
const std::vector<Group>& groups() {
  static const std::vector<Group> all{
      {"floats", {DType::f32, DType::f16, DType::bf16, DType::f64}},
      {"integers", {DType::i8, DType::i16, DType::i32, DType::i64, DType::u8, DType::u16, DType::u32, DType::u64}},
      {"bool", {DType::boolean}},
      {"narrow",
       {DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz, DType::f8e8m0, DType::f4e2m1, DType::i4, DType::u4, DType::i2,
        DType::u2}},
  };
  return all;
}

// What the registry cannot say.
struct Limit {
  std::string_view op, text;
};
constexpr Limit kLimits[] = {
    {"Attention", "a query that may attend to nothing gives zeros, as in ONNX Runtime (the reference evaluator: not a number)"},
    {"com.microsoft.FusedMatMul", "no `transBatchA`, `transBatchB`"},
    {"Constant", "becomes a weight or a constant when the model is read"},
    {"CenterCropPad", "no sub-byte types"},
    {"Col2Im", "up to 3 spatial axes"},
    {"Conv", "1 to 3 spatial axes"},
    {"ConvTranspose", "1 to 3 spatial axes"},
    {"DeformConv", "2 spatial axes"},
    {"Dropout", "training mode only with a constant `training_mode`; its values are ours"},
    {"GridSample", "1 to 3 spatial axes; input and grid are both f64 or neither"},
    {"com.microsoft.GroupQueryAttention",
     "no `qk_output`, `sliding_window_cache`, quantised cache; "
     "present is past with the new rows written in, and as long as the longer of the two"},
    {"If", "bodies are planned apart"},
    {"MaxRoiPool", "boxes beyond the image are cut"},
    {"com.microsoft.MultiHeadAttention", "no `cache_indirection`"},
    {"RoiAlign", "up to 4096 samples along a side of a bin"},
    {"com.microsoft.RotaryEmbedding", "no `scale`, `is_packed_batching`"},
};

// The input whose types are listed, where it is not the first.
std::size_t leading_input(std::string_view op) {
  return op == "Where" ? 1 : op == "OneHot" ? 2 : 0;
}

// Attributes that operators ask for before they look at types.
std::vector<plan::Attribute> usual_attributes() {
  using Integers = std::vector<std::int64_t>;
  const std::int64_t one = 1;
  return {{"to", one},
          {"axis", std::int64_t{0}},
          {"axes", Integers{0}},
          {"k", one},
          {"num_heads", one},
          {"kv_num_heads", one},
          {"q_num_heads", one},
          {"hidden_size", one},
          {"blocksize", one},
          {"kernel_shape", Integers{1}},
          {"shape", Integers{1}},
          {"size", one},
          {"pooled_shape", Integers{1, 1}},
          {"direction", std::string("LEFT")},
          {"equation", std::string("i->i")},
          {"update_rule", std::string("linear")},
          {"perm", Integers{0}},
          {"pads", Integers{0, 0}},
          {"scales", std::vector<float>{1.0f}},
          {"split", Integers{1}},
          {"starts", Integers{0}},
          {"ends", Integers{1}},
          {"repeats", Integers{1}}};
}

bool takes(const OpSpec& spec, std::span<const TypeShape> inputs, std::span<const plan::Attribute> attributes) {
  static const plan::Plan nothing;
  const NodeView node("", spec.domain, spec.name, spec.until == kOpen ? (spec.domain.empty() ? kNewest : spec.since) : spec.until,
                      attributes, nothing, inputs.size(), 1);
  const std::vector<const HostTensor*> values(inputs.size(), nullptr);
  std::vector<TypeShape> outputs(1);
  InferContext context(node, inputs, values, outputs);
  if (!spec.infer(context).ok()) return false;
  return spec.create == nullptr || spec.create(node, inputs, outputs).ok();
}

// The other inputs are tried in the types that operators use: d the type itself, i i64, j i32, f f32, b bool, - none.
bool takes(const OpSpec& spec, DType dtype, const std::string& kinds, std::span<const plan::Attribute> attributes) {
  std::vector<TypeShape> inputs(kinds.size());
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const char kind = kinds[i];
    inputs[i].dtype = kind == 'd'   ? dtype
                      : kind == 'i' ? DType::i64
                      : kind == 'j' ? DType::i32
                      : kind == 'f' ? DType::f32
                      : kind == 'b' ? DType::boolean
                                    : DType::none;
  }
  return takes(spec, inputs, attributes);
}

const std::vector<std::string>& all_kinds() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> made{"d"}, last = made;
    for (int length = 2; length <= 4; ++length) {
      std::vector<std::string> next;
      for (const std::string& kinds : last) {
        for (const char kind : {'d', 'i', 'f', 'j', 'b', '-'}) next.push_back(kinds + kind);
      }
      made.insert(made.end(), next.begin(), next.end());
      last = std::move(next);
    }
    for (const char* kinds : {"bdd", "iid", "jid", "jjd", "ddddd", "dddddd", "dfddfdfd", "dfddfdfdj", "dddddjj", "idd", "ddddi"})
      made.emplace_back(kinds);
    return made;
  }();
  return all;
}

bool serves(const OpSpec& spec, DType dtype) {
  const std::vector<plan::Attribute> usual = usual_attributes();
  const std::size_t lead = leading_input(spec.name);
  for (const std::string& kinds : all_kinds()) {
    if (lead >= kinds.size() || kinds[lead] != 'd') continue;
    if (takes(spec, dtype, kinds, {}) || takes(spec, dtype, kinds, usual)) return true;
  }
  return false;
}

std::string types_of(const OpSpec& spec) {
  if ((spec.flags & kOpControl) != 0 || spec.name == "Constant") return "any";
  static const std::vector<plan::Attribute> usual = usual_attributes();
  if (takes(spec, DType::none, "", {}) || takes(spec, DType::none, "", usual)) return "no input";
  std::string text;
  for (const Group& group : groups()) {
    std::vector<DType> served;
    for (const DType dtype : group.types) {
      if (serves(spec, dtype)) served.push_back(dtype);
    }
    if (served.empty()) continue;
    if (!text.empty()) text += ", ";
    if (served.size() == group.types.size()) {
      text += group.name;
      continue;
    }
    for (std::size_t i = 0; i < served.size(); ++i) text += (i > 0 ? ", " : "") + std::string(dtype_name(served[i]));
  }
  return text;
}

std::string versions_of(const OpSpec& spec) {
  if (!spec.domain.empty()) return std::to_string(spec.since);
  const std::int32_t since = std::max(spec.since, 6);
  if (spec.until == kOpen) return fmt::format("{}+", since);
  return since == spec.until ? std::to_string(since) : fmt::format("{}-{}", since, spec.until);
}

std::string full_name(const OpSpec& spec) {
  return (spec.domain.empty() ? "" : std::string(spec.domain) + ".") + std::string(spec.name);
}

std::string limits_of(const OpSpec& spec) {
  std::string text;
  for (const Limit& limit : kLimits) {
    if (limit.op == full_name(spec)) text = limit.text;
  }
  if (spec.host_inputs == 0) return text;
  std::string inputs;
  for (int i = 0; i < 32; ++i) {
    if ((spec.host_inputs >> i & 1u) != 0) inputs += (inputs.empty() ? "" : ", ") + std::to_string(i);
  }
  return fmt::format("read on the host: {}{}{}", inputs, text.empty() ? "" : "; ", text);
}

std::string slabs_of(const OpSpec& spec) {
  return spec.consume != nullptr ? "yes" : "";
}
std::string devices_of(const OpSpec& spec) {
  if ((spec.flags & kOpView) != 0) return "any (a view)";
  const bool cuda = std::find(std::begin(kOnCuda), std::end(kOnCuda), full_name(spec)) != std::end(kOnCuda);
  return cuda ? "cpu, cuda" : "cpu";
}

}  // namespace

std::string operators_markdown() {
  std::string out =
      "# Operators\n\nMade by `forebay completion operators` from the registry; a test compares. Everything else is refused by name, all "
      "at once, by "
      "`forebay check` and `forebay build`.\n\n"
      "- *versions*: opsets of ai.onnx with this meaning, from 6 to 27; for other domains the version it starts at. Opsets 1 to 5 are "
      "taken where the meaning is unchanged.\n"
      "- *types*: of the first input (Where: the second, OneHot: the third). floats: f32, f16, bf16, f64; integers: 8 to 64 bits, signed "
      "and not; "
      "narrow: fp8, fp4, 4 and 2 bits.\n"
      "- *slabs*: a weight of this operator may be cut and streamed in slabs.\n"
      "- *devices*: cuda has kernels of its own for f32, f16 and bf16, for integers where they are usual, and elementwise for f64. "
      "Other types, and operators without cuda here, run there on the host, on copies; control flow is the executor's.\n"
      "- *read on the host*: inputs (counted from 0) that shapes depend on.\n"
      "- forebay.* is what the builder writes; it is no exchange format.\n\n"
      "| operator | versions | types | slabs | devices | limits |\n|---|---|---|---|---|---|\n";
  std::map<std::string, std::vector<const OpSpec*>> sorted;
  for (const OpSpec& spec : OpRegistry::builtin().all()) {
    sorted[full_name(spec)].push_back(&spec);
  }
  for (const bool vendor : {false, true}) {
    for (const auto& [name, specs] : sorted) {
      if (specs.front()->domain.empty() == vendor) continue;
      for (const OpSpec* spec : specs) {
        out += fmt::format("| {} | {} | {} | {} | {} | {} |\n", name, versions_of(*spec), types_of(*spec), slabs_of(*spec),
                           devices_of(*spec), limits_of(*spec));
      }
    }
  }
  out +=
      "\n## Compositions\n\nThese of com.microsoft become other operators when the model is read, and so take their types, slabs and "
      "devices.\n\n| operator | becomes |\n|---|---|\n";
  for (const builder::LoweredOp& op : builder::lowered_ops()) out += fmt::format("| com.microsoft.{} | {} |\n", op.name, op.becomes);
  return out;
}

}  // namespace forebay::tools
