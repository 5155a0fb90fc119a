#include <bit>
#include <cstring>
#include <limits>
#include <new>

#include "base/check.h"
#include "plan/plan_format.h"
#include "plan/plan_sections.h"
#include "plan_wire/plan.pb.h"

namespace forebay::plan {
namespace {

// kNone becomes 0, which protobuf does not write.
constexpr std::uint32_t reference(std::uint32_t index) { return index + 1; }

template <typename Repeated, typename Range>
void put_references(Repeated* out, const Range& range) {
  out->Reserve(static_cast<int>(range.size()));
  for (const std::uint32_t index : range) out->Add(reference(index));
}
template <typename Repeated>
void put_dims(Repeated* out, const Shape& shape) {
  for (const std::int64_t dim : shape.dims()) out->Add(dim);
}

struct AttributeWriter {
  plan_wire::Attribute* out;
  void operator()(std::int64_t v) const { out->set_integer(v); }
  void operator()(float v) const { out->set_float_bits(std::bit_cast<std::uint32_t>(v)); }
  void operator()(const std::string& v) const { out->set_text(v); }
  void operator()(const std::vector<std::int64_t>& v) const {
    auto* list = out->mutable_integers();
    for (const std::int64_t one : v) list->add_values(one);
  }
  void operator()(const std::vector<float>& v) const {
    auto* list = out->mutable_floats();
    for (const float one : v) list->add_bits(std::bit_cast<std::uint32_t>(one));
  }
  void operator()(const std::vector<std::string>& v) const {
    auto* list = out->mutable_texts();
    for (const std::string& one : v) list->add_values(one);
  }
  void operator()(const TensorRef& v) const { out->set_tensor(reference(v.constant)); }
  void operator()(const BodyRef& v) const { out->set_body(reference(v.graph)); }
};

template <typename Message>
void put_attributes(Message* out, const std::vector<Attribute>& attributes) {
  for (const Attribute& attribute : attributes) {
    auto* wire = out->add_attributes();
    wire->set_name(attribute.name);
    std::visit(AttributeWriter{wire}, attribute.value);
  }
}

void put_graph(plan_wire::Graph* out, const Graph& graph) {
  out->set_name(graph.name);
  put_references(out->mutable_inputs(), graph.inputs);
  put_references(out->mutable_outputs(), graph.outputs);
  for (const Node& node : graph.nodes) {
    auto* wire = out->add_nodes();
    wire->set_name(node.name);
    wire->set_domain(node.domain);
    wire->set_op(node.op);
    wire->set_version(node.version);
    put_references(wire->mutable_inputs(), node.inputs);
    put_references(wire->mutable_outputs(), node.outputs);
    put_attributes(wire, node.attributes);
    for (const std::string& name : node.fused_from) wire->add_fused_from(name);
  }
}

plan_wire::GraphSection graph_section(const Plan& plan) {
  plan_wire::GraphSection section;
  for (const Value& value : plan.values) {
    auto* wire = section.add_values();
    wire->set_name(value.name);
    wire->set_dtype(static_cast<std::uint32_t>(value.dtype));
    wire->set_unranked(!value.has_rank);
    for (const Dim& dim : value.dims) {
      auto* wire_dim = wire->add_dims();
      wire_dim->set_size(dim.size);
      wire_dim->set_name(dim.name);
    }
    wire->set_kind(static_cast<std::uint32_t>(value.kind));
    wire->set_index(reference(value.index));
  }
  for (const Graph& graph : plan.graphs) put_graph(section.add_graphs(), graph);
  for (const Constant& constant : plan.constants) {
    auto* wire = section.add_constants();
    wire->set_value(reference(constant.value));
    wire->set_dtype(static_cast<std::uint32_t>(constant.dtype));
    put_dims(wire->mutable_dims(), constant.shape);
    wire->set_kept(constant.kept);
    put_references(wire->mutable_sources(), constant.sources);
    wire->set_name(constant.name);
  }
  for (const DimRange& range : plan.dim_ranges) {
    auto* wire = section.add_dim_ranges();
    wire->set_name(range.name);
    wire->set_min(range.min);
    wire->set_opt(range.opt);
    wire->set_max(range.max);
  }
  for (const StatePair& pair : plan.state_pairs) {
    auto* wire = section.add_state_pairs();
    wire->set_output(reference(pair.output));
    wire->set_input(reference(pair.input));
  }
  return section;
}

void put_weight(plan_wire::Weight* out, const Weight& weight) {
  out->set_name(weight.name);
  out->set_value(reference(weight.value));
  out->set_dtype(static_cast<std::uint32_t>(weight.dtype));
  put_dims(out->mutable_dims(), weight.shape);
  out->set_bytes(weight.bytes);
  auto* recipe = out->mutable_recipe();
  put_references(recipe->mutable_sources(), weight.recipe.sources);
  for (const RecipeNode& node : weight.recipe.nodes) {
    auto* wire = recipe->add_nodes();
    wire->set_domain(node.domain);
    wire->set_op(node.op);
    wire->set_version(node.version);
    put_references(wire->mutable_inputs(), node.inputs);
    wire->set_output_count(node.output_count);
    put_attributes(wire, node.attributes);
  }
  out->set_consumption(static_cast<std::uint32_t>(weight.consumption));
  out->set_gather_only(weight.gather_only);
  out->set_use_count(weight.use_count);
  out->set_in_body(weight.in_body);
  out->set_first_part(weight.first_part);
  out->set_part_count(weight.part_count);
  out->set_quant_values(reference(weight.quant_values));
  out->set_quant_scales(reference(weight.quant_scales));
  out->set_quant_zero_points(reference(weight.quant_zero_points));
  out->set_quant_axis(weight.quant_axis);
  out->set_quant_block(weight.quant_block);
}

plan_wire::WeightSection weight_section(const Plan& plan) {
  plan_wire::WeightSection section;
  section.set_refit_mode(static_cast<std::uint32_t>(plan.refit));
  section.set_slab_bytes(plan.slab_bytes);
  for (const Source& source : plan.sources) {
    auto* wire = section.add_sources();
    wire->set_name(source.name);
    wire->set_dtype(static_cast<std::uint32_t>(source.dtype));
    put_dims(wire->mutable_dims(), source.shape);
    if (source.has_sha256) wire->set_sha256(std::string(source.sha256.begin(), source.sha256.end()));
  }
  for (const Weight& weight : plan.weights) put_weight(section.add_weights(), weight);
  return section;
}

plan_wire::InfoSection info_section(const Plan& plan) {
  plan_wire::InfoSection section;
  section.set_model_name(plan.model_name);
  section.set_producer(plan.producer);
  for (const auto& [domain, version] : plan.opsets) {
    auto* wire = section.add_opsets();
    wire->set_domain(domain);
    wire->set_version(version);
  }
  for (const auto& [key, value] : plan.numerics) {
    auto* wire = section.add_numerics();
    wire->set_key(key);
    wire->set_value(value);
  }
  section.set_rehydrated(plan.embedded_rehydrated);
  return section;
}

plan_wire::KernelSection kernel_section(const KernelSection& kernels) {
  plan_wire::KernelSection section;
  section.set_device_kind(kernels.device_kind);
  section.set_made_by(kernels.made_by);
  for (const KernelChoice& choice : kernels.entries) {
    auto* wire = section.add_entries();
    wire->set_graph(choice.graph);
    wire->set_node(choice.node);
    wire->set_kernel(choice.kernel);
    wire->set_parameters(choice.parameters);
  }
  return section;
}

template <typename Record>
void put_record(std::string& out, const Record& record) {
  out.append(reinterpret_cast<const char*>(&record), sizeof(record));
}

std::string part_records(const Plan& plan) {
  std::string out;
  out.reserve(plan.parts.size() * sizeof(PartRecord));
  for (const Part& part : plan.parts) {
    put_record(
        out, PartRecord{part.weight, part.chunk, part.row_begin, part.row_count, part.offset_in_weight, part.offset_in_chunk, part.bytes});
  }
  return out;
}

std::string chunk_records(const Plan& plan) {
  std::string out;
  for (const Chunk& chunk : plan.chunks) put_record(out, ChunkRecord{chunk.first_part, chunk.part_count, chunk.raw_bytes});
  return out;
}

std::string stored_records(const Plan& plan) {
  std::string out;
  for (const StoredChunk& chunk : plan.embedded) {
    StoredChunkRecord record{};
    record.offset = chunk.offset;
    record.stored_bytes = chunk.stored_bytes;
    record.codec = chunk.codec;
    record.codec_version = chunk.codec_version;
    record.stored_low = chunk.stored_digest.low;
    record.stored_high = chunk.stored_digest.high;
    record.raw_low = chunk.raw_digest.low;
    record.raw_high = chunk.raw_digest.high;
    put_record(out, record);
  }
  return out;
}

template <typename Message>
Status add_message(std::vector<Section>& sections, std::uint32_t id, std::uint32_t flags, std::string name, const Message& message) {
  const std::uint64_t bytes = message.ByteSizeLong();
  if (bytes > kMaxMessageBytes) {
    return Status(Code::resource_exhausted, "the plan's " + name + " section would take " + std::to_string(bytes) + " bytes; at most " +
                                                std::to_string(kMaxMessageBytes) + " are possible");
  }
  Section section{id, flags, std::move(name), {}};
  if (!message.SerializeToString(&section.bytes))
    return Status(Code::internal, "protobuf refused to write the " + section.name + " section");
  sections.push_back(std::move(section));
  return {};
}

Status add_sections(const Plan& plan, std::vector<Section>& sections) {
  constexpr std::uint32_t both = kFlagCritical | kFlagStructural;
  FB_TRY(add_message(sections, kSectionGraph, both, "graph", graph_section(plan)));
  FB_TRY(add_message(sections, kSectionWeights, both, "weights", weight_section(plan)));
  sections.push_back({kSectionParts, both, "parts", part_records(plan)});
  std::string ids(plan.chunk_parts.size() * sizeof(std::uint32_t), '\0');
  if (!ids.empty()) std::memcpy(ids.data(), plan.chunk_parts.data(), ids.size());
  sections.push_back({kSectionChunkParts, both, "chunk_parts", std::move(ids)});
  sections.push_back({kSectionChunks, both, "chunks", chunk_records(plan)});
  std::string data;
  for (const Constant& constant : plan.constants) {
    data.append(reinterpret_cast<const char*>(constant.data.data()), constant.data.size());
  }
  sections.push_back({kSectionConstantData, both, "constant_data", std::move(data)});
  FB_TRY(add_message(sections, kSectionInfo, kFlagCritical, "info", info_section(plan)));
  if (!plan.embedded.empty()) sections.push_back({kSectionStoredChunks, kFlagCritical, "stored_chunks", stored_records(plan)});
  for (const KernelSection& kernels : plan.kernels) {
    FB_TRY(add_message(sections, kSectionKernels, 0, "kernels." + kernels.device_kind, kernel_section(kernels)));
  }
  return {};
}

}  // namespace

Result<std::vector<Section>> encode_sections(const Plan& plan) {
  static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");
  try {  // protobuf and containers throw when memory is short
    std::vector<Section> sections;
    FB_TRY(add_sections(plan, sections));
    return sections;
  } catch (const std::bad_alloc&) {
    return Status(Code::out_of_memory, "no memory to write the plan's sections");
  }
}

const char* known_section_name(std::uint32_t id) {
  switch (id) {
    case kSectionGraph: return "graph";
    case kSectionWeights: return "weights";
    case kSectionParts: return "parts";
    case kSectionChunkParts: return "chunk_parts";
    case kSectionChunks: return "chunks";
    case kSectionConstantData: return "constant_data";
    case kSectionInfo: return "info";
    case kSectionStoredChunks: return "stored_chunks";
    case kSectionKernels: return "kernels";
    default: return nullptr;
  }
}

}  // namespace forebay::plan
