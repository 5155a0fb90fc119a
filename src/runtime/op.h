// What an operator is: shape inference beside kernels, one op family a file under src/runtime/ops (shape inference and
// registration) with CPU kernels in the same file. The registry is an explicit list (ops/families.h): no static initialisers.
//
// The same infer function serves the builder (dimensions may be unknown: -1) and the runtime (all known, plus the values of small host tensors).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "forebay/status.h"
#include "forebay/types.h"
#include "plan/plan_data.h"
#include "runtime/thread_pool.h"

namespace forebay {

// Dtype and shape as far as known.
struct TypeShape {
  DType dtype = DType::none;  // none: an absent optional input
  bool has_rank = false;
  std::vector<std::int64_t> dims;  // -1 unknown
  bool present() const { return dtype != DType::none; }
  bool known() const;  // rank and every dimension
  Shape shape() const;  // known() only
};

// Read access to a node's attributes, from a plan::Node or a plan::RecipeNode. Borrows both arguments.
class NodeView {
 public:
  NodeView(const plan::Node& node, const plan::Plan& plan);
  NodeView(std::string_view name, std::string_view domain, std::string_view op, std::int32_t version,
           std::span<const plan::Attribute> attributes, const plan::Plan& plan, std::size_t inputs, std::size_t outputs);
  std::string_view name() const { return name_; }
  std::string_view domain() const { return domain_; }
  std::string_view op() const { return op_; }
  std::int32_t version() const { return version_; }
  std::size_t input_count() const { return inputs_; }
  std::size_t output_count() const { return outputs_; }
  bool has(std::string_view attribute) const;
  std::int64_t integer(std::string_view attribute, std::int64_t otherwise) const;
  float real(std::string_view attribute, float otherwise) const;
  std::string_view text(std::string_view attribute, std::string_view otherwise) const;
  std::span<const std::int64_t> integers(std::string_view attribute) const;  // empty when absent
  std::span<const float> reals(std::string_view attribute) const;
  std::span<const std::string> texts(std::string_view attribute) const;
  const plan::Constant* tensor(std::string_view attribute) const;  // null when absent
  // invalid_model naming this node: use it for every refusal.
  Status invalid(std::string message) const;
  Status unsupported(std::string message) const;

 private:
  const plan::Attribute* find(std::string_view attribute) const;
  std::string_view name_, domain_, op_;
  std::int32_t version_ = 0;
  std::span<const plan::Attribute> attributes_;
  const plan::Plan* plan_ = nullptr;
  std::size_t inputs_ = 0, outputs_ = 0;
};

class InferContext {
 public:
  InferContext(NodeView node, std::span<const TypeShape> inputs, std::span<const HostTensor* const> values, std::span<TypeShape> outputs)
      : node_(node), inputs_(inputs), values_(values), outputs_(outputs) {}
  const NodeView& node() const { return node_; }
  std::size_t input_count() const { return inputs_.size(); }
  const TypeShape& input(std::size_t i) const;       // an absent TypeShape beyond the end
  const HostTensor* value(std::size_t i) const;      // the input's contents when known on the host, else null
  std::vector<std::int64_t> integers(std::size_t i, bool* known) const;  // contents of an i32/i64 input; known=false when not
  std::size_t output_count() const { return outputs_.size(); }
  void set_output(std::size_t i, DType dtype, std::vector<std::int64_t> dims);  // ignored for an output not wanted
  void set_output_unranked(std::size_t i, DType dtype);
  TypeShape& output(std::size_t i) { return outputs_[i]; }

