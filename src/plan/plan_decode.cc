#include <bit>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/printable.h"
#include "plan/plan_format.h"
#include "plan/plan_sections.h"
#include "plan_wire/plan.pb.h"

namespace forebay::plan {
namespace {

constexpr std::uint32_t index_of(std::uint32_t reference) { return reference - 1; }  // 0 becomes kNone

template <typename Repeated>
std::vector<std::uint32_t> indices(const Repeated& references) {
  std::vector<std::uint32_t> out;
  out.reserve(static_cast<std::size_t>(references.size()));
  for (const std::uint32_t reference : references) out.push_back(index_of(reference));
  return out;
}

std::string at(const char* what, std::size_t index) { return std::string(what) + " " + std::to_string(index); }

template <typename Enum>
Status get_enum(std::uint32_t wire, std::uint32_t count, const std::string& what, Enum& out) {
  if (wire >= count) return invalid_plan(what + ": unknown value " + std::to_string(wire));
  out = static_cast<Enum>(wire);
  return {};
}
Status get_dtype(std::uint32_t wire, const std::string& what, DType& out) {
  return get_enum(wire, static_cast<std::uint32_t>(kDTypeCount), what + ": element type", out);
}
template <typename Repeated>
Status get_shape(const Repeated& dims, const std::string& what, Shape& out) {
  if (dims.size() > kMaxRank) return invalid_plan(what + ": rank " + std::to_string(dims.size()) + ", at most " + std::to_string(kMaxRank));
  for (const std::int64_t dim : dims) out.push_back(dim);
  return {};
}

template <typename Repeated>
Status get_attributes(const Repeated& wire, const std::string& what, std::vector<Attribute>& out) {
  out.reserve(static_cast<std::size_t>(wire.size()));
  for (const plan_wire::Attribute& one : wire) {
    Attribute attribute{one.name(), {}};
    switch (one.value_case()) {
      case plan_wire::Attribute::kInteger: attribute.value = std::int64_t{one.integer()}; break;
      case plan_wire::Attribute::kFloatBits: attribute.value = std::bit_cast<float>(std::uint32_t{one.float_bits()}); break;
      case plan_wire::Attribute::kText: attribute.value = one.text(); break;
      case plan_wire::Attribute::kIntegers:
        attribute.value = std::vector<std::int64_t>(one.integers().values().begin(), one.integers().values().end());
        break;
      case plan_wire::Attribute::kFloats: {
        std::vector<float> values;
        for (const std::uint32_t bits : one.floats().bits()) values.push_back(std::bit_cast<float>(bits));
        attribute.value = std::move(values);
        break;
      }
      case plan_wire::Attribute::kTexts:
        attribute.value = std::vector<std::string>(one.texts().values().begin(), one.texts().values().end());
        break;
      case plan_wire::Attribute::kTensor: attribute.value = TensorRef{index_of(one.tensor())}; break;
      case plan_wire::Attribute::kBody: attribute.value = BodyRef{index_of(one.body())}; break;
      case plan_wire::Attribute::VALUE_NOT_SET: return invalid_plan(what + ": attribute '" + printable(one.name()) + "' has no value");
    }
    out.push_back(std::move(attribute));
  }
  return {};
}

Status get_graph(const plan_wire::Graph& wire, const std::string& what, Graph& graph) {
  graph.name = wire.name();
  graph.inputs = indices(wire.inputs());
  graph.outputs = indices(wire.outputs());
  graph.nodes.resize(static_cast<std::size_t>(wire.nodes_size()));
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const plan_wire::Node& from = wire.nodes(static_cast<int>(i));
    Node& node = graph.nodes[i];
    node.name = from.name();
    node.domain = from.domain();
    node.op = from.op();
    node.version = from.version();
    node.inputs = indices(from.inputs());
    node.outputs = indices(from.outputs());
    FB_TRY(get_attributes(from.attributes(), what + ", " + at("node", i), node.attributes));
    node.fused_from.assign(from.fused_from().begin(), from.fused_from().end());
  }
  return {};
}

Status get_values(const plan_wire::GraphSection& wire, Plan& plan) {
  plan.values.resize(static_cast<std::size_t>(wire.values_size()));
  for (std::size_t i = 0; i < plan.values.size(); ++i) {
    const plan_wire::Value& from = wire.values(static_cast<int>(i));
    Value& value = plan.values[i];
    value.name = from.name();
    FB_TRY(get_dtype(from.dtype(), at("value", i), value.dtype));
    value.has_rank = !from.unranked();
    value.dims.reserve(static_cast<std::size_t>(from.dims_size()));
    for (const plan_wire::Dim& dim : from.dims()) value.dims.push_back(Dim{dim.size(), dim.name()});
    FB_TRY(get_enum(from.kind(), 4, at("value", i) + ": kind", value.kind));
    value.index = index_of(from.index());
  }
  return {};
}

Status get_graph_section(const plan_wire::GraphSection& wire, Plan& plan) {
  FB_TRY(get_values(wire, plan));
  plan.graphs.resize(static_cast<std::size_t>(wire.graphs_size()));
  for (std::size_t i = 0; i < plan.graphs.size(); ++i) {
    FB_TRY(get_graph(wire.graphs(static_cast<int>(i)), at("graph", i), plan.graphs[i]));
  }
  plan.constants.resize(static_cast<std::size_t>(wire.constants_size()));
  for (std::size_t i = 0; i < plan.constants.size(); ++i) {
    const plan_wire::Constant& from = wire.constants(static_cast<int>(i));
    Constant& constant = plan.constants[i];
    constant.value = index_of(from.value());
    FB_TRY(get_dtype(from.dtype(), at("constant", i), constant.dtype));
    FB_TRY(get_shape(from.dims(), at("constant", i), constant.shape));
    constant.kept = from.kept();
    constant.sources = indices(from.sources());
    constant.name = from.name();
  }
  for (const plan_wire::DimRange& from : wire.dim_ranges()) plan.dim_ranges.push_back({from.name(), from.min(), from.opt(), from.max()});
  for (const plan_wire::StatePair& from : wire.state_pairs()) plan.state_pairs.push_back({index_of(from.output()), index_of(from.input())});
  return {};
}

Status get_weight(const plan_wire::Weight& from, const std::string& what, Weight& weight) {
  weight.name = from.name();
  weight.value = index_of(from.value());
  FB_TRY(get_dtype(from.dtype(), what, weight.dtype));
  FB_TRY(get_shape(from.dims(), what, weight.shape));
  weight.bytes = from.bytes();
  weight.recipe.sources = indices(from.recipe().sources());
  weight.recipe.nodes.resize(static_cast<std::size_t>(from.recipe().nodes_size()));
  for (std::size_t i = 0; i < weight.recipe.nodes.size(); ++i) {
    const plan_wire::RecipeNode& wire = from.recipe().nodes(static_cast<int>(i));
    RecipeNode& node = weight.recipe.nodes[i];
    node.domain = wire.domain();
    node.op = wire.op();
    node.version = wire.version();
    node.inputs = indices(wire.inputs());
    node.output_count = wire.output_count();
    FB_TRY(get_attributes(wire.attributes(), what + ", " + at("recipe node", i), node.attributes));
  }
  FB_TRY(get_enum(from.consumption(), 5, what + ": consumption", weight.consumption));
  weight.gather_only = from.gather_only();
  weight.use_count = from.use_count();
  weight.in_body = from.in_body();
  weight.first_part = from.first_part();
  weight.part_count = from.part_count();
  weight.quant_values = index_of(from.quant_values());
  weight.quant_scales = index_of(from.quant_scales());
  weight.quant_zero_points = index_of(from.quant_zero_points());
  weight.quant_axis = from.quant_axis();
  weight.quant_block = from.quant_block();
  return {};
}

Status get_weight_section(const plan_wire::WeightSection& wire, Plan& plan) {
  FB_TRY(get_enum(wire.refit_mode(), 3, "refit mode", plan.refit));
  plan.slab_bytes = wire.slab_bytes();
  plan.sources.resize(static_cast<std::size_t>(wire.sources_size()));
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    const plan_wire::Source& from = wire.sources(static_cast<int>(i));
    Source& source = plan.sources[i];
    source.name = from.name();
    FB_TRY(get_dtype(from.dtype(), at("source", i), source.dtype));
    FB_TRY(get_shape(from.dims(), at("source", i), source.shape));
    source.has_sha256 = !from.sha256().empty();
    if (!source.has_sha256) continue;
    if (from.sha256().size() != source.sha256.size()) return invalid_plan(at("source", i) + ": a SHA-256 of the wrong length");
    std::memcpy(source.sha256.data(), from.sha256().data(), source.sha256.size());
  }
  plan.weights.resize(static_cast<std::size_t>(wire.weights_size()));
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    FB_TRY(get_weight(wire.weights(static_cast<int>(i)), at("weight", i), plan.weights[i]));
  }
  return {};
}

