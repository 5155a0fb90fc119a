#include "synth/decoder_graph.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <map>

#include "forebay/version.h"
#include "synth/wire_writer.h"

namespace forebay::tools {
namespace {

constexpr std::int64_t kFloat = 1, kInt64 = 7, kFloat16 = 10, kBfloat16 = 16;

std::int64_t onnx_type(DType dtype) {
  return dtype == DType::bf16 ? kBfloat16 : dtype == DType::f16 ? kFloat16 : dtype == DType::i64 ? kInt64 : kFloat;
}

struct Attr {
  std::string name;
  std::int64_t type = 0;  // 1 float, 2 int, 7 ints
  std::int64_t integer = 0;
  float real = 0;
  std::vector<std::int64_t> integers;
};
Attr int_attr(std::string name, std::int64_t value) { return {std::move(name), 2, value, 0, {}}; }
Attr ints_attr(std::string name, std::vector<std::int64_t> values) { return {std::move(name), 7, 0, 0, std::move(values)}; }

class GraphWriter {
 public:
  GraphWriter(const DecoderShape& shape, DType dtype) : shape_(shape), dtype_(dtype) {}

  std::string node(std::string_view op, const std::string& output, std::initializer_list<std::string> inputs, std::vector<Attr> attributes = {}) {
    nodes(op, {output}, inputs, attributes);
    return output;
  }
  void nodes(std::string_view op, std::initializer_list<std::string> outputs, std::initializer_list<std::string> inputs,
             const std::vector<Attr>& attributes) {
    WireWriter message;
    for (const std::string& input : inputs) message.text(1, input);
    for (const std::string& output : outputs) message.text(2, output);
    message.text(3, "node_" + *outputs.begin());
    message.text(4, op);
    for (const Attr& attribute : attributes) {
      WireWriter inner;
      inner.text(1, attribute.name);
      if (attribute.type == 1) inner.real(2, attribute.real);
      if (attribute.type == 2) inner.integer(3, attribute.integer);
      for (const std::int64_t value : attribute.integers) inner.integer(8, value);
      inner.integer(20, attribute.type);
      message.text(5, inner.bytes());
    }
    graph_.text(1, message.bytes());
  }
  // A constant that is part of the graph: shapes, axes, scalars. Written once.
  std::string integers(const std::vector<std::int64_t>& values, bool scalar = false) {
    std::string name = scalar ? "const_i" : "const_v";
    for (const std::int64_t value : values) name += fmt::format("_{}", value);
    if (!constants_.emplace(name, true).second) return name;
    std::string raw;
    for (const std::int64_t value : values) raw.append(reinterpret_cast<const char*>(&value), sizeof value);
    constant(name, kInt64, scalar ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{static_cast<std::int64_t>(values.size())}, raw);
    return name;
  }
  std::string real(float value, const std::string& name) {
    if (constants_.emplace(name, true).second) {
      constant(name, kFloat, {}, std::string(reinterpret_cast<const char*>(&value), sizeof value));
    }
    return name;
  }
  std::string cast(const std::string& output, const std::string& input, DType from, DType to) {
    return from == to ? input : node("Cast", output, {input}, {int_attr("to", onnx_type(to))});
  }
  void initializer(const DecoderTensor& tensor, const std::string& file, std::uint64_t offset) {
    WireWriter message;
    for (const std::int64_t dim : tensor.dims()) message.integer(1, dim);
    message.integer(2, onnx_type(tensor.dtype));
    message.text(8, tensor.name);
    const auto entry = [&](std::string_view key, const std::string& value) {
      WireWriter inner;
      inner.text(1, key);
      inner.text(2, value);
      message.text(13, inner.bytes());
    };
    entry("location", file);
    entry("offset", std::to_string(offset));
    entry("length", std::to_string(tensor.bytes()));
    message.integer(14, 1);
    graph_.text(5, message.bytes());
  }
  void value(std::uint32_t field, const std::string& name, DType dtype, const std::vector<std::string>& dims) {
    WireWriter shape, tensor, type, info;
    for (const std::string& dim : dims) {
      WireWriter inner;
      if (dim.find_first_not_of("0123456789") == std::string::npos) inner.integer(1, std::stoll(dim));
      else inner.text(2, dim);
      shape.text(1, inner.bytes());
    }
    tensor.integer(1, onnx_type(dtype));
    tensor.text(2, shape.bytes());
    type.text(1, tensor.bytes());
    info.text(1, name);
    info.text(2, type.bytes());
    graph_.text(field, info.bytes());
  }
  std::string finish(const std::string& name) {
    graph_.text(2, name);
    return graph_.take();
  }