 private:
  NodeView node_;
  std::span<const TypeShape> inputs_;
  std::span<const HostTensor* const> values_;
  std::span<TypeShape> outputs_;
};

// Numpy broadcasting with unknown dimensions; invalid_model naming both sizes when they cannot meet.
Result<std::vector<std::int64_t>> broadcast_dims(const NodeView& node, std::span<const std::int64_t> a, std::span<const std::int64_t> b);
// Axis in [-rank, rank) to [0, rank); otherwise invalid_model.
Result<int> normalize_axis(const NodeView& node, std::int64_t axis, int rank);

// What a kernel learns before passes: everything that depends on shapes, never on data in the arena.
struct PrepareContext {
  NodeView node;
  std::span<const TypeShape> inputs;          // all known; for the sliced operand the shape of the whole weight
  std::span<const HostTensor* const> values;  // as in InferContext; host_inputs are always there
  std::span<const TypeShape> outputs;
  ThreadPool* pool = nullptr;
  // For an operand consumed in slabs: which one, how, and the largest row count of a slab; kNone when the call takes everything whole.
  std::uint32_t sliced_input = plan::kNone;
  plan::Consumption consumption = plan::Consumption::whole;
  std::span<const std::int64_t> slab_rows;  // row count of each slab, in order: sizes are fixed at build
};

// One kernel call. With a sliced operand, inputs[sliced].data is the slab and inputs[sliced].shape[0] its rows; outputs are whole.
struct KernelCall {
  std::span<const ConstTensorView> inputs;
  std::span<const TensorView> outputs;
  std::byte* workspace = nullptr;  // 64-byte aligned, kept from the first slab of a node to its last (partial sums live here)
  std::uint64_t workspace_bytes = 0;
  ThreadPool* pool = nullptr;
  std::uint32_t slab = 0, slab_count = 1;
  std::int64_t row_begin = 0;  // of the slab, on the outermost axis of the sliced operand
};

// A kernel for one node in one context. prepare() again for new shapes; run() is const-like in effect: the same bits for the same call.
// Errors of run are data errors (an index out of range) and fail the pass, naming the node.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual Status prepare(const PrepareContext&) { return {}; }
  virtual std::uint64_t workspace_bytes() const { return 0; }  // after prepare
  virtual Status run(const KernelCall& call) = 0;               // allocates nothing
  virtual std::string_view id() const = 0;                      // stable: recorded in plans, part of numerics_id
};

enum OpFlags : std::uint32_t {
  kOpNone = 0,
  kOpView = 1,       // output 0 is input 0 under another shape: no copy, no kernel (Reshape, Identity, ...)
  kOpElementwise = 2,  // output 0 may overwrite an input of the same size and dtype
  kOpControl = 4,    // If, Loop, Scan: run by the executor
  kOpRandom = 8,     // never folded
  kOpShapeOnly = 16,  // the result depends on input shapes alone (Shape, Size): evaluated without data
};

struct OpSpec {
  std::string_view domain = {};  // "" is ai.onnx
  std::string_view name = {};
  std::int32_t since = 1, until = 0x7fffffff;  // opset versions this entry serves, inclusive
  std::uint32_t flags = kOpNone;
  // Bit i: input i must be known on the host when the node is prepared (shapes, axes, pads...). Known from constants and input shapes;
  // else the node is data-dependent.
  std::uint32_t host_inputs = 0;
  // Checks types, arity and attributes; sets every wanted output. Must cope with unknown dims and ranks.
  Status (*infer)(InferContext&) = nullptr;
  // How input `i`, being a weight of `shape`, may be cut; null or whole: not at all. Called at build; dims of other inputs may be unknown.
  plan::Consumption (*consume)(const NodeView&, std::uint32_t input, std::span<const TypeShape> inputs) = nullptr;
  // Null for views and control ops. `inputs` give dtypes (shapes as known at build). unsupported when no kernel takes these dtypes.
  Result<std::unique_ptr<Kernel>> (*create)(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) = nullptr;
};

class OpRegistry {  // immutable after construction
 public:
  static const OpRegistry& builtin();
  const OpSpec* find(std::string_view domain, std::string_view name, std::int32_t version) const;
  // "no such operator", "opset 5 is not served (6 to 22 are)", for check.
  std::string why_missing(std::string_view domain, std::string_view name, std::int32_t version) const;
  // What to do about an operator of a vendor's domain that is not served; empty for the others.
  std::string hint_for(std::string_view domain, std::string_view name) const;
  std::span<const OpSpec> all() const { return specs_; }

 private:
  std::vector<OpSpec> specs_;
};

// Runs one node on the host: folding, shape arithmetic, recipes. `values` has one entry per input (null: absent). Views are copied.
Result<std::vector<HostTensor>> evaluate_node(const NodeView& node, std::span<const HostTensor* const> inputs, ThreadPool& pool);

}  // namespace forebay
