#include "plan/sample_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "base/checked.h"

namespace forebay::test {
namespace {

using namespace forebay::plan;

ValueId add_value(Plan& plan, std::string name, DType dtype, std::vector<Dim> dims, ValueKind kind = ValueKind::intermediate) {
  Value value;
  value.name = std::move(name);
  value.dtype = dtype;
  value.dims = std::move(dims);
  value.kind = kind;
  plan.values.push_back(std::move(value));
  return static_cast<ValueId>(plan.values.size() - 1);
}

std::uint32_t add_source(Plan& plan, std::string name, DType dtype, Shape shape, bool digest) {
  Source source;
  source.name = std::move(name);
  source.dtype = dtype;
  source.shape = shape;
  source.has_sha256 = digest;
  if (digest) source.sha256 = sha256(std::as_bytes(std::span(source.name)));
  plan.sources.push_back(std::move(source));
  return static_cast<std::uint32_t>(plan.sources.size() - 1);
}

// With an identity recipe and without parts.
WeightId add_weight(Plan& plan, const std::string& name, DType dtype, Shape shape) {
  std::vector<Dim> dims;
  for (const std::int64_t dim : shape.dims()) dims.push_back({dim, ""});
  Weight weight;
  weight.name = name;
  weight.value = add_value(plan, name, dtype, std::move(dims), ValueKind::weight);
  weight.dtype = dtype;
  weight.shape = shape;
  weight.bytes = checked_bytes(dtype, shape.dims()).value();
  weight.recipe.sources = {add_source(plan, name, dtype, shape, plan.refit == RefitMode::identical)};
  plan.values[weight.value].index = static_cast<std::uint32_t>(plan.weights.size());
  plan.weights.push_back(std::move(weight));
  return static_cast<WeightId>(plan.weights.size() - 1);
}

std::uint32_t add_constant(Plan& plan, const std::string& name, std::vector<std::int64_t> values, bool as_value) {
  Constant constant;
  constant.name = name;
  constant.dtype = DType::i64;
  constant.shape = Shape{static_cast<std::int64_t>(values.size())};
  const auto bytes = std::as_bytes(std::span(values));
  constant.data.assign(bytes.begin(), bytes.end());
  if (as_value) {
    constant.value = add_value(plan, name, DType::i64, {{static_cast<std::int64_t>(values.size()), ""}}, ValueKind::constant);
    plan.values[constant.value].index = static_cast<std::uint32_t>(plan.constants.size());
  }
  plan.constants.push_back(std::move(constant));
  return static_cast<std::uint32_t>(plan.constants.size() - 1);
}

// Cuts every weight into slabs of at most slab_bytes; what is smaller than a quarter of it is packed. Parts are grouped by weight.
void lay_out(Plan& plan) {
  std::uint32_t pack = kNone;
  for (WeightId id = 0; id < plan.weights.size(); ++id) {
    Weight& weight = plan.weights[id];
    weight.first_part = static_cast<std::uint32_t>(plan.parts.size());
    const std::uint64_t rows = weight.shape.rank() == 0 ? 1 : static_cast<std::uint64_t>(weight.shape[0]);
    const bool small = weight.bytes < plan.slab_bytes / 4;
    const std::uint64_t row_bytes = rows == 0 ? 0 : weight.bytes / rows;
    std::uint64_t step =
        small || row_bytes == 0 ? std::max<std::uint64_t>(rows, 1) : std::max<std::uint64_t>(plan.slab_bytes / row_bytes, 1);
    if (dtype_bits(weight.dtype) < 8) step = std::max<std::uint64_t>(rows, 1);
    std::uint64_t row = 0;
    do {
      Part part;
      part.weight = id;
      part.row_begin = row;
      part.row_count = std::min(step, rows - row);
      part.offset_in_weight = row * row_bytes;
      part.bytes = row + part.row_count == rows ? weight.bytes - part.offset_in_weight : part.row_count * row_bytes;
      if (small && pack != kNone) {
        part.chunk = pack;
      } else {
        part.chunk = static_cast<ChunkId>(plan.chunks.size());
        plan.chunks.emplace_back();
        if (small) pack = part.chunk;
      }
      Chunk& chunk = plan.chunks[part.chunk];
      part.offset_in_chunk = align_up(chunk.raw_bytes, 64);
      chunk.raw_bytes = part.offset_in_chunk + part.bytes;
      ++chunk.part_count;
      row += part.row_count;
      plan.parts.push_back(part);
    } while (row < rows);
    weight.part_count = static_cast<std::uint32_t>(plan.parts.size()) - weight.first_part;
  }
  for (ChunkId c = 0; c < plan.chunks.size(); ++c) {
    plan.chunks[c].first_part = static_cast<std::uint32_t>(plan.chunk_parts.size());
    for (std::uint32_t p = 0; p < plan.parts.size(); ++p) {
      if (plan.parts[p].chunk == c) plan.chunk_parts.push_back(p);
    }
  }
}

Node make_node(std::string name, std::string op, std::vector<ValueId> inputs, std::vector<ValueId> outputs) {
  Node node;
  node.name = std::move(name);
  node.op = std::move(op);
  node.version = 17;
  node.inputs = std::move(inputs);
  node.outputs = std::move(outputs);
  return node;
}

}  // namespace

Plan sample_plan() {
  Plan plan;
  plan.model_name = "sample.onnx";
  plan.producer = "forebay test";
  plan.slab_bytes = 64 * 1024;
  plan.opsets = {{"", 17}, {"ai.onnx.ml", 3}};
  plan.numerics = {{"slab", "65536"}, {"threads", "2"}};
  const ValueId x = add_value(plan, "x", DType::i64, {{-1, "batch"}}, ValueKind::input);
  const ValueId state_in = add_value(plan, "state_in", DType::f32, {{-1, "batch"}, {256, ""}}, ValueKind::input);
  const WeightId matrix = add_weight(plan, "matrix", DType::f32, Shape{96, 256});
  plan.weights[matrix].consumption = Consumption::by_output;
  plan.weights[matrix].use_count = 1;
  const WeightId table = add_weight(plan, "table", DType::f16, Shape{100, 512});
  plan.weights[table].consumption = Consumption::row_gather;
  plan.weights[table].gather_only = true;
  plan.weights[table].use_count = 2;
  const WeightId bias = add_weight(plan, "bias", DType::f32, Shape{7});
  const WeightId nibbles = add_weight(plan, "nibbles", DType::i4, Shape{3, 5});
  const WeightId empty = add_weight(plan, "empty", DType::f32, Shape{0, 4});
  const WeightId scalar = add_weight(plan, "scalar", DType::f32, Shape{});
  plan.weights[nibbles].quant_values = nibbles;
  plan.weights[nibbles].quant_scales = bias;
  plan.weights[nibbles].quant_axis = 1;
  plan.weights[nibbles].quant_block = 16;
  plan.weights[bias].in_body = true;
  const std::uint32_t shape = add_constant(plan, "shape", {-1, 256}, true);
  const std::uint32_t perm = add_constant(plan, "perm", {1, 0}, false);
  plan.constants[shape].kept = true;
  plan.constants[shape].sources = {add_source(plan, "shape", DType::i64, Shape{2}, true)};
  // bias = Mul(gamma, Div(one, var)), with a constant.
  Recipe& recipe = plan.weights[bias].recipe;
  recipe.sources.push_back(add_source(plan, "var", DType::f32, Shape{7}, false));
  recipe.nodes.push_back({"", "Div", 14, {0, 1}, 1, {}});
  recipe.nodes.push_back({"", "Mul", 14, {2, kNone, kConstantSlot + perm}, 1, {{"axis", std::int64_t{-1}}}});

  const ValueId rows = add_value(plan, "rows", DType::f16, {{-1, "batch"}, {512, ""}});
  const ValueId wide = add_value(plan, "wide", DType::f32, {{-1, "batch"}, {96, ""}});
  const ValueId flag = add_value(plan, "flag", DType::boolean, {});
  const ValueId branch = add_value(plan, "branch", DType::f32, {});
  plan.values[branch].has_rank = false;
  const ValueId state_out = add_value(plan, "state_out", DType::f32, {{-1, "batch"}, {256, ""}});
  const ValueId inner = add_value(plan, "inner", DType::f32, {});
  const ValueId body_in = add_value(plan, "body_in", DType::f32, {{-1, ""}});
  Graph main{"main", {x, state_in}, {branch, state_out}, {}};
  main.nodes.push_back(make_node("gather", "Gather", {plan.weights[table].value, x}, {rows}));
  main.nodes.back().attributes = {{"axis", std::int64_t{0}}};
  main.nodes.push_back(make_node("product", "MatMul", {state_in, plan.weights[matrix].value, kNone}, {wide, kNone}));
  main.nodes.back().domain = "forebay";
  main.nodes.back().fused_from = {"MatMul_0", "Add_1"};
  main.nodes.back().attributes = {{"alpha", 0.1f},
                                  {"nan", std::numeric_limits<float>::quiet_NaN()},
                                  {"mode", std::string("a\0b\xff", 4)},
                                  {"pads", std::vector<std::int64_t>{0, -1, std::numeric_limits<std::int64_t>::min()}},
                                  {"scales", std::vector<float>{1.0f, -0.0f}},
                                  {"names", std::vector<std::string>{"", "two"}},
                                  {"none", std::vector<std::int64_t>{}},
                                  {"value", TensorRef{perm}}};
  main.nodes.push_back(make_node("state", "Reshape", {state_in, plan.constants[shape].value}, {state_out}));
  main.nodes.push_back(make_node("test", "IsInf", {wide}, {flag}));
  main.nodes.push_back(make_node("if", "If", {flag}, {branch}));
  main.nodes.back().attributes = {{"then_branch", BodyRef{1}}, {"else_branch", BodyRef{2}}};
  plan.graphs.push_back(std::move(main));
  Graph then_body{"then", {}, {inner}, {}};
  then_body.nodes.push_back(make_node("add", "Add", {wide, plan.weights[bias].value}, {inner}));
  plan.graphs.push_back(std::move(then_body));
  plan.graphs.push_back(Graph{"else", {body_in}, {plan.weights[scalar].value, body_in, wide}, {}});
  plan.dim_ranges = {{"batch", 1, 4, 16}};
  plan.state_pairs = {{state_out, state_in}};
  plan.kernels = {{"cpu", "heuristic", {{0, 1, "cpu.gemv256", "threads=2"}, {1, 0, "cpu.add", ""}}}, {"cuda", "cublas 13", {}}};
  lay_out(plan);
  static_cast<void>(empty);
  return plan;
}

Plan random_plan(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t n) { return random() % n; };
  Plan plan;
  plan.model_name = "random" + std::to_string(seed);
  plan.refit = static_cast<RefitMode>(below(3));
  plan.slab_bytes = std::uint64_t{1024} << below(4);
  const std::size_t weights = below(12);
  for (std::size_t i = 0; i < weights; ++i) {
    static constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16, DType::f64, DType::i8, DType::u4, DType::i2, DType::boolean};
    Shape shape;
    for (std::size_t axis = below(4); axis-- > 0;) shape.push_back(static_cast<std::int64_t>(below(24)));
    const WeightId id = add_weight(plan, "w" + std::to_string(i), kTypes[below(std::size(kTypes))], shape);
    plan.weights[id].gather_only = shape.rank() != 0 && below(3) == 0;
    plan.weights[id].consumption = static_cast<Consumption>(below(5));
    plan.weights[id].use_count = static_cast<std::uint32_t>(below(5));
  }
  std::vector<ValueId> known;
  Graph main;
  for (std::size_t i = 0; i < 1 + below(3); ++i) {
    known.push_back(add_value(plan, "in" + std::to_string(i), DType::f32, {{-1, "n" + std::to_string(below(2))}}, ValueKind::input));
    main.inputs.push_back(known.back());
  }
  for (const Weight& weight : plan.weights) known.push_back(weight.value);
  for (std::size_t i = 0; i < below(4); ++i) {
    add_constant(plan, "c" + std::to_string(i), std::vector<std::int64_t>(below(5), static_cast<std::int64_t>(random())), below(2) == 0);
    if (plan.constants.back().value != kNone) known.push_back(plan.constants.back().value);
  }
  const std::size_t nodes = 1 + below(30);
  for (std::size_t i = 0; i < nodes; ++i) {
    Node node = make_node("n" + std::to_string(i), "Op" + std::to_string(below(5)), {}, {});
    for (std::size_t k = below(4); k-- > 0;) node.inputs.push_back(below(8) == 0 ? kNone : known[below(known.size())]);
    for (std::size_t k = 0; k < below(3); ++k) node.attributes.push_back({"a" + std::to_string(k), static_cast<std::int64_t>(random())});
    if (below(6) == 0) {
      const ValueId inner = add_value(plan, "inner" + std::to_string(i), DType::f32, {});
      Graph body{"body", {}, {inner}, {make_node("b" + std::to_string(i), "Op", {known[below(known.size())]}, {inner})}};
      if (plan.graphs.empty()) plan.graphs.emplace_back();
      plan.graphs.push_back(std::move(body));
      node.attributes.push_back({"body", BodyRef{static_cast<std::uint32_t>(plan.graphs.size() - 1)}});
    }
    const ValueId out = add_value(plan, "v" + std::to_string(i), DType::f32, {});
    node.outputs = {out};
    known.push_back(out);
    main.nodes.push_back(std::move(node));
  }
  main.outputs = {main.nodes.back().outputs[0]};
  if (plan.graphs.empty()) plan.graphs.emplace_back();
  plan.graphs[0] = std::move(main);
  lay_out(plan);
  return plan;
}