Status get_info_section(const plan_wire::InfoSection& wire, Plan& plan) {
  plan.model_name = wire.model_name();
  plan.producer = wire.producer();
  for (const plan_wire::Opset& from : wire.opsets()) plan.opsets.emplace_back(from.domain(), from.version());
  for (const plan_wire::Numeric& from : wire.numerics()) plan.numerics.emplace_back(from.key(), from.value());
  plan.embedded_rehydrated = wire.rehydrated();
  return {};
}

Status get_kernel_section(const plan_wire::KernelSection& wire, const std::string& name, Plan& plan) {
  if (name != "kernels." + wire.device_kind()) return invalid_plan("section '" + name + "' is for another device kind");
  KernelSection kernels;
  kernels.device_kind = wire.device_kind();
  kernels.made_by = wire.made_by();
  kernels.entries.reserve(static_cast<std::size_t>(wire.entries_size()));
  for (const plan_wire::KernelChoice& from : wire.entries()) {
    kernels.entries.push_back({from.graph(), from.node(), from.kernel(), from.parameters()});
  }
  plan.kernels.push_back(std::move(kernels));
  return {};
}

template <typename Message>
Result<Message> parse_message(const SectionView& section) {
  if (section.bytes.size() > kMaxMessageBytes) {
    return invalid_plan("section '" + section.name + "' has " + std::to_string(section.bytes.size()) + " bytes; at most " +
                        std::to_string(kMaxMessageBytes) + " are accepted");
  }
  Message message;
  if (!message.ParseFromArray(section.bytes.data(), static_cast<int>(section.bytes.size()))) {
    return invalid_plan("section '" + section.name + "' is not a well-formed message");
  }
  return message;
}

