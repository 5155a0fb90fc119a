#include "refit/plan_maker.h"

#include <cstring>

#include <gtest/gtest.h>

#include "base/checked.h"
#include "plan/plan_io.h"
#include "support/status_test.h"

namespace forebay::test {

PlanMaker::PlanMaker(plan::RefitMode mode) {
  plan_.model_name = "model.onnx";
  plan_.producer = "forebay test";
  plan_.refit = mode;
  plan_.slab_bytes = 64 * 1024;
  plan_.opsets = {{"", 13}};
  plan_.graphs.emplace_back();
  plan_.graphs[0].name = "main";
}

std::uint32_t PlanMaker::find_source(const std::string& name) const {
  for (std::uint32_t i = 0; i < plan_.sources.size(); ++i)
    if (plan_.sources[i].name == name) return i;
  return plan::kNone;
}

std::uint32_t PlanMaker::source(const std::string& name, DType dtype, Shape shape) {
  if (const std::uint32_t known = find_source(name); known != plan::kNone) return known;
  plan::Source source;
  source.name = name;
  source.dtype = dtype;
  source.shape = shape;
  plan_.sources.push_back(std::move(source));
  return static_cast<std::uint32_t>(plan_.sources.size() - 1);
}

void PlanMaker::source_digest(const std::string& name, const HostTensor& tensor) {
  plan::Source& source = plan_.sources.at(find_source(name));
  source.has_sha256 = true;
  source.sha256 = sha256({tensor.data(), static_cast<std::size_t>(tensor.bytes())});
}

std::uint32_t PlanMaker::constant(const HostTensor& tensor) {
  plan::Constant constant;
  constant.dtype = tensor.dtype();
  constant.shape = tensor.shape();
  constant.data.assign(tensor.data(), tensor.data() + tensor.bytes());
  constant.name = "constant_" + std::to_string(plan_.constants.size());
  plan_.constants.push_back(std::move(constant));
  return static_cast<std::uint32_t>(plan_.constants.size() - 1);
}

void PlanMaker::kept(const std::string& source_name, const HostTensor& tensor) {
  const std::uint32_t index = constant(tensor), from = source(source_name, tensor.dtype(), tensor.shape());
  source_digest(source_name, tensor);
  plan_.constants[index].kept = true;
  plan_.constants[index].sources = {from};
}

void PlanMaker::weight(WeightSpec spec) {
  const auto id = static_cast<plan::WeightId>(plan_.weights.size());
  plan::Weight weight;
  weight.name = spec.name;
  weight.dtype = spec.dtype;
  weight.shape = spec.shape;
  weight.bytes = dtype_bytes(spec.dtype, spec.shape.elements()).value();
  weight.gather_only = spec.gather_only;
  weight.consumption = spec.gather_only      ? plan::Consumption::row_gather
                       : spec.slab_rows != 0 ? plan::Consumption::by_output
                                             : plan::Consumption::whole;
  weight.use_count = 1;
  if (spec.sources.empty()) weight.recipe.sources = {source(spec.name, spec.dtype, spec.shape)};
  for (const std::string& name : spec.sources) weight.recipe.sources.push_back(find_source(name));
  weight.recipe.nodes = std::move(spec.nodes);
  weight.value = static_cast<plan::ValueId>(plan_.values.size());
  plan::Value value;
  value.name = spec.name;
  value.dtype = spec.dtype;
  value.kind = plan::ValueKind::weight;
  value.index = id;
  for (const std::int64_t dim : spec.shape.dims()) value.dims.push_back({dim, ""});
  plan_.values.push_back(std::move(value));

  const std::uint64_t rows = spec.shape.rank() == 0 ? 1 : static_cast<std::uint64_t>(spec.shape[0]);
  const std::uint64_t slab_rows = spec.slab_rows == 0 ? rows : spec.slab_rows;
  weight.first_part = static_cast<std::uint32_t>(plan_.parts.size());
  for (std::uint64_t row = 0; row < rows; row += slab_rows) {
    plan::Part part;
    part.weight = id;
    part.row_begin = row;
    part.row_count = std::min(slab_rows, rows - row);
    part.offset_in_weight = weight.bytes / rows * row;
    part.bytes = row + part.row_count == rows ? weight.bytes - part.offset_in_weight : weight.bytes / rows * part.row_count;
    if (!spec.packed || !open_pack_) {
      plan::Chunk chunk;
      chunk.first_part = static_cast<std::uint32_t>(plan_.chunk_parts.size());
      plan_.chunks.push_back(chunk);
    }
    plan::Chunk& chunk = plan_.chunks.back();
    part.chunk = static_cast<plan::ChunkId>(plan_.chunks.size() - 1);
    part.offset_in_chunk = chunk.part_count == 0 ? 0 : align_up(chunk.raw_bytes, 64);
    chunk.raw_bytes = part.offset_in_chunk + part.bytes;
    ++chunk.part_count;
    plan_.chunk_parts.push_back(static_cast<std::uint32_t>(plan_.parts.size()));
    plan_.parts.push_back(part);
    ++weight.part_count;
    open_pack_ = spec.packed;
  }
  plan_.weights.push_back(std::move(weight));
}

std::shared_ptr<const plan::Plan> PlanMaker::finish() {
  EXPECT_OK(plan::validate_plan(plan_));
  EXPECT_OK(plan::serialize_plan(plan_, {}));
  return std::make_shared<const plan::Plan>(plan_);
}

plan::RecipeNode recipe_node(const std::string& op, std::vector<std::uint32_t> inputs, std::vector<plan::Attribute> attributes,
                             int version) {
  plan::RecipeNode node;
  node.op = op;
  node.version = version;
  node.inputs = std::move(inputs);
  node.attributes = std::move(attributes);
  return node;
}

}  // namespace forebay::test