  // y = x / sqrt(mean(x^2) + eps) * gain, in f32 inside.
  std::string rms_norm(const std::string& prefix, const std::string& input, const std::string& gain) {
    const std::string x = cast(prefix + "_f32", input, dtype_, DType::f32);
    const std::string square = node("Pow", prefix + "_square", {x, real(2.0f, "const_two")});
    const std::string mean = node("ReduceMean", prefix + "_mean", {square}, {ints_attr("axes", {-1}), int_attr("keepdims", 1)});
    const std::string sum = node("Add", prefix + "_eps", {mean, real(1e-5f, "const_eps")});
    const std::string root = node("Sqrt", prefix + "_root", {sum});
    const std::string inverse = node("Reciprocal", prefix + "_inverse", {root});
    const std::string normal = node("Mul", prefix + "_normal", {x, inverse});
    return node("Mul", prefix + "_out", {cast(prefix + "_back", normal, DType::f32, dtype_), gain});
  }
  // [B,S,K] by a matrix: Gemm on [B*S,K] for [N,K] weights, MatMul for [K,N] ones.
  std::string project(const std::string& prefix, const std::string& flat, const DecoderTensor& weight) {
    if (weight.input_major) return node("MatMul", prefix, {flat, weight.name});
    return node("Gemm", prefix, {flat, weight.name}, {int_attr("transB", 1)});
  }
  // Rotates halves: [x1 cos - x2 sin, x2 cos + x1 sin], in f32.
  std::string rope(const std::string& prefix, const std::string& input) {
    const std::string x = cast(prefix + "_f32", input, dtype_, DType::f32);
    nodes("Split", {prefix + "_x1", prefix + "_x2"}, {x, integers({shape_.head_dim / 2, shape_.head_dim / 2})}, {int_attr("axis", -1)});
    const std::string a = node("Mul", prefix + "_x1c", {prefix + "_x1", "rope_cos"}), b = node("Mul", prefix + "_x2s", {prefix + "_x2", "rope_sin"});
    const std::string c = node("Mul", prefix + "_x2c", {prefix + "_x2", "rope_cos"}), d = node("Mul", prefix + "_x1s", {prefix + "_x1", "rope_sin"});
    const std::string first = node("Sub", prefix + "_r1", {a, b}), second = node("Add", prefix + "_r2", {c, d});
    const std::string joined = node("Concat", prefix + "_joined", {first, second}, {int_attr("axis", -1)});
    return cast(prefix + "_rope", joined, DType::f32, dtype_);
  }

  // Positions, the rotation's cosines and sines, and the causal mask (0 or a large negative number), shared by all layers.
  void preamble() {
    const std::string past = node("Gather", "past_length", {node("Shape", "past_shape", {"past_key_values.0.key"}), integers({2}, true)},
                                  {int_attr("axis", 0)});
    const std::string length = node("Gather", "sequence_length", {node("Shape", "ids_shape", {"input_ids"}), integers({1}, true)},
                                    {int_attr("axis", 0)});
    const std::string total = node("Add", "total_length", {past, length});
    const std::string positions = node("Range", "positions", {past, total, integers({1}, true)});
    const std::string keys = node("Range", "key_positions", {integers({0}, true), total, integers({1}, true)});
    const std::string column = node("Unsqueeze", "positions_column", {positions, integers({1})});
    const std::string angles = node("Mul", "rope_angles", {cast("positions_f32", column, DType::i64, DType::f32), "model.rotary_emb.inv_freq"});
    node("Cos", "rope_cos", {angles});
    node("Sin", "rope_sin", {angles});
    const std::string visible = node("LessOrEqual", "visible", {keys, column});
    node("Where", "mask", {visible, real(0.0f, "const_zero"), real(-3.0e38f, "const_hidden")});
  }

