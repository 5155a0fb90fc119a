#include "runtime/ops/subbyte.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/checked.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

bool is_packed(DType dtype) { return dtype != DType::none && dtype_bits(dtype) < 8; }

std::vector<TypeShape> widened(std::span<const TypeShape> types) {
  std::vector<TypeShape> out(types.begin(), types.end());
  for (TypeShape& type : out) {
    if (is_packed(type.dtype)) type.dtype = DType::u8;
  }
  return out;
}

void unpack(const std::byte* in, std::byte* out, std::int64_t n, int bits) {
  const std::int64_t per_byte = 8 / bits;
  const unsigned mask = (1u << bits) - 1;
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<std::byte>((std::to_integer<unsigned>(in[i / per_byte]) >> ((i % per_byte) * bits)) & mask);
  }
}
void pack(const std::byte* in, std::byte* out, std::int64_t n, int bits) {
  const std::int64_t per_byte = 8 / bits;
  for (std::int64_t i = 0; i < n; i += per_byte) {
    unsigned byte = 0;
    for (std::int64_t k = 0; k < per_byte && i + k < n; ++k) byte |= std::to_integer<unsigned>(in[i + k]) << (k * bits);
    out[i / per_byte] = static_cast<std::byte>(byte);
  }
}

class SubByteKernel final : public NamedKernel {
 public:
  explicit SubByteKernel(std::unique_ptr<Kernel> inner) : NamedKernel(std::string(inner->id()) + ".packed"), inner_(std::move(inner)) {}

  Status prepare(const PrepareContext& context) override {
    if (context.sliced_input != plan::kNone) return context.node.unsupported("packed elements are not taken in slabs here");
    wide_in_ = widened(context.inputs);
    wide_out_ = widened(context.outputs);
    PrepareContext wide = context;
    wide.inputs = wide_in_;
    wide.outputs = wide_out_;
    FB_TRY(inner_->prepare(wide));
    in_views_.assign(context.inputs.size(), {});
    out_views_.assign(context.outputs.size(), {});
    offset_ = align_up(inner_->workspace_bytes(), 64);
    bytes_ = offset_;
    const auto reserve = [this](const TypeShape& type) {
      if (is_packed(type.dtype)) bytes_ += align_up(static_cast<std::uint64_t>(type.shape().elements()), 64);
    };
    for (const TypeShape& type : context.inputs) reserve(type);
    for (const TypeShape& type : context.outputs) reserve(type);
    return {};
  }
  std::uint64_t workspace_bytes() const override { return bytes_; }

  Status run(const KernelCall& call) override {
    std::byte* at = call.workspace + offset_;
    const auto take = [&at](const Shape& shape) {
      std::byte* mine = at;
      at += align_up(static_cast<std::uint64_t>(shape.elements()), 64);
      return mine;
    };
    for (std::size_t i = 0; i < in_views_.size(); ++i) {
      in_views_[i] = call.inputs[i];
      if (!is_packed(call.inputs[i].dtype)) continue;
      std::byte* wide = take(call.inputs[i].shape);
      unpack(call.inputs[i].data, wide, call.inputs[i].shape.elements(), dtype_bits(call.inputs[i].dtype));
      in_views_[i].data = wide;
      in_views_[i].dtype = DType::u8;
    }
    for (std::size_t i = 0; i < out_views_.size(); ++i) {
      out_views_[i] = call.outputs[i];
      if (!is_packed(call.outputs[i].dtype)) continue;
      out_views_[i].data = take(call.outputs[i].shape);
      out_views_[i].dtype = DType::u8;
    }
    KernelCall wide = call;
    wide.inputs = in_views_;
    wide.outputs = out_views_;
    FB_TRY(inner_->run(wide));
    for (std::size_t i = 0; i < out_views_.size(); ++i) {
      if (!is_packed(call.outputs[i].dtype)) continue;
      pack(out_views_[i].data, call.outputs[i].data, call.outputs[i].shape.elements(), dtype_bits(call.outputs[i].dtype));
    }
    return {};
  }

 private:
  std::unique_ptr<Kernel> inner_;
  std::vector<TypeShape> wide_in_, wide_out_;
  std::vector<ConstTensorView> in_views_;
  std::vector<TensorView> out_views_;
  std::uint64_t offset_ = 0, bytes_ = 0;
};

}  // namespace

bool any_subbyte(std::span<const TypeShape> types) {
  return std::any_of(types.begin(), types.end(), [](const TypeShape& type) { return is_packed(type.dtype); });
}

Result<std::unique_ptr<Kernel>> wrap_subbyte(CreateFn create, const NodeView& node, std::span<const TypeShape> inputs,
                                             std::span<const TypeShape> outputs) {
  FB_ASSIGN(std::unique_ptr<Kernel> inner, create(node, widened(inputs), widened(outputs)));
  return std::unique_ptr<Kernel>(std::make_unique<SubByteKernel>(std::move(inner)));
}

}  // namespace forebay::ops
