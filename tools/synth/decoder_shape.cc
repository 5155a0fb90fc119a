#include "synth/decoder_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>

namespace forebay::tools {
namespace {

struct Named {
  std::string_view name;
  double parameters;
  DecoderShape shape;
};
constexpr std::array<Named, 9> kShapes{{
    // hidden, layers, heads, kv heads, head, ffn, vocabulary
    {"1M", 1e6, {128, 4, 4, 2, 32, 384, 512}},
    {"10M", 1e7, {256, 8, 8, 2, 32, 1024, 4096}},
    {"100M", 1e8, {768, 12, 12, 4, 64, 2048, 16384}},
    {"1B", 1.1e9, {2048, 16, 32, 8, 64, 8192, 32000}},
    {"2B", 2e9, {2560, 27, 20, 4, 128, 6912, 32000}},
    {"4B", 4e9, {3072, 36, 24, 8, 128, 8192, 64000}},
    {"8B", 8e9, {4096, 32, 32, 8, 128, 14336, 128256}},
    {"24B", 2.4e10, {5120, 40, 32, 8, 128, 32768, 131072}},
    {"32B", 3.2e10, {5120, 64, 40, 8, 128, 27648, 152064}},
}};

}  // namespace

std::int64_t DecoderShape::layer_parameters() const {
  return hidden * (heads + 2 * kv_heads) * head_dim + heads * head_dim * hidden + 3 * hidden * ffn + 2 * hidden;
}
std::int64_t DecoderShape::parameters() const { return layers * layer_parameters() + 2 * vocab * hidden + hidden; }

Result<DecoderShape> decoder_shape(std::string_view params) {
  std::string upper;
  for (const char c : params) upper += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  for (const Named& named : kShapes) {
    if (named.name == upper) return named.shape;
  }
  double count = 0;
  const auto [rest, error] = std::from_chars(upper.data(), upper.data() + upper.size(), count, std::chars_format::fixed);
  const std::string_view unit(rest, static_cast<std::size_t>(upper.data() + upper.size() - rest));
  const double scale = unit == "K" ? 1e3 : unit == "M" ? 1e6 : unit == "B" ? 1e9 : unit.empty() ? 1 : 0;
  count *= scale;
  if (error != std::errc() || !(count >= 5e5) || count > 1e12) {
    return Status(Code::invalid_argument, fmt::format("--params \"{}\": expected a count such as 10M, 1B or 8B, at least 500K", params));
  }
  const Named* best = &kShapes.front();
  for (const Named& named : kShapes) {  // the nearest ratio
    const auto ratio = [&](double p) { return p > count ? p / count : count / p; };
    if (ratio(named.parameters) < ratio(best->parameters)) best = &named;
  }
  DecoderShape shape = best->shape;
  const double outside = static_cast<double>(shape.parameters() - shape.layers * shape.layer_parameters());
  shape.layers = std::max<std::int64_t>(2, static_cast<std::int64_t>((count - outside) / static_cast<double>(shape.layer_parameters()) + 0.5));
  return shape;
}

std::vector<std::int64_t> DecoderTensor::dims() const {
  if (role == TensorRole::norm_gain || role == TensorRole::rope) return {columns};
  return {rows, columns};
}

std::uint64_t DecoderTensor::bytes() const {
  return static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(columns) * static_cast<std::uint64_t>(dtype_bits(dtype)) / 8;
}

std::vector<DecoderTensor> decoder_tensors(const DecoderShape& shape, DType dtype) {
  std::vector<DecoderTensor> tensors;
  std::int64_t layer = -1;
  const auto matrix = [&](std::string name, std::int64_t n, std::int64_t k, TensorRole role, bool input_major = false) {
    DecoderTensor tensor{std::move(name), role, dtype, input_major ? k : n, input_major ? n : k, input_major, layer};
    tensors.push_back(std::move(tensor));
  };
  const auto gain = [&](std::string name) {
    tensors.push_back({std::move(name), TensorRole::norm_gain, dtype, 1, shape.hidden, false, layer});
  };
  const std::int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  matrix("model.embed_tokens.weight", shape.vocab, shape.hidden, TensorRole::embedding);
  tensors.push_back({"model.rotary_emb.inv_freq", TensorRole::rope, DType::f32, 1, shape.head_dim / 2, false, -1});
  for (layer = 0; layer < shape.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    gain(prefix + "input_layernorm.weight");
    matrix(prefix + "self_attn.q_proj.weight", q, shape.hidden, TensorRole::projection);
    matrix(prefix + "self_attn.k_proj.weight", kv, shape.hidden, TensorRole::projection);
    matrix(prefix + "self_attn.v_proj.weight", kv, shape.hidden, TensorRole::projection);
    matrix(prefix + "self_attn.o_proj.weight", shape.hidden, q, TensorRole::residual_projection);
    gain(prefix + "post_attention_layernorm.weight");
    matrix(prefix + "mlp.gate_proj.weight", shape.ffn, shape.hidden, TensorRole::projection);
    matrix(prefix + "mlp.up_proj.weight", shape.ffn, shape.hidden, TensorRole::projection, layer == 0);
    matrix(prefix + "mlp.down_proj.weight", shape.hidden, shape.ffn, TensorRole::residual_projection, layer + 1 == shape.layers);
  }
  layer = -1;
  gain("model.norm.weight");
  matrix("lm_head.weight", shape.vocab, shape.hidden, TensorRole::head);
  return tensors;
}

}  // namespace forebay::tools