Plan tiny_plan() {
  Plan plan;
  plan.slab_bytes = 65'536;
  plan.graphs.resize(1);
  plan.values.resize(1);
  plan.values[0] = {"w", DType::u8, true, {{200, ""}}, ValueKind::weight, 0};
  plan.sources.push_back({"w", DType::u8, Shape{200}, false, {}});
  Weight weight;
  weight.name = "w";
  weight.value = 0;
  weight.dtype = DType::u8;
  weight.shape = Shape{200};
  weight.bytes = 200;
  weight.recipe.sources = {0};
  weight.part_count = 1;
  weight.gather_only = true;
  plan.weights.push_back(weight);
  plan.parts.push_back({0, 0, 0, 200, 0, 0, 200});
  plan.chunk_parts = {0};
  plan.chunks.push_back({0, 1, 200});
  return plan;
}

std::vector<std::byte> sample_chunk(const Plan& plan, ChunkId chunk, std::uint64_t seed) {
  std::vector<std::byte> raw(plan.chunks[chunk].raw_bytes);
  const Chunk& layout = plan.chunks[chunk];
  for (std::uint32_t i = layout.first_part; i < layout.first_part + layout.part_count; ++i) {
    const Part& part = plan.parts[plan.chunk_parts[i]];
    std::mt19937_64 random(seed * 1'000'003 + part.weight * 977 + part.offset_in_weight);
    // Few distinct values, so that zstd gains.
    for (std::uint64_t b = 0; b < part.bytes; ++b) raw[part.offset_in_chunk + b] = static_cast<std::byte>(random() % 7);
  }
  return raw;
}

}  // namespace forebay::test
