// evaluate_node: one node on the host, through the same infer and kernels as passes.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "runtime/op.h"

namespace forebay {
namespace {

TypeShape type_shape_of(const HostTensor* tensor) {
  TypeShape type;
  if (tensor == nullptr || tensor->dtype() == DType::none) return type;
  type.dtype = tensor->dtype();
  type.has_rank = true;
  const auto dims = tensor->shape().dims();
  type.dims.assign(dims.begin(), dims.end());
  return type;
}

Result<std::vector<HostTensor>> allocate_outputs(const NodeView& node, std::span<const TypeShape> types) {
  std::vector<HostTensor> outputs;
  outputs.reserve(types.size());
  for (const TypeShape& type : types) {
    if (!type.present()) {
      outputs.emplace_back();
      continue;
    }
    if (!type.known()) return node.unsupported("the shape of an output is not known from its inputs");
    if (!checked_bytes(type.dtype, type.dims)) return node.invalid("an output is too large, or its rank is above 8");
    outputs.emplace_back(type.dtype, type.shape());
  }
  return outputs;
}

Status run_kernel(const OpSpec& spec, const NodeView& node, std::span<const HostTensor* const> inputs, std::span<const TypeShape> in_types,
                  std::span<const TypeShape> out_types, std::vector<HostTensor>& outputs, ThreadPool& pool) {
  FB_ASSIGN(std::unique_ptr<Kernel> kernel, spec.create(node, in_types, out_types));
  PrepareContext prepare{node, in_types, inputs, out_types, &pool, plan::kNone, plan::Consumption::whole, {}};
  FB_TRY(kernel->prepare(prepare));
  std::vector<ConstTensorView> in_views;
  for (const HostTensor* input : inputs) in_views.push_back(input != nullptr ? ConstTensorView(*input) : ConstTensorView());
  std::vector<TensorView> out_views;
  for (HostTensor& output : outputs) out_views.push_back({output.data(), output.dtype(), output.shape()});
  const std::uint64_t bytes = kernel->workspace_bytes();
  if (bytes > static_cast<std::uint64_t>(INT64_MAX)) return node.invalid("the workspace is too large");
  const HostTensor workspace(DType::u8, Shape{static_cast<std::int64_t>(bytes)});
  KernelCall call;
  call.inputs = in_views;
  call.outputs = out_views;
  call.workspace = const_cast<HostTensor&>(workspace).data();
  call.workspace_bytes = bytes;
  call.pool = &pool;
  return kernel->run(call);
}

}  // namespace

Result<std::vector<HostTensor>> evaluate_node(const NodeView& node, std::span<const HostTensor* const> inputs, ThreadPool& pool) {
  const OpSpec* spec = OpRegistry::builtin().find(node.domain(), node.op(), node.version());
  if (spec == nullptr) return node.unsupported(OpRegistry::builtin().why_missing(node.domain(), node.op(), node.version()));
  if ((spec->flags & kOpControl) != 0) return node.unsupported("control flow is run by the executor, not evaluated alone");
  std::vector<TypeShape> in_types, out_types(node.output_count());
  for (const HostTensor* input : inputs) in_types.push_back(type_shape_of(input));
  InferContext infer(node, in_types, inputs, out_types);
  FB_TRY(spec->infer(infer));
  FB_ASSIGN(std::vector<HostTensor> outputs, allocate_outputs(node, out_types));
  if ((spec->flags & kOpView) != 0 && spec->create == nullptr) {
    if (inputs.empty() || inputs[0] == nullptr || outputs.empty() || outputs[0].bytes() != inputs[0]->bytes()) {
      return node.invalid("input and output do not hold the same number of elements");
    }
    std::memcpy(outputs[0].data(), inputs[0]->data(), inputs[0]->bytes());
    return outputs;
  }
  FB_TRY(run_kernel(*spec, node, inputs, in_types, out_types, outputs, pool));
  return outputs;
}

}  // namespace forebay
