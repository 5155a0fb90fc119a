// The parsed, immutable plan: what to compute and where every weight comes from. Pure data; no pointer into a file.
// Made by the builder, written by plan_writer, read (and validated) by plan_reader. Immutable after that: share freely between threads.
//
// Values are numbered over the whole plan (bodies included). A weight is a value too. Graph 0 is the main graph; the others are
// bodies of If/Loop/Scan, which may read values of the graphs around them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/digest.h"
#include "forebay/types.h"

namespace forebay::plan {

using ValueId = std::uint32_t;
using WeightId = std::uint32_t;
using ChunkId = std::uint32_t;
inline constexpr std::uint32_t kNone = 0xffffffffu;  // absent optional input, no weight, ...

// A dimension as known at build: a size, or a name ("batch"), or neither (data- or shape-dependent).
struct Dim {
  std::int64_t size = -1;  // -1 when not fixed
  std::string name;        // empty when anonymous
};

enum class ValueKind : std::uint8_t { intermediate = 0, input = 1, weight = 2, constant = 3 };

struct Value {
  std::string name;
  DType dtype = DType::none;
  bool has_rank = true;
  std::vector<Dim> dims;
  ValueKind kind = ValueKind::intermediate;
  std::uint32_t index = kNone;  // into Plan::weights or Plan::constants by kind
};

// Attribute of a node. Tensors of attributes are constants of the plan; bodies are indices of Plan::graphs.
struct TensorRef {
  std::uint32_t constant = kNone;
  // Not trivial, so that libstdc++ 12 does not take AttributeValue for never valueless: its copy would crash where memory runs out.
  ~TensorRef() {}  // NOLINT(modernize-use-equals-default)
};
struct BodyRef { std::uint32_t graph = kNone; };
using AttributeValue = std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>, std::vector<float>,
                                    std::vector<std::string>, TensorRef, BodyRef>;
struct Attribute {
  std::string name;
  AttributeValue value;
};

struct Node {
  std::string name;    // unique in the plan; from the model where it had one
  std::string domain;  // "" is ai.onnx; "forebay" are our own fused ops
  std::string op;
  std::int32_t version = 0;  // opset version the model imports for the domain (semantics are those in force at it)
  std::vector<ValueId> inputs;  // kNone: absent
  std::vector<ValueId> outputs;  // kNone: not wanted
  std::vector<Attribute> attributes;
  std::vector<std::string> fused_from;  // names of the model's nodes this one stands for, when more than one
};

struct Graph {
  std::string name;
  std::vector<ValueId> inputs, outputs;
  std::vector<Node> nodes;  // in execution order
};

// A recipe makes a weight from source tensors: `nodes` are ordinary nodes run by the CPU kernels, over slots. Slots 0..sources-1 are
// the closure in order; each node appends its outputs as new slots; the last slot is the weight. No nodes: identity (one source).
struct RecipeNode {
  std::string domain, op;
  std::int32_t version = 0;
  std::vector<std::uint32_t> inputs;  // slots; kNone absent; constants as kConstantSlot + index into Plan::constants
  std::uint32_t output_count = 1;
  std::vector<Attribute> attributes;
};
inline constexpr std::uint32_t kConstantSlot = 0x80000000u;
struct Recipe {
  std::vector<std::uint32_t> sources;  // indices into Plan::sources: the closure
  std::vector<RecipeNode> nodes;
  bool identity() const { return nodes.empty(); }
  std::string describe() const;  // "identity", "Transpose", "Mul(Div(..))": for inspect
};

// A tensor of the user's files that some weight or kept constant is made from.
struct Source {
  std::string name;
  DType dtype = DType::none;
  Shape shape;
  bool has_sha256 = false;  // identical plans
  Sha256 sha256{};          // over the whole plain tensor
};

// How kernels take the slabs of a weight.
enum class Consumption : std::uint8_t { whole = 0, by_output = 1, by_reduction = 2, row_gather = 3, elementwise = 4 };

struct Weight {
  std::string name;  // the source's for identity recipes, else derived; unique; what refit and inspect show
  ValueId value = kNone;
  DType dtype = DType::none;   // logical and storage dtype (storage is packed for sub-byte types)
  Shape shape;                 // plan form
  std::uint64_t bytes = 0;
  Recipe recipe;
  Consumption consumption = Consumption::whole;
  bool gather_only = false;    // every use is a Gather on axis 0: rows may be fetched without streaming
  std::uint32_t use_count = 0; // uses in one pass of the main graph (each body counts as run once)
  bool in_body = false;
  std::uint32_t first_part = 0, part_count = 0;  // slabs, in order; see Part
  std::uint32_t quant_values = kNone, quant_scales = kNone, quant_zero_points = kNone;  // weights of the same quantisation group
  std::int32_t quant_axis = 0, quant_block = 0;
};

// A part is one slab of one weight and where it lies in its chunk. A weight's parts cover it in order without gaps.
struct Part {
  WeightId weight = kNone;
  ChunkId chunk = kNone;
  std::uint64_t row_begin = 0, row_count = 0;  // on the outermost axis of the plan form; whole weights: all rows (scalar: 0, 1)
  std::uint64_t offset_in_weight = 0;  // bytes
  std::uint64_t offset_in_chunk = 0;   // bytes, a multiple of 64
  std::uint64_t bytes = 0;
};

// A chunk is the unit of residency, streaming, digest and codec: one slab, or many small weights packed in execution order.
// Chunks are numbered in execution order of their first use.
struct Chunk {
  std::uint32_t first_part = 0, part_count = 0;  // into Plan::chunk_parts
  std::uint64_t raw_bytes = 0;                   // what it takes in memory, padding between parts included (zeros)
};

// A value frozen into the plan. `kept`: it came from source tensors and stayed because its only use is shape arithmetic, or it is a scalar.
struct Constant {
  ValueId value = kNone;  // kNone for attribute tensors
  DType dtype = DType::none;
  Shape shape;
  std::vector<std::byte> data;
  bool kept = false;
  std::vector<std::uint32_t> sources;  // kept: sha256 is set, other values are refused. Else one: its value where no file has it
  std::string name;
};

struct DimRange {
  std::string name;  // named dimension
  std::int64_t min = 0, opt = 0, max = 0;
};
struct StatePair {
  ValueId output = kNone, input = kNone;
};

// Kernel choices for one device kind; `entries` are (node, choice id) with free-form parameters, replayed at load.
struct KernelChoice {
  std::uint32_t graph = 0, node = 0;
  std::string kernel;   // stable id, for example "cpu.gemv256", "cpu.dnnl.gemm"
  std::string parameters;
};
struct KernelSection {
  std::string device_kind;  // "cpu", "cuda"
  std::string made_by;      // library versions, "heuristic" or "timed"
  std::vector<KernelChoice> entries;
};

enum class RefitMode : std::uint8_t { all = 0, identical = 1, none = 2 };

// A chunk as stored in this plan's own file (embedded weights). The record on disk: plan_format.h.
struct StoredChunk {
  std::uint64_t offset = 0, stored_bytes = 0;  // offset is a multiple of kBlockBytes, from the start of the file
  std::uint8_t codec = 0, codec_version = 0;
  Xxh128 stored_digest, raw_digest;
};

struct Plan {
  std::string model_name;       // file name of the ONNX model, for messages
  std::string producer;         // "forebay 0.1.0"
  RefitMode refit = RefitMode::all;
  std::uint64_t slab_bytes = 0; // the choice of --slab
  std::vector<std::pair<std::string, std::int32_t>> opsets;
  std::vector<Value> values;
  std::vector<Graph> graphs;    // [0] is the main graph
  std::vector<Source> sources;
  std::vector<Weight> weights;
  std::vector<Part> parts;                 // grouped by weight
  std::vector<std::uint32_t> chunk_parts;  // indices into parts, grouped by chunk
  std::vector<Chunk> chunks;
  std::vector<Constant> constants;
  std::vector<DimRange> dim_ranges;
  std::vector<StatePair> state_pairs;
  std::vector<KernelSection> kernels;
  std::vector<std::pair<std::string, std::string>> numerics;  // numerics_id fields known at build

  std::vector<StoredChunk> embedded;  // empty when stripped, else one per chunk
  bool embedded_rehydrated = false;   // embedded by refit rather than by build: same meaning, for inspect
  Sha256 id{};                        // SHA-256 of the structural sections as stored; set by writer and reader

  bool stripped() const { return embedded.empty() && !chunks.empty(); }
  std::uint64_t weight_bytes() const;  // sum of Weight::bytes
};

}  // namespace forebay::plan
