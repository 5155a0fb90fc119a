#include "plan/plan_data.h"

namespace forebay::plan {
namespace {

// A recipe is a small graph; shared slots are written out each time, so what is written is counted and cut.
void describe_slot(const Recipe& recipe, std::uint32_t slot, int& budget, std::string& text) {
  if (slot >= kConstantSlot || slot < recipe.sources.size()) return;  // absent, constant, or the source itself
  std::size_t first = recipe.sources.size();
  for (const RecipeNode& node : recipe.nodes) {
    if (slot >= first + node.output_count) {
      first += node.output_count;
      continue;
    }
    if (--budget < 0) {
      text += "..";
      return;
    }
    text += node.op;
    std::string inner;
    for (const std::uint32_t input : node.inputs) {
      std::string one;
      describe_slot(recipe, input, budget, one);
      if (one.empty()) continue;
      if (!inner.empty()) inner += ',';
      inner += one;
      if (budget < 0) break;
    }
    if (!inner.empty()) text += "(" + inner + ")";
    return;
  }
}

}  // namespace

std::string Recipe::describe() const {
  if (identity()) return "identity";
  std::size_t slots = sources.size();
  for (const RecipeNode& node : nodes) slots += node.output_count;
  std::string text;
  int budget = 32;
  describe_slot(*this, static_cast<std::uint32_t>(slots - 1), budget, text);
  return text;
}

std::uint64_t Plan::weight_bytes() const {
  std::uint64_t total = 0;
  for (const Weight& weight : weights) total += weight.bytes;
  return total;
}

}  // namespace forebay::plan
