#include "runtime/ops/quant_conv.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "runtime/cpu/quant_rows.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kX = 0, kCodes = 1, kScale = 2, kZero = 3, kBias = 4, kSum = 5;

const OpSpec& spec_of(std::string_view domain, std::string_view op, std::int32_t version) {
  const OpSpec* spec = OpRegistry::builtin().find(domain, op, version);
  FB_CHECK(spec != nullptr);
  return *spec;
}
const OpSpec& conv_spec() {
  return spec_of("forebay", "Conv", 1);
}
const OpSpec& dequantize_spec() {
  return spec_of("", "DequantizeLinear", 25);
}

// The node's attributes as those of its two parts.
struct Attributes {
  std::vector<plan::Attribute> conv, dequantize;
  explicit Attributes(const NodeView& node) {
    for (const char* name : {"strides", "pads", "dilations", "kernel_shape"}) {
      const auto values = node.integers(name);
      if (node.has(name)) conv.push_back({name, std::vector<std::int64_t>(values.begin(), values.end())});
    }
    for (const char* name : {"auto_pad", "activation"})
      if (node.has(name)) conv.push_back({name, std::string(node.text(name, ""))});
    for (const char* name : {"activation_alpha", "activation_beta"})
      if (node.has(name)) conv.push_back({name, node.real(name, 0.0f)});
    conv.push_back({"group", node.integer("group", 1)});
    dequantize = {{"axis", node.integer("axis", 1)}, {"block_size", node.integer("block_size", 0)}};
  }
};

TypeShape at(std::span<const TypeShape> inputs, std::size_t i) {
  return i < inputs.size() ? inputs[i] : TypeShape();
}
TypeShape values_of(std::span<const TypeShape> inputs) {
  TypeShape values = at(inputs, kCodes);
  values.dtype = at(inputs, kX).dtype;
  return values;
}
std::vector<TypeShape> conv_inputs(std::span<const TypeShape> inputs) {
  return {at(inputs, kX), values_of(inputs), at(inputs, kBias), at(inputs, kSum)};
}
std::vector<TypeShape> dequantize_inputs(std::span<const TypeShape> inputs) {
  return {at(inputs, kCodes), at(inputs, kScale), at(inputs, kZero)};
}

// Slabs that wait for nothing go together where both parts can: as many as have values of this size.
constexpr std::int64_t kTogetherBytes = 4 << 20;

class QuantConv final : public MergedKernel {
 public:
  QuantConv(std::string prefix, MakeKernel make) : prefix_(std::move(prefix)), make_(std::move(make)), id_(prefix_ + "conv") {}
  std::string_view id() const override { return id_; }
  std::uint64_t workspace_bytes() const override { return values_at_ + values_bytes_; }

  Status prepare(const PrepareContext& context) override {
    sliced_ = context.sliced_input != plan::kNone;
    if (sliced_ && context.sliced_input != kCodes) return context.node.unsupported("only the weight may come in slabs");
    const Attributes attributes(context.node);
    const TypeShape values = values_of(context.inputs);
    shape_ = values.shape();
    type_ = values.dtype;
    FB_ASSIGN(dequantize_,
              part(context, "", "DequantizeLinear", attributes.dequantize, dequantize_inputs(context.inputs), {&values, 1}, 0));
    FB_ASSIGN(conv_, part(context, "forebay", "Conv", attributes.conv, conv_inputs(context.inputs), context.outputs, 1));
    std::int64_t rows = sliced_ ? 0 : shape_[0];
    for (const std::int64_t slab : context.slab_rows) rows = std::max(rows, slab);
    row_bytes_ = shape_[0] > 0 ? shape_.elements() / shape_[0] * dtype_bits(type_) / 8 : 0;
    together_ = merges()
                    ? static_cast<std::size_t>(std::clamp<std::int64_t>(kTogetherBytes / std::max<std::int64_t>(1, rows * row_bytes_), 1,
                                                                        std::min<std::int64_t>(kMostMerged, std::ssize(context.slab_rows))))
                    : 1;
    parts_.resize(together_);
    calls_.resize(together_);
    values_at_ = padded_bytes(conv_->workspace_bytes());
    values_bytes_ = padded_bytes(static_cast<std::uint64_t>(rows * row_bytes_) * together_);
    id_ = prefix_ + std::string(conv_->id());
    return {};
  }

  bool merges() const override {
    const auto can = [](const Kernel* kernel) {
      const auto* merged = dynamic_cast<const MergedKernel*>(kernel);
      return merged != nullptr && merged->merges();
    };
    return sliced_ && can(dequantize_.get()) && can(conv_.get());
  }
  Status run(const KernelCall& call) override { return run_merged({&call, 1}); }
  Status run_merged(std::span<const KernelCall> calls) override {
    for (std::size_t first = 0; first < calls.size(); first += together_)
      FB_TRY(run_together(calls.subspan(first, std::min(together_, calls.size() - first))));
    return {};
  }

 private:
  // What a call gives its two parts.
  struct Operands {
    std::array<ConstTensorView, 3> packed;
    std::array<TensorView, 1> values;
    std::array<ConstTensorView, 4> conv;
  };