// Calls use(record) for each record of a fixed-width table.
template <typename Record, typename Use>
Status each_record(const SectionView& section, Use use) {
  if (section.bytes.size() % sizeof(Record) != 0 || section.bytes.size() / sizeof(Record) >= kNone) {
    return invalid_plan("section '" + section.name + "': " + std::to_string(section.bytes.size()) +
                        " bytes are not a whole number of records of " + std::to_string(sizeof(Record)));
  }
  for (std::size_t offset = 0; offset < section.bytes.size(); offset += sizeof(Record)) {
    Record record;
    std::memcpy(&record, section.bytes.data() + offset, sizeof(Record));
    FB_TRY(use(record));
  }
  return {};
}

Status get_stored_chunk(const StoredChunkRecord& record, Plan& plan) {
  if (record.flags != 0 || record.reserved != 0 || record.table_offset != 0) {
    return invalid_plan(at("stored chunk", plan.embedded.size()) + ": a reserved field is not zero");
  }
  StoredChunk chunk;
  chunk.offset = record.offset;
  chunk.stored_bytes = record.stored_bytes;
  chunk.codec = record.codec;
  chunk.codec_version = record.codec_version;
  chunk.stored_digest = {record.stored_low, record.stored_high};
  chunk.raw_digest = {record.raw_low, record.raw_high};
  plan.embedded.push_back(chunk);
  return {};
}

