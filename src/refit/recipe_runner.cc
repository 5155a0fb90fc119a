#include "refit/recipe_runner.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/printable.h"
#include "runtime/op.h"

namespace forebay::refit {
namespace {

constexpr std::uint64_t kWholeTranspose =
    64ull << 20;  // up to here a transposed source is read once, whole; above it is read strip by strip
constexpr std::uint64_t kPieceElements = 1ull << 20;    // of one sliced cast

bool is_view(std::string_view op) {
  return op == "Identity" || op == "Reshape" || op == "Squeeze" || op == "Unsqueeze" || op == "Flatten";
}

bool is_constant_slot(std::uint32_t slot) { return slot == plan::kNone || (slot & plan::kConstantSlot) != 0; }

// Whether `node` swaps the last two of `rank` axes and leaves the others.
bool swaps_last_axes(const plan::RecipeNode& node, int rank) {
  if (node.op != "Transpose" || rank < 2) return false;
  for (const plan::Attribute& attribute : node.attributes) {
    if (attribute.name != "perm") continue;
    const auto* perm = std::get_if<std::vector<std::int64_t>>(&attribute.value);
    if (perm == nullptr || static_cast<int>(perm->size()) != rank) return false;
    for (int axis = 0; axis < rank; ++axis) {
      const int wanted = axis == rank - 2 ? rank - 1 : axis == rank - 1 ? rank - 2 : axis;
      if ((*perm)[static_cast<std::size_t>(axis)] != wanted) return false;
    }
    return true;
  }
  return rank == 2;
}

HostTensor constant_tensor(const plan::Constant& constant) {
  HostTensor tensor(constant.dtype, constant.shape);
  if (tensor.bytes() != 0)
    std::memcpy(tensor.data(), constant.data.data(),
                static_cast<std::size_t>(std::min<std::uint64_t>(tensor.bytes(), constant.data.size())));
  return tensor;
}

Status bad_recipe(const plan::Weight& weight, std::string message) {
  return Status(Code::invalid_model, "the recipe of the weight " + std::move(message)).with_tensor(weight.name);
}

}  // namespace

RecipeRunner::RecipeRunner(const plan::Plan& plan, std::vector<ResolvedSource> sources, ThreadPool& pool)
    : plan_(&plan), sources_(std::move(sources)), pool_(&pool) {
  slicers_.reserve(plan.weights.size());
  for (const plan::Weight& weight : plan.weights) slicers_.push_back(slicer_of(weight));
}

RecipeRunner::Slicer RecipeRunner::slicer_of(const plan::Weight& weight) const {
  Slicer slicer;
  if (weight.recipe.sources.size() != 1) return slicer;
  const ResolvedSource& source = sources_[weight.recipe.sources[0]];
  if (source.tensor == nullptr || !source.view().sliceable()) return slicer;
  slicer.transpose = source.transpose;
  if (!weight.recipe.identity() && !sliceable_chain(weight, slicer)) return slicer;
  if (slicer.transpose && (!SourceView::can_transpose(*source.tensor) || source.tensor->bytes() <= kWholeTranspose)) return slicer;
  slicer.way = slicer.casts.empty() && !slicer.transpose ? Way::direct : Way::sliced;
  return slicer;
}

// A chain over one tensor in which element i of the result comes from element i of the source, after at most one leading transpose.
bool RecipeRunner::sliceable_chain(const plan::Weight& weight, Slicer& slicer) const {
  const ResolvedSource& source = sources_[weight.recipe.sources[0]];
  if (dtype_bits(source.tensor->dtype) < 8 || dtype_bits(weight.dtype) < 8) return false;
  for (std::uint32_t i = 0; i < weight.recipe.nodes.size(); ++i) {
    const plan::RecipeNode& node = weight.recipe.nodes[i];
    if (!node.domain.empty() || node.output_count != 1 || node.inputs.empty() || node.inputs[0] != i) return false;
    if (!std::all_of(node.inputs.begin() + 1, node.inputs.end(), is_constant_slot)) return false;
    if (node.op == "Cast") {
      slicer.casts.push_back(i);
    } else if (i == 0 && swaps_last_axes(node, source.tensor->shape.rank())) {
      slicer.transpose = !slicer.transpose;
    } else if (!is_view(node.op)) {
      return false;
    }
  }
  return true;
}

Status RecipeRunner::read(plan::WeightId id, std::uint64_t offset, std::span<std::byte> out) {
  const plan::Weight& weight = plan_->weights[id];
  const Slicer& slicer = slicers_[id];
  FB_CHECK(slicer.way != Way::whole);
  const SourceTensor& tensor = *sources_[weight.recipe.sources[0]].tensor;
  if (tensor.shape.elements() * dtype_bits(weight.dtype) != static_cast<std::int64_t>(weight.bytes) * 8 && dtype_bits(weight.dtype) >= 8)
    return bad_recipe(weight, "gives " + std::to_string(tensor.shape.elements()) + " elements, the plan has " + weight.shape.to_string());
  if (!slicer.casts.empty()) return read_cast(id, slicer, offset, out);
  if (tensor.bytes() != weight.bytes)
    return bad_recipe(weight, "gives " + std::to_string(tensor.bytes()) + " bytes, the plan has " + std::to_string(weight.bytes));
  bytes_read_ += out.size();
  return SourceView(tensor, slicer.transpose).read(offset, out);
}

Status RecipeRunner::read_cast(plan::WeightId id, const Slicer& slicer, std::uint64_t offset, std::span<std::byte> out) {
  const plan::Weight& weight = plan_->weights[id];
  const SourceTensor& tensor = *sources_[weight.recipe.sources[0]].tensor;
  const SourceView view(tensor, slicer.transpose);
  const auto from_bytes = static_cast<std::uint64_t>(dtype_bits(tensor.dtype) / 8),
             to_bytes = static_cast<std::uint64_t>(dtype_bits(weight.dtype) / 8);
  FB_CHECK(offset % to_bytes == 0 && out.size() % to_bytes == 0);
  for (std::uint64_t first = offset / to_bytes; !out.empty();) {
    const std::uint64_t count = std::min<std::uint64_t>(kPieceElements, out.size() / to_bytes);
    HostTensor piece(tensor.dtype, Shape{static_cast<std::int64_t>(count)});
    FB_TRY(view.read(first * from_bytes, {piece.data(), static_cast<std::size_t>(piece.bytes())}));
    bytes_read_ += piece.bytes();
    for (const std::uint32_t node : slicer.casts) {
      FB_ASSIGN(piece, run_cast(id, weight.recipe.nodes[node], piece, first));
    }
    if (piece.dtype() != weight.dtype || piece.bytes() != count * to_bytes)
      return bad_recipe(
          weight, "gives " + std::string(dtype_name(piece.dtype())) + ", the plan has " + std::string(dtype_name(weight.dtype)));
    std::memcpy(out.data(), piece.data(), static_cast<std::size_t>(piece.bytes()));
    out = out.subspan(static_cast<std::size_t>(piece.bytes()));
    first += count;
  }
  return {};
}

Result<HostTensor> RecipeRunner::run_cast(plan::WeightId id, const plan::RecipeNode& node, const HostTensor& input,
                                          std::uint64_t first_element) {
  const HostTensor* inputs[] = {&input};
  FB_ASSIGN(std::vector<HostTensor> outputs, run_node(plan_->weights[id], node, inputs));
  note_loss(id, input, outputs[0], first_element);
  return std::move(outputs[0]);
}

Result<std::vector<HostTensor>> RecipeRunner::run_node(const plan::Weight& weight, const plan::RecipeNode& node,
                                                       std::span<const HostTensor* const> inputs) {
  const NodeView view(weight.name, node.domain, node.op, node.version, node.attributes, *plan_, inputs.size(), node.output_count);
  auto outputs = evaluate_node(view, inputs, *pool_);
  if (!outputs.ok())
    return std::move(outputs).status().with_context("making the weight " + printable(weight.name)).with_tensor(weight.name);
  if (outputs->size() != node.output_count) return bad_recipe(weight, "has a node " + node.op + " with the wrong number of outputs");
  return outputs;
}

void RecipeRunner::note_loss(plan::WeightId id, const HostTensor& from, const HostTensor& to, std::uint64_t first_element) {
  const CastLoss loss = cast_loss(from, to);
  if (loss.overflow.count == 0 && loss.flush.count == 0) return;
  Loss& total = losses_[id];
  if (total.target.empty()) total.target = dtype_name(to.dtype());
  total.total.overflow.add(loss.overflow, first_element);
  total.total.flush.add(loss.flush, first_element);
}

Result<HostTensor> RecipeRunner::evaluate(plan::WeightId id) {
  const plan::Weight& weight = plan_->weights[id];
  const plan::Recipe& recipe = weight.recipe;
  losses_.erase(id);  // counted anew
  std::vector<std::optional<HostTensor>> slots(recipe.sources.size());
  const auto load = [&](std::uint32_t slot) -> Status {
    if (slots[slot].has_value()) return {};
    FB_ASSIGN(slots[slot], sources_[recipe.sources[slot]].view().load());
    bytes_read_ += slots[slot]->bytes();
    return {};
  };
  if (recipe.identity()) {
    if (slots.size() != 1) return bad_recipe(weight, "is empty");
    FB_TRY(load(0));
  }
  std::vector<std::size_t> last_use;  // by slot: the node after which it can go
  for (std::size_t n = 0; n < recipe.nodes.size(); ++n)
    for (const std::uint32_t slot : recipe.nodes[n].inputs) {
      if (is_constant_slot(slot)) continue;
      if (slot >= last_use.size()) last_use.resize(slot + 1, 0);
      last_use[slot] = n;
    }
  for (std::size_t n = 0; n < recipe.nodes.size(); ++n) {
    const plan::RecipeNode& node = recipe.nodes[n];
    std::vector<HostTensor> constants;
    constants.reserve(node.inputs.size());
    std::vector<const HostTensor*> inputs;
    for (const std::uint32_t slot : node.inputs) {
      if (slot == plan::kNone) {
        inputs.push_back(nullptr);
      } else if ((slot & plan::kConstantSlot) != 0) {
        const std::uint32_t index = slot & ~plan::kConstantSlot;
        if (index >= plan_->constants.size()) return bad_recipe(weight, "names a constant that the plan does not have");
        constants.push_back(constant_tensor(plan_->constants[index]));
        inputs.push_back(&constants.back());
      } else {
        if (slot >= slots.size()) return bad_recipe(weight, "uses a result before it is there");
        if (slot < recipe.sources.size()) FB_TRY(load(slot));
        if (!slots[slot].has_value()) return bad_recipe(weight, "uses a result that is gone");
        inputs.push_back(&*slots[slot]);
      }
    }
    FB_ASSIGN(std::vector<HostTensor> outputs, run_node(weight, node, inputs));
    if (node.op == "Cast" && node.domain.empty() && inputs[0] != nullptr) note_loss(id, *inputs[0], outputs[0], 0);
    for (const std::uint32_t slot : node.inputs)
      if (!is_constant_slot(slot) && last_use[slot] == n) slots[slot].reset();
    for (HostTensor& output : outputs) slots.emplace_back(std::move(output));
  }
  if (slots.empty() || !slots.back().has_value()) return bad_recipe(weight, "has no result");
  HostTensor result = std::move(*slots.back());
  if (result.dtype() != weight.dtype || result.bytes() != weight.bytes)
    return bad_recipe(weight, "gives " + std::string(dtype_name(result.dtype())) + " " + result.shape().to_string() + ", the plan has " +
                                  std::string(dtype_name(weight.dtype)) + " " + weight.shape.to_string());
  return result;
}

std::vector<Problem> RecipeRunner::losses(const std::vector<std::string>& allowed) const {
  std::vector<Problem> problems;
  for (const auto& [id, loss] : losses_) {
    const plan::Weight& weight = plan_->weights[id];
    const auto named = [&](const std::string& name) { return std::find(allowed.begin(), allowed.end(), name) != allowed.end(); };
    if (named(weight.name) || std::any_of(weight.recipe.sources.begin(), weight.recipe.sources.end(),
                                          [&](std::uint32_t s) { return named(plan_->sources[s].name); }))
      continue;
    const CastLoss& total = loss.total;
    Problem problem;
    problem.code = "inexact_cast";
    problem.tensor = weight.name;
    problem.message = "the cast to " + loss.target;
    if (total.overflow.count != 0)
      problem.message += " overflows for " + std::to_string(total.overflow.count) + " values, the first at element " +
                         std::to_string(total.overflow.first);
    if (total.overflow.count != 0 && total.flush.count != 0) problem.message += ", and";
    if (total.flush.count != 0)
      problem.message += " makes " + std::to_string(total.flush.count) + " small values zero, the first at element " +
                         std::to_string(total.flush.first);
    problem.hint = "build with a wider type, or allow it for this weight by name";
    problems.push_back(std::move(problem));
  }
  return problems;
}

}  // namespace forebay::refit