  Status run_together(std::span<const KernelCall> calls) {
    const auto given = [](const KernelCall& call, std::size_t i) { return i < call.inputs.size() ? call.inputs[i] : ConstTensorView(); };
    const std::int64_t begin = sliced_ ? calls[0].row_begin : 0;
    std::byte* const values = calls[0].workspace + values_at_;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const KernelCall& call = calls[i];
      parts_[i].packed = {given(call, kCodes), given(call, kScale), given(call, kZero)};
      // Its output is the whole weight, of which it writes the slab's rows alone.
      parts_[i].values = {TensorView{values - begin * row_bytes_, type_, shape_}};
      Shape rows = shape_;
      if (sliced_) rows[0] = call.inputs[kCodes].shape[0];
      const std::byte* const own = values + (sliced_ ? call.row_begin - begin : 0) * row_bytes_;
      parts_[i].conv = {given(call, kX), ConstTensorView(own, type_, rows), given(call, kBias), given(call, kSum)};
      calls_[i] = call;
      calls_[i].inputs = parts_[i].packed;
      calls_[i].outputs = parts_[i].values;
      calls_[i].workspace_bytes = 0;
    }
    FB_TRY(start(*dequantize_, calls.size()));
    for (std::size_t i = 0; i < calls.size(); ++i) {
      calls_[i] = calls[i];
      calls_[i].inputs = parts_[i].conv;
      calls_[i].workspace_bytes = conv_->workspace_bytes();
    }
    return start(*conv_, calls.size());
  }
  Status start(Kernel& kernel, std::size_t count) {
    if (count == 1) return kernel.run(calls_[0]);
    return dynamic_cast<MergedKernel&>(kernel).run_merged(std::span<const KernelCall>(calls_).first(count));
  }

  Result<std::unique_ptr<Kernel>> part(const PrepareContext& context, std::string_view domain, std::string_view op,
                                       std::span<const plan::Attribute> attributes, const std::vector<TypeShape>& inputs,
                                       std::span<const TypeShape> outputs, std::uint32_t sliced) const {
    const plan::Plan none;
    const NodeView node(context.node.name(), domain, op, domain.empty() ? 25 : 1, attributes, none, inputs.size(), 1);
    FB_ASSIGN(auto kernel, make_(node, inputs, outputs));
    if (kernel == nullptr) return context.node.unsupported("a " + std::string(op) + " of these types");
    const std::vector<const HostTensor*> values(inputs.size(), nullptr);
    PrepareContext inner{node, inputs, values, outputs, context.pool, plan::kNone, plan::Consumption::whole, context.slab_rows};
    if (sliced_) {
      inner.sliced_input = sliced;
      inner.consumption = domain.empty() ? plan::Consumption::elementwise : plan::Consumption::by_output;
    }
    FB_TRY(kernel->prepare(inner));
    if (domain.empty() && kernel->workspace_bytes() > 0) return context.node.unsupported("a DequantizeLinear with a workspace");
    return kernel;
  }

  const std::string prefix_;
  const MakeKernel make_;
  std::string id_;
  std::unique_ptr<Kernel> dequantize_, conv_;
  Shape shape_;
  DType type_ = DType::none;
  bool sliced_ = false;
  std::int64_t row_bytes_ = 0;
  std::size_t together_ = 1;  // calls at a time
  std::vector<Operands> parts_;
  std::vector<KernelCall> calls_;
  std::uint64_t values_at_ = 0, values_bytes_ = 0;
};

// The checks of both parts.
Status infer_quant_conv(InferContext& context) {
  const NodeView& node = context.node();
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  if (!at(inputs, kX).present() || !at(inputs, kCodes).present() || !at(inputs, kScale).present())
    return node.invalid("X, a weight and its scale are needed");
  if (!narrow_float(inputs[kX].dtype)) return node.unsupported("images of type " + std::string(dtype_name(inputs[kX].dtype)));
  const Attributes attributes(node);
  const plan::Plan none;
  const std::vector<TypeShape> packed = dequantize_inputs(inputs), operands = conv_inputs(inputs);
  const std::vector<const HostTensor*> unknown(4, nullptr);
  std::array<TypeShape, 1> values, y;
  const NodeView first(node.name(), "", "DequantizeLinear", 25, attributes.dequantize, none, packed.size(), 1);
  InferContext dequantize(first, packed, unknown, values);
  FB_TRY(dequantize_spec().infer(dequantize));
  const NodeView second(node.name(), "forebay", "Conv", 1, attributes.conv, none, operands.size(), 1);
  InferContext conv(second, operands, unknown, y);
  FB_TRY(conv_spec().infer(conv));
  if (y[0].has_rank) {
    context.set_output(0, y[0].dtype, y[0].dims);
  } else {
    context.set_output_unranked(0, y[0].dtype);
  }
  return {};
}

// In slabs of filters where both parts take them: what the codes are dequantised by is whole.
plan::Consumption consume_quant_conv(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs) {
  if (input != kCodes || !narrow_float(at(inputs, kX).dtype)) return plan::Consumption::whole;
  const Attributes attributes(node);
  const plan::Plan none;
  const std::vector<TypeShape> packed = dequantize_inputs(inputs), operands = conv_inputs(inputs);
  const NodeView first(node.name(), "", "DequantizeLinear", 25, attributes.dequantize, none, packed.size(), 1);
  if (dequantize_spec().consume(first, 0, packed) != plan::Consumption::elementwise) return plan::Consumption::whole;
  const NodeView second(node.name(), "forebay", "Conv", 1, attributes.conv, none, operands.size(), 1);
  return conv_spec().consume(second, 1, operands);
}

Result<std::unique_ptr<Kernel>> create_quant_conv(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return make_quant_conv("cpu.packed+", [](const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
    return (node.domain().empty() ? dequantize_spec() : conv_spec()).create(node, inputs, outputs);
  });
}

}  // namespace

std::unique_ptr<Kernel> make_quant_conv(std::string prefix, MakeKernel make) {
  return std::make_unique<QuantConv>(std::move(prefix), std::move(make));
}

OpSpec quant_conv_spec() {
  return {"forebay", "QuantConv", 1, 1, kOpNone, 0, infer_quant_conv, consume_quant_conv, create_quant_conv};
}

}  // namespace forebay::ops