Status get_section(const SectionView& section, Plan& plan) {
  switch (section.id) {
    case kSectionGraph: {
      FB_ASSIGN(const auto message, parse_message<plan_wire::GraphSection>(section));
      return get_graph_section(message, plan);
    }
    case kSectionWeights: {
      FB_ASSIGN(const auto message, parse_message<plan_wire::WeightSection>(section));
      return get_weight_section(message, plan);
    }
    case kSectionInfo: {
      FB_ASSIGN(const auto message, parse_message<plan_wire::InfoSection>(section));
      return get_info_section(message, plan);
    }
    case kSectionKernels: {
      FB_ASSIGN(const auto message, parse_message<plan_wire::KernelSection>(section));
      return get_kernel_section(message, section.name, plan);
    }
    case kSectionParts:
      plan.parts.reserve(section.bytes.size() / sizeof(PartRecord));
      return each_record<PartRecord>(section, [&](const PartRecord& r) {
        plan.parts.push_back({r.weight, r.chunk, r.row_begin, r.row_count, r.offset_in_weight, r.offset_in_chunk, r.bytes});
        return Status();
      });
    case kSectionChunkParts:
      plan.chunk_parts.reserve(section.bytes.size() / sizeof(std::uint32_t));
      return each_record<std::uint32_t>(section, [&](std::uint32_t part) {
        plan.chunk_parts.push_back(part);
        return Status();
      });
    case kSectionChunks:
      plan.chunks.reserve(section.bytes.size() / sizeof(ChunkRecord));
      return each_record<ChunkRecord>(section, [&](const ChunkRecord& r) {
        plan.chunks.push_back({r.first_part, r.part_count, r.raw_bytes});
        return Status();
      });
    case kSectionStoredChunks:
      return each_record<StoredChunkRecord>(section, [&](const StoredChunkRecord& r) { return get_stored_chunk(r, plan); });
    default: return {};  // constant_data needs the graph section first
  }
}

// One constant after the other, no gaps; sizes come from the constants' shapes.
Status get_constant_data(std::span<const std::byte> data, Plan& plan) {
  std::size_t used = 0;
  for (std::size_t i = 0; i < plan.constants.size(); ++i) {
    Constant& constant = plan.constants[i];
    FB_ASSIGN(const std::uint64_t bytes, tensor_bytes(constant.dtype, constant.shape, at("constant", i)));
    if (bytes > data.size() - used) {
      return invalid_plan(at("constant", i) + " wants " + std::to_string(bytes) + " bytes, " + std::to_string(data.size() - used) +
                          " are left");
    }
    constant.data.assign(data.begin() + static_cast<std::ptrdiff_t>(used), data.begin() + static_cast<std::ptrdiff_t>(used + bytes));
    used += bytes;
  }
  if (used != data.size()) return invalid_plan(std::to_string(data.size() - used) + " bytes of constant data belong to no constant");
  return {};
}

Status decode_all(std::span<const SectionView> sections, Plan& plan) {
  std::span<const std::byte> constant_data;
  bool present[kSectionKernels + 1] = {};
  for (const SectionView& section : sections) {
    if (section.id == kSectionConstantData) constant_data = section.bytes;
    if (section.id <= kSectionKernels) present[section.id] = true;
    FB_TRY(get_section(section, plan));
  }
  for (std::uint32_t id = kSectionGraph; id <= kSectionInfo; ++id) {
    if (!present[id]) return invalid_plan(std::string("section '") + known_section_name(id) + "' is missing");
  }
  return get_constant_data(constant_data, plan);
}

}  // namespace

Status decode_sections(std::span<const SectionView> sections, Plan& plan) {
  try {  // protobuf and containers throw when memory is short
    return decode_all(sections, plan);
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "no memory for the plan's structures");
  }
}

}  // namespace forebay::plan
