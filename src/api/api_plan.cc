#include "base/check.h"
#include "forebay/plan.h"
#include "plan/plan_io.h"

namespace forebay {
namespace {

TensorInfo info_of(const plan::Value& value) {
  TensorInfo info;
  info.name = value.name;
  info.dtype = value.dtype;
  for (const plan::Dim& dim : value.dims) {
    info.dims.push_back(dim.size);
    info.dim_names.push_back(dim.name);
  }
  return info;
}

std::vector<TensorInfo> infos(const plan::Plan& plan, const std::vector<plan::ValueId>& ids) {
  std::vector<TensorInfo> out;
  for (const plan::ValueId id : ids) out.push_back(info_of(plan.values[id]));
  return out;
}

const char* consumption_name(plan::Consumption consumption) {
  switch (consumption) {
    case plan::Consumption::whole: return "whole";
    case plan::Consumption::by_output: return "by_output";
    case plan::Consumption::by_reduction: return "by_reduction";
    case plan::Consumption::row_gather: return "row_gather";
    case plan::Consumption::elementwise: return "elementwise";
  }
  return "whole";
}

}  // namespace

Result<Plan> Plan::load(const std::string& path) {
  Plan plan;
  plan.path_ = path;
  FB_ASSIGN(plan.plan_, plan::read_plan(posix_file_system(), path, nullptr));
  return plan;
}

std::vector<TensorInfo> Plan::inputs() const { return infos(*plan_, plan_->graphs[0].inputs); }
std::vector<TensorInfo> Plan::outputs() const { return infos(*plan_, plan_->graphs[0].outputs); }

std::vector<WeightInfo> Plan::weights() const {
  std::vector<WeightInfo> out;
  for (const plan::Weight& weight : plan_->weights) {
    WeightInfo info;
    info.name = weight.name;
    info.dtype = weight.dtype;
    info.shape = weight.shape;
    info.bytes = weight.bytes;
    info.recipe = weight.recipe.describe();
    for (const std::uint32_t source : weight.recipe.sources) info.closure.push_back(plan_->sources[source].name);
    info.consumption = consumption_name(weight.consumption);
    info.slabs = weight.part_count;
    info.uses = weight.use_count;
    out.push_back(std::move(info));
  }
  return out;
}

std::vector<std::pair<std::string, std::string>> Plan::state_pairs() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const plan::StatePair& pair : plan_->state_pairs) out.emplace_back(plan_->values[pair.output].name, plan_->values[pair.input].name);
  return out;
}

bool Plan::stripped() const { return plan_->stripped(); }
std::uint64_t Plan::weight_bytes() const { return plan_->weight_bytes(); }
std::string Plan::id() const { return to_hex(plan_->id); }

}  // namespace forebay
