#include <unordered_set>

#include "base/check.h"
#include "base/checked.h"
#include "base/printable.h"
#include "plan/plan_format.h"
#include "plan/plan_sections.h"

namespace forebay::plan {
namespace {

inline constexpr std::uint32_t kMaxRecipeOutputs = 1024;

std::string quoted(const Weight& weight) { return "weight '" + printable(weight.name) + "'"; }

Status check_sources(const Plan& plan) {
  std::unordered_set<std::string_view> names;
  for (const Source& source : plan.sources) {
    const std::string what = "source '" + printable(source.name) + "'";
    if (source.name.empty() || source.name.size() > kMaxNameBytes) return invalid_plan("a source without a name, or with one above 64 KiB");
    if (!names.insert(source.name).second) return invalid_plan(what + " is there twice");
    FB_TRY(tensor_bytes(source.dtype, source.shape, what).status());
    if (plan.refit == RefitMode::identical && !source.has_sha256)
      return invalid_plan(what + " has no SHA-256, and the plan is refit-identical");
  }
  return {};
}

Status check_constants(const Plan& plan) {
  for (std::size_t i = 0; i < plan.constants.size(); ++i) {
    const Constant& constant = plan.constants[i];
    const std::string what = "constant " + std::to_string(i) + " ('" + printable(constant.name) + "')";
    FB_ASSIGN(const std::uint64_t bytes, tensor_bytes(constant.dtype, constant.shape, what));
    if (bytes != constant.data.size()) {
      return invalid_plan(what + " holds " + std::to_string(constant.data.size()) + " bytes, its shape wants " + std::to_string(bytes));
    }
    if (constant.name.size() > kMaxNameBytes) return invalid_plan(what + ": the name is above 64 KiB");
    if (constant.value != kNone) {
      if (constant.value >= plan.values.size() || plan.values[constant.value].kind != ValueKind::constant ||
          plan.values[constant.value].index != i || plan.values[constant.value].dtype != constant.dtype) {
        return invalid_plan(what + " and its value do not fit");
      }
    }
    if (!constant.kept && !constant.sources.empty() && (constant.sources.size() != 1 || constant.value != kNone))
      return invalid_plan(what + " is the default of a source and of something else");
    for (const std::uint32_t source : constant.sources) {
      if (source >= plan.sources.size()) return invalid_plan(what + " names source " + std::to_string(source));
      if (constant.kept && !plan.sources[source].has_sha256)
        return invalid_plan(what + " keeps source '" + printable(plan.sources[source].name) + "', which has no SHA-256");
    }
  }
  return {};
}

Status check_recipe(const Plan& plan, const Weight& weight) {
  const std::string what = quoted(weight);
  const Recipe& recipe = weight.recipe;
  for (const std::uint32_t source : recipe.sources) {
    if (source >= plan.sources.size()) return invalid_plan(what + " names source " + std::to_string(source));
  }
  if (recipe.identity()) {
    if (recipe.sources.empty() && plan.refit == RefitMode::none) return {};
    if (recipe.sources.size() != 1)
      return invalid_plan(what + ": an identity recipe has one source, not " + std::to_string(recipe.sources.size()));
    const Source& source = plan.sources[recipe.sources[0]];
    FB_ASSIGN(const std::uint64_t bytes, tensor_bytes(source.dtype, source.shape, "source '" + printable(source.name) + "'"));
    if (source.dtype != weight.dtype || bytes != weight.bytes) {
      return invalid_plan(what + ": its source has another element type or size, and the recipe is identity");
    }
    return {};
  }
  std::uint64_t slots = recipe.sources.size();
  for (const RecipeNode& node : recipe.nodes) {
    const std::string where = what + ", recipe node " + printable(node.op);
    if (node.op.empty() || node.op.size() > kMaxNameBytes || node.domain.size() > kMaxNameBytes || node.version < 0) {
      return invalid_plan(where + " has no operator or version");
    }
    for (const std::uint32_t input : node.inputs) {
      if (input == kNone) continue;
      const bool constant = input >= kConstantSlot;
      if (constant ? input - kConstantSlot >= plan.constants.size() : input >= slots) {
        return invalid_plan(where + " reads " +
                            (constant ? "constant " + std::to_string(input - kConstantSlot) : "slot " + std::to_string(input)) +
                            ", which is not there yet");
      }
    }
    for (const Attribute& attribute : node.attributes) FB_TRY(validate_attribute(plan, attribute, false, where));
    if (node.output_count == 0 || node.output_count > kMaxRecipeOutputs) {
      return invalid_plan(where + " has " + std::to_string(node.output_count) + " outputs");
    }
    slots += node.output_count;
    if (slots >= kConstantSlot) return invalid_plan(what + ": the recipe has too many slots");
  }
  return {};
}

Status check_quantisation(const Plan& plan, const Weight& weight) {
  for (const WeightId other : {weight.quant_values, weight.quant_scales, weight.quant_zero_points}) {
    if (other != kNone && other >= plan.weights.size())
      return invalid_plan(quoted(weight) + ": its quantisation group names weight " + std::to_string(other));
  }
  if (weight.quant_axis < -kMaxRank || weight.quant_axis > kMaxRank || weight.quant_block < 0) {
    return invalid_plan(quoted(weight) + ": quantisation axis or block out of range");
  }
  return {};
}

// The parts of one weight: in order, on the outermost axis, without gaps.
Status check_parts(const Plan& plan, WeightId id) {
  const Weight& weight = plan.weights[id];
  const std::uint64_t rows = weight.shape.rank() == 0 ? 1 : static_cast<std::uint64_t>(weight.shape[0]);
  // Elements fit 63 bits: the weight's bytes were computed. An empty weight may have rows of any width.
  const std::int64_t row_elements = weight.bytes == 0 ? 0 : weight.shape.elements() / static_cast<std::int64_t>(rows);
  const auto bytes_before = [&](std::uint64_t row) {
    return dtype_bytes(weight.dtype, static_cast<std::int64_t>(row) * row_elements).value_or(0);
  };
  const auto whole_bytes = [&](std::uint64_t row) {
    return (static_cast<std::uint64_t>(row) * static_cast<std::uint64_t>(row_elements) *
            static_cast<std::uint64_t>(dtype_bits(weight.dtype))) %
               8 ==
           0;
  };
  std::uint64_t row = 0;
  for (std::uint32_t p = weight.first_part; p < weight.first_part + weight.part_count; ++p) {
    const Part& part = plan.parts[p];
    const std::string what = quoted(weight) + ", slab " + std::to_string(p - weight.first_part);
    if (part.weight != id) return invalid_plan(what + " belongs to another weight");
    if (part.row_begin != row) {
      return invalid_plan(what + (part.row_begin < row ? " overlaps the one before" : " leaves a gap") + ": it starts at row " +
                          std::to_string(part.row_begin) + ", expected " + std::to_string(row));
    }
    if (part.row_count > rows - row || (part.row_count == 0 && rows != 0))
      return invalid_plan(what + " has " + std::to_string(part.row_count) + " rows");
    row += part.row_count;
    if (row != rows && !whole_bytes(row)) return invalid_plan(what + " ends within a byte");
    const std::uint64_t begin = bytes_before(part.row_begin), end = bytes_before(row);
    if (part.offset_in_weight != begin || part.bytes != end - begin) {
      return invalid_plan(what + " states " + std::to_string(part.bytes) + " bytes at " + std::to_string(part.offset_in_weight) +
                          ", its rows are " + std::to_string(end - begin) + " at " + std::to_string(begin));
    }
    if (part.chunk >= plan.chunks.size()) return invalid_plan(what + " names chunk " + std::to_string(part.chunk));
    const std::uint64_t raw = plan.chunks[part.chunk].raw_bytes;
    if (part.offset_in_chunk % kPartAlign != 0 || !range_within(part.offset_in_chunk, part.bytes, raw)) {
      return invalid_plan(what + " lies at " + std::to_string(part.offset_in_chunk) + " of a chunk of " + std::to_string(raw) + " bytes");
    }
  }
  if (row != rows && !(weight.bytes == 0 && weight.part_count == 0)) {
    return invalid_plan(quoted(weight) + ": its slabs hold " + std::to_string(row) + " of " + std::to_string(rows) + " rows");
  }
  return {};
}

Status check_weight_value(const Plan& plan, WeightId id) {
  const Weight& weight = plan.weights[id];
  if (weight.value >= plan.values.size()) return invalid_plan(quoted(weight) + " has no value");
  const Value& value = plan.values[weight.value];
  bool fits = value.kind == ValueKind::weight && value.index == id && value.dtype == weight.dtype;
  if (value.has_rank) {
    fits = fits && value.dims.size() == static_cast<std::size_t>(weight.shape.rank());
    for (std::size_t axis = 0; fits && axis < value.dims.size(); ++axis) {
      fits = value.dims[axis].size == -1 || value.dims[axis].size == weight.shape[static_cast<int>(axis)];
    }
  }
  return fits ? Status() : invalid_plan(quoted(weight) + " and its value differ in kind, element type or shape");
}

Status check_weights(const Plan& plan) {
  std::unordered_set<std::string_view> names;
  std::uint64_t parts = 0, total = 0;
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    const Weight& weight = plan.weights[i];
    if (weight.name.empty() || weight.name.size() > kMaxNameBytes) return invalid_plan("a weight without a name, or with one above 64 KiB");
    if (!names.insert(weight.name).second) return invalid_plan(quoted(weight) + " is there twice");
    FB_ASSIGN(const std::uint64_t bytes, tensor_bytes(weight.dtype, weight.shape, quoted(weight)));
    if (bytes != weight.bytes) {
      return invalid_plan(quoted(weight) + " states " + std::to_string(weight.bytes) + " bytes, its shape wants " + std::to_string(bytes));
    }
    const auto sum = checked_add(total, bytes);
    if (!sum) return invalid_plan("the weights together have no size");
    total = *sum;
    if (static_cast<std::uint8_t>(weight.consumption) > 4) return invalid_plan(quoted(weight) + ": unknown consumption");
    FB_TRY(check_weight_value(plan, static_cast<WeightId>(i)));
    FB_TRY(check_recipe(plan, weight));
    FB_TRY(check_quantisation(plan, weight));
    if (weight.first_part != parts || weight.part_count > plan.parts.size() - parts) {
      return invalid_plan(quoted(weight) + " names slabs " + std::to_string(weight.first_part) + " and on, expected " +
                          std::to_string(parts));
    }
    parts += weight.part_count;
    FB_TRY(check_parts(plan, static_cast<WeightId>(i)));
  }
  if (parts != plan.parts.size()) return invalid_plan(std::to_string(plan.parts.size() - parts) + " slabs belong to no weight");
  return {};
}

// The parts of each chunk: in order, aligned, without overlap, with less than a block between them.
Status check_chunks(const Plan& plan) {
  if (plan.chunk_parts.size() != plan.parts.size()) return invalid_plan("the table of chunk parts does not fit the slabs");
  std::uint64_t cursor = 0, total = 0;
  for (std::size_t c = 0; c < plan.chunks.size(); ++c) {
    const Chunk& chunk = plan.chunks[c];
    const std::string what = "chunk " + std::to_string(c);
    if (chunk.raw_bytes > kMaxPlanChunkBytes) return invalid_plan(what + " has " + std::to_string(chunk.raw_bytes) + " bytes");
    if (chunk.first_part != cursor || chunk.part_count == 0 || chunk.part_count > plan.chunk_parts.size() - cursor) {
      return invalid_plan(what + " names parts that are not its own");
    }
    std::uint64_t end = 0;
    const Part* before = nullptr;
    for (std::uint64_t i = cursor; i < cursor + chunk.part_count; ++i) {
      const std::uint32_t p = plan.chunk_parts[i];
      if (p >= plan.parts.size() || plan.parts[p].chunk != c)
        return invalid_plan(what + " names slab " + std::to_string(p) + ", which lies elsewhere");
      const Part& part = plan.parts[p];
      if (part.offset_in_chunk < end || (before == &part)) {
        return invalid_plan(what + ": " + quoted(plan.weights[before->weight]) + " and " + quoted(plan.weights[part.weight]) + " overlap");
      }
      if (part.offset_in_chunk - end >= kBlockBytes) return invalid_plan(what + ": a gap before " + quoted(plan.weights[part.weight]));
      end = part.offset_in_chunk + part.bytes;
      before = &part;
    }
    if (chunk.raw_bytes < end || chunk.raw_bytes - end >= kBlockBytes) {
      return invalid_plan(what + " states " + std::to_string(chunk.raw_bytes) + " bytes, its parts end at " + std::to_string(end));
    }
    cursor += chunk.part_count;
    total += chunk.raw_bytes;  // at most 2^31 chunks of 2^32 bytes
  }
  if (cursor != plan.chunk_parts.size()) return invalid_plan("some slabs lie in no chunk");
  return total > (std::uint64_t{1} << 62) ? invalid_plan("the chunks together have no size") : Status();
}

// With the counts equal, a slab named twice means another is named never.
Status check_each_part_once(const Plan& plan) {
  std::vector<bool> seen(plan.parts.size(), false);
  for (const std::uint32_t p : plan.chunk_parts) {
    if (seen[p])
      return invalid_plan("a slab of " + quoted(plan.weights[plan.parts[p].weight]) + " is named twice by chunk " +
                          std::to_string(plan.parts[p].chunk));
    seen[p] = true;
  }
  return {};
}

}  // namespace

Status validate_weights(const Plan& plan) {
  FB_TRY(check_sources(plan));
  FB_TRY(check_constants(plan));
  FB_TRY(check_weights(plan));
  FB_TRY(check_chunks(plan));
  return check_each_part_once(plan);
}

}  // namespace forebay::plan
