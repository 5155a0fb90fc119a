// Plans for refit tests: sources, weights with recipes, slabs and packs, kept constants; no graph to run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan/plan_data.h"

namespace forebay::test {

struct WeightSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape = {};
  std::vector<std::string> sources = {};    // empty: one source of the weight's name, dtype and shape
  std::vector<plan::RecipeNode> nodes = {};
  std::uint64_t slab_rows = 0;              // 0: one slab
  bool packed = false;                      // shares a chunk with its packed neighbours
  bool gather_only = false;
};

class PlanMaker {
 public:
  explicit PlanMaker(plan::RefitMode mode = plan::RefitMode::all);
  // Sources that are not the weight's own must be there before it.
  std::uint32_t source(const std::string& name, DType dtype, Shape shape);
  void source_digest(const std::string& name, const HostTensor& tensor);
  std::uint32_t constant(const HostTensor& tensor);                           // for recipes: an index
  void kept(const std::string& source_name, const HostTensor& tensor);        // frozen from that source
  void weight(WeightSpec spec);
  // Validated, its id made by serialising it.
  std::shared_ptr<const plan::Plan> finish();
  plan::Plan& raw() { return plan_; }

 private:
  std::uint32_t find_source(const std::string& name) const;
  plan::Plan plan_;
  bool open_pack_ = false;
};

plan::RecipeNode recipe_node(const std::string& op, std::vector<std::uint32_t> inputs, std::vector<plan::Attribute> attributes = {},
                             int version = 13);
inline std::uint32_t constant_slot(std::uint32_t index) { return plan::kConstantSlot | index; }

}  // namespace forebay::test