  std::string attention(const std::string& p, const std::string& hidden, const std::map<std::string, const DecoderTensor*>& w, std::int64_t layer) {
    const std::string base = fmt::format("model.layers.{}.self_attn.", layer);
    const std::string flat = node("Reshape", p + "_flat", {hidden, integers({-1, shape_.hidden})});
    const std::string shape_node = node("Shape", p + "_shape", {hidden});
    const std::string batch_sequence = node("Slice", p + "_bs", {shape_node, integers({0}), integers({2})});
    const auto heads = [&](const std::string& name, std::int64_t count) {
      const std::string projected = project(p + "_" + name, flat, *w.at(base + name + "_proj.weight"));
      const std::string target = node("Concat", p + "_" + name + "_dims", {batch_sequence, integers({count, shape_.head_dim})}, {int_attr("axis", 0)});
      const std::string split = node("Reshape", p + "_" + name + "_split", {projected, target});
      return node("Transpose", p + "_" + name + "_heads", {split}, {ints_attr("perm", {0, 2, 1, 3})});
    };
    const std::string q = rope(p + "_q_r", heads("q", shape_.heads));
    const std::string k = rope(p + "_k_r", heads("k", shape_.kv_heads));
    const std::string v = heads("v", shape_.kv_heads);
    const std::string past = fmt::format("past_key_values.{}.", layer), present = fmt::format("present.{}.", layer);
    const std::string keys = node("Concat", present + "key", {past + "key", k}, {int_attr("axis", 2)});
    const std::string values = node("Concat", present + "value", {past + "value", v}, {int_attr("axis", 2)});
    // Query heads of one key head are stacked as rows, so keys and values are never repeated.
    const std::int64_t group = shape_.heads / shape_.kv_heads;
    const std::string stacked = node("Reshape", p + "_q_rows", {q, integers({0, shape_.kv_heads, -1, shape_.head_dim})});
    const std::string turned = node("Transpose", p + "_k_turned", {keys}, {ints_attr("perm", {0, 1, 3, 2})});
    const std::string scores = cast(p + "_scores_f32", node("MatMul", p + "_scores", {stacked, turned}), dtype_, DType::f32);
    const std::string scale = real(1.0f / std::sqrt(static_cast<float>(shape_.head_dim)), "const_scale");
    const std::string scaled = node("Mul", p + "_scaled", {scores, scale});
    const std::string total = node("Unsqueeze", p + "_total", {"total_length", integers({0})});
    const std::string score_dims = node("Concat", p + "_score_dims", {integers({0, shape_.kv_heads, group, -1}), total}, {int_attr("axis", 0)});
    const std::string grouped = node("Reshape", p + "_grouped", {scaled, score_dims});
    const std::string masked = node("Add", p + "_masked", {grouped, "mask"});
    const std::string soft = node("Softmax", p + "_soft", {masked}, {int_attr("axis", -1)});
    const std::string row_dims = node("Concat", p + "_row_dims", {integers({0, shape_.kv_heads, -1}), total}, {int_attr("axis", 0)});
    const std::string rows = node("Reshape", p + "_rows", {cast(p + "_soft_back", soft, DType::f32, dtype_), row_dims});
    const std::string mixed = node("MatMul", p + "_mixed", {rows, values});
    const std::string mixed_dims = integers({0, shape_.heads, -1, shape_.head_dim});
    const std::string unstacked = node("Reshape", p + "_unstacked", {mixed, mixed_dims});
    const std::string back = node("Transpose", p + "_back", {unstacked}, {ints_attr("perm", {0, 2, 1, 3})});
    const std::string joined = node("Reshape", p + "_joined", {back, integers({-1, shape_.heads * shape_.head_dim})});
    const std::string out = project(p + "_o", joined, *w.at(base + "o_proj.weight"));
    return node("Reshape", p + "_out", {out, shape_node});
  }

