// What a valid plan is, beyond what its types say. The reader applies it to untrusted bytes, the writer to what it is given; both linear in
// the plan's size. Invariants:
//  1. every index is in range, every name of a node, weight or source is not empty and unique, no name is above 64 KiB;
//  2. every value is defined once and before use; bodies form a tree below graph 0, no deeper than kMaxBodyDepth;
//  3. sizes are shape x dtype, computed with checked arithmetic;
//  4. the parts of a weight cover it in order without gaps; the parts of a chunk lie in order, 64-byte aligned, and do not overlap;
//  5. stored chunks lie one after the other, block-aligned, with less than a block between them.
#include "base/check.h"
#include "base/checked.h"
#include "base/printable.h"
#include "plan/plan_format.h"
#include "plan/plan_io.h"
#include "plan/plan_sections.h"

#include <unordered_set>

namespace forebay::plan {
namespace {

Status check_kernels(const Plan& plan) {
  std::unordered_set<std::string_view> kinds;
  for (const KernelSection& section : plan.kernels) {
    const std::string what = "kernel choices for '" + printable(section.device_kind) + "'";
    const bool plain = section.device_kind.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
    if (section.device_kind.empty() || section.device_kind.size() > 20 || !plain) {
      return invalid_plan(what + ": a device kind is 1 to 20 of a-z, 0-9 and _");
    }
    if (!kinds.insert(section.device_kind).second) return invalid_plan(what + " are there twice");
    std::unordered_set<std::uint64_t> places;
    for (const KernelChoice& choice : section.entries) {
      if (choice.graph >= plan.graphs.size() || choice.node >= plan.graphs[choice.graph].nodes.size()) {
        return invalid_plan(what + " name node " + std::to_string(choice.node) + " of graph " + std::to_string(choice.graph) +
                            ", which is not there");
      }
      if (choice.kernel.empty()) return invalid_plan(what + ": a choice without a kernel");
      if (!places.insert((std::uint64_t{choice.graph} << 32) | choice.node).second) {
        return invalid_plan(what + " name node '" + printable(plan.graphs[choice.graph].nodes[choice.node].name) + "' twice");
      }
    }
  }
  for (std::size_t i = 1; i < plan.kernels.size(); ++i) {
    if (plan.kernels[i].device_kind < plan.kernels[i - 1].device_kind)
      return invalid_plan("kernel sections are not in the order of device kinds");
  }
  return {};
}

Status check_embedded(const Plan& plan) {
  if (plan.embedded.empty()) {
    return plan.embedded_rehydrated ? invalid_plan("it claims rehydrated weights and holds none") : Status();
  }
  if (plan.embedded.size() != plan.chunks.size()) {
    return invalid_plan(std::to_string(plan.embedded.size()) + " stored chunks for " + std::to_string(plan.chunks.size()) + " chunks");
  }
  std::uint64_t end = plan.embedded[0].offset;
  for (std::size_t i = 0; i < plan.embedded.size(); ++i) {
    const StoredChunk& chunk = plan.embedded[i];
    const std::string what = "stored chunk " + std::to_string(i);
    if (chunk.stored_bytes > kMaxPlanChunkBytes) return invalid_plan(what + " states " + std::to_string(chunk.stored_bytes) + " bytes");
    if (chunk.codec == 0 && chunk.stored_bytes != plan.chunks[i].raw_bytes) {
      return invalid_plan(what + " is raw and states " + std::to_string(chunk.stored_bytes) + " bytes for " +
                          std::to_string(plan.chunks[i].raw_bytes));
    }
    if (chunk.offset != align_up(end, kBlockBytes)) {
      return invalid_plan(what + " starts at " + std::to_string(chunk.offset) + ", expected " + std::to_string(align_up(end, kBlockBytes)));
    }
    const auto next = checked_add(chunk.offset, chunk.stored_bytes);
    if (!next || *next > (std::uint64_t{1} << 62)) return invalid_plan(what + " ends beyond any file");
    end = *next;
  }
  return {};
}

Status check_info(const Plan& plan) {
  for (const std::string* text : {&plan.model_name, &plan.producer}) {
    if (text->size() > kMaxNameBytes) return invalid_plan("a text of " + std::to_string(text->size()) + " bytes");
  }
  std::unordered_set<std::string_view> names;
  for (const DimRange& range : plan.dim_ranges) {
    if (range.name.empty() || !names.insert(range.name).second)
      return invalid_plan("dimension range '" + printable(range.name) + "' has no name or is there twice");
    if (range.min < 0 || range.min > range.opt || range.opt > range.max) {
      return invalid_plan("dimension range '" + printable(range.name) + "': " + std::to_string(range.min) + ", " +
                          std::to_string(range.opt) + ", " + std::to_string(range.max) + " are not in order");
    }
  }
  return {};
}

}  // namespace

Status invalid_plan(std::string message) { return Status(Code::invalid_model, "plan: " + std::move(message)); }

Result<std::uint64_t> tensor_bytes(DType dtype, const Shape& shape, const std::string& what) {
  if (dtype == DType::none || static_cast<int>(dtype) >= kDTypeCount) return invalid_plan(what + " has no element type");
  const auto bytes = checked_bytes(dtype, shape.dims());
  if (!bytes) return invalid_plan(what + ": the shape " + shape.to_string() + " has no size");
  return *bytes;
}

Status validate_plan(const Plan& plan) {
  if (static_cast<std::uint8_t>(plan.refit) > 2) return invalid_plan("unknown refit mode");
  for (const std::size_t count : {plan.values.size(), plan.graphs.size(), plan.sources.size(), plan.weights.size(), plan.parts.size(),
                                  plan.chunks.size(), plan.constants.size()}) {
    if (count >= kConstantSlot) return invalid_plan("a table of " + std::to_string(count) + " entries");
  }
  FB_TRY(check_info(plan));
  FB_TRY(validate_weights(plan));
  FB_TRY(validate_graphs(plan));
  FB_TRY(check_kernels(plan));
  return check_embedded(plan);
}

}  // namespace forebay::plan