  std::string feed_forward(const std::string& p, const std::string& hidden, const std::map<std::string, const DecoderTensor*>& w, std::int64_t layer) {
    const std::string base = fmt::format("model.layers.{}.mlp.", layer);
    const std::string flat = node("Reshape", p + "_flat", {hidden, integers({-1, shape_.hidden})});
    const std::string gate = project(p + "_gate", flat, *w.at(base + "gate_proj.weight"));
    const std::string up = project(p + "_up", flat, *w.at(base + "up_proj.weight"));
    const std::string silu = node("Mul", p + "_silu", {gate, node("Sigmoid", p + "_sigmoid", {gate})});
    const std::string product = node("Mul", p + "_product", {silu, up});
    const std::string down = project(p + "_down", product, *w.at(base + "down_proj.weight"));
    return node("Reshape", p + "_out", {down, node("Shape", p + "_shape", {hidden})});
  }

 private:
  void constant(const std::string& name, std::int64_t type, const std::vector<std::int64_t>& dims, const std::string& raw) {
    WireWriter tensor, attribute, message;
    for (const std::int64_t dim : dims) tensor.integer(1, dim);
    tensor.integer(2, type);
    tensor.text(9, raw);
    attribute.text(1, "value");
    attribute.text(5, tensor.bytes());
    attribute.integer(20, 4);
    message.text(2, name);
    message.text(3, "node_" + name);
    message.text(4, "Constant");
    message.text(5, attribute.bytes());
    graph_.text(1, message.bytes());
  }

  DecoderShape shape_;
  DType dtype_;
  WireWriter graph_;
  std::map<std::string, bool> constants_;
};

}  // namespace

std::string decoder_model(const DecoderShape& shape, DType dtype, const std::vector<DecoderTensor>& tensors, const CheckpointLayout& layout,
                          bool all_logits) {
  GraphWriter graph(shape, dtype);
  std::map<std::string, const DecoderTensor*> weights;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    weights[tensors[t].name] = &tensors[t];
    graph.initializer(tensors[t], layout.shards[layout.places[t].first].name, layout.places[t].second);
  }
  const std::string kv = std::to_string(shape.kv_heads), head = std::to_string(shape.head_dim);
  graph.value(11, "input_ids", DType::i64, {"batch", "sequence"});
  graph.value(12, "logits", DType::f32, {"batch", all_logits ? "sequence" : "1", std::to_string(shape.vocab)});
  graph.preamble();
  std::string hidden = graph.node("Gather", "embedded", {"model.embed_tokens.weight", "input_ids"}, {int_attr("axis", 0)});
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    for (const std::string part : {"key", "value"}) {
      graph.value(11, fmt::format("past_key_values.{}.{}", layer, part), dtype, {"batch", kv, "past_sequence", head});
      graph.value(12, fmt::format("present.{}.{}", layer, part), dtype, {"batch", kv, "total_sequence", head});
    }
    const std::string p = fmt::format("l{}", layer), base = fmt::format("model.layers.{}.", layer);
    const std::string normal = graph.rms_norm(p + "_in", hidden, base + "input_layernorm.weight");
    hidden = graph.node("Add", p + "_h1", {hidden, graph.attention(p + "_attn", normal, weights, layer)});
    const std::string second = graph.rms_norm(p + "_post", hidden, base + "post_attention_layernorm.weight");
    hidden = graph.node("Add", p + "_h2", {hidden, graph.feed_forward(p + "_mlp", second, weights, layer)});
  }
  if (!all_logits) hidden = graph.node("Gather", "last_hidden", {hidden, graph.integers({-1})}, {int_attr("axis", 1)});
  const std::string normal = graph.rms_norm("final", hidden, "model.norm.weight");
  const std::string flat = graph.node("Reshape", "final_flat", {normal, graph.integers({-1, shape.hidden})});
  const std::string scores = graph.project("head_flat", flat, *weights.at("lm_head.weight"));
  const std::string dims = graph.node("Concat", "head_dims", {graph.node("Slice", "head_bs", {graph.node("Shape", "head_shape", {normal}),
                                                              graph.integers({0}), graph.integers({2})}), graph.integers({shape.vocab})},
                                      {int_attr("axis", 0)});
  const std::string shaped = graph.cast("logits_f32", scores, dtype, DType::f32);
  graph.node("Reshape", "logits", {shaped, dims});
  WireWriter model, opset;
  opset.integer(2, 17);
  model.integer(1, 8);
  model.text(2, "forebay synth");
  model.text(3, version_string());
  model.text(7, graph.finish("llama"));
  model.text(8, opset.bytes());
  return model.take();
}

}  // namespace forebay::tools
