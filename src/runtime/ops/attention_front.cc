#include "runtime/ops/attention_front.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"

namespace forebay::ops {
namespace {

TypeShape float_type(std::vector<std::int64_t> dims, DType dtype = DType::f32) {
  TypeShape type;
  type.dtype = dtype;
  type.has_rank = true;
  type.dims = std::move(dims);
  return type;
}

}  // namespace

HeadRows packed_rows(const float* data, std::int64_t rows, std::int64_t width, std::int64_t size) {
  return {data, rows * width, size, width, nullptr};
}

HeadRows plain_rows(const float* data, std::int64_t heads, std::int64_t rows, std::int64_t size) {
  return {data, heads * rows * size, rows * size, size, nullptr};
}

void gather_rows(ThreadPool& pool, const HeadRows& from, std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t size,
                 float* to, std::int64_t length, std::int64_t first) {
  pool.parallel_for(batch * heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t b = unit / heads, h = unit % heads;
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* x = from.at(b, h, i);
        float* y = to + (unit * length + first + i) * size;
        if (from.bias == nullptr) {
          std::copy_n(x, size, y);
        } else {
          for (std::int64_t e = 0; e < size; ++e) y[e] = x[e] + from.bias[h * size + e];
        }
      }
    }
  });
}

void write_rows(ThreadPool& pool, const HeadRows& from, std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t size,
                DType dtype, std::byte* to, std::int64_t length, std::int64_t first) {
  if (dtype == DType::f32) return gather_rows(pool, from, batch, heads, rows, size, reinterpret_cast<float*>(to), length, first);
  constexpr std::int64_t kPiece = 256;
  const std::int64_t bytes = dtype_bits(dtype) / 8;
  pool.parallel_for(batch * heads, 1, [&](std::int64_t begin, std::int64_t end) {
    float piece[kPiece];
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t h = unit % heads;
      for (std::int64_t i = 0; i < rows; ++i) {
        const float* x = from.at(unit / heads, h, i);
        for (std::int64_t at = 0; at < size; at += kPiece) {
          const std::int64_t n = std::min(kPiece, size - at);
          for (std::int64_t e = 0; e < n; ++e) piece[e] = x[at + e] + (from.bias == nullptr ? 0.0f : from.bias[h * size + at + e]);
          cpu::from_f32(dtype, piece, n, to + ((unit * length + first + i) * size + at) * bytes);
        }
      }
    }
  });
}

void copy_heads(ThreadPool& pool, const std::byte* from, std::int64_t heads, std::int64_t rows, std::int64_t count, std::int64_t row_bytes,
                std::byte* to, std::int64_t length) {
  pool.parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit)
      std::copy_n(from + unit * rows * row_bytes, count * row_bytes, to + unit * length * row_bytes);
  });
}

Status AttentionFront::plan_front(const PrepareContext& context, const FrontDims& dims, const Options& options, std::uint64_t extra) {
  dims_ = dims;
  cache_ = options.cache;
  attributes_.clear();
  attributes_.push_back({"is_causal", std::int64_t{options.causal ? 1 : 0}});
  attributes_.push_back({"softcap", options.softcap});
  if (options.scale != 0) attributes_.push_back({"scale", options.scale});
  std::vector<TypeShape> inputs{float_type({dims.batch, dims.heads, dims.queries, dims.head}),
                                float_type({dims.batch, dims.kv_heads, dims.keys, dims.head}, cache_),
                                float_type({dims.batch, dims.kv_heads, dims.keys, dims.value_head}, cache_)};
  if (dims.mask_batch > 0) inputs.push_back(float_type({dims.mask_batch, dims.mask_heads, dims.mask_rows, dims.keys}));
  const std::vector<TypeShape> outputs{float_type({dims.batch, dims.heads, dims.queries, dims.value_head})};
  const NodeView node(context.node.name(), "", "Attention", 23, attributes_, plan_, inputs.size(), 1);
  const OpSpec* spec = OpRegistry::builtin().find("", "Attention", 23);
  FB_CHECK(spec != nullptr);
  FB_ASSIGN(inner_, spec->create(node, inputs, outputs));
  const std::vector<const HostTensor*> values(inputs.size(), nullptr);
  FB_TRY(inner_->prepare(PrepareContext{node, inputs, values, outputs, context.pool, plan::kNone, plan::Consumption::whole, {}}));
  const std::uint64_t size = static_cast<std::uint64_t>(dtype_bits(cache_)) / 8;
  k_at_ = float_bytes(dims.batch * dims.heads * dims.queries * dims.head);
  v_at_ = k_at_ + (options.gathers_keys ? float_bytes(dims.batch * dims.kv_heads * dims.keys * dims.head, size) : 0);
  mask_at_ = v_at_ + (options.gathers_values ? float_bytes(dims.batch * dims.kv_heads * dims.keys * dims.value_head, size) : 0);
  y_at_ = mask_at_ + float_bytes(dims.mask_batch * dims.mask_heads * dims.mask_rows * dims.keys);
  inner_at_ = y_at_ + float_bytes(dims.batch * dims.heads * dims.queries * dims.value_head);
  extra_at_ = inner_at_ + padded_bytes(inner_->workspace_bytes());
  set_scratch(extra_at_ + extra);
  return {};
}

AttentionFront::Buffers AttentionFront::buffers(const KernelCall& call) const {
  const auto at = [&](std::uint64_t offset) { return reinterpret_cast<float*>(call.workspace + offset); };
  return {at(0), at(mask_at_), at(y_at_), call.workspace + k_at_, call.workspace + v_at_};
}

Status AttentionFront::attend(const KernelCall& call, const std::byte* k, const std::byte* v) const {
  const Buffers own = buffers(call);
  const auto view = [](const float* data, Shape shape) {
    return ConstTensorView(reinterpret_cast<const std::byte*>(data), DType::f32, shape);
  };
  const std::array<ConstTensorView, 4> inputs{view(own.q, {dims_.batch, dims_.heads, dims_.queries, dims_.head}),
                                              ConstTensorView(k, cache_, {dims_.batch, dims_.kv_heads, dims_.keys, dims_.head}),
                                              ConstTensorView(v, cache_, {dims_.batch, dims_.kv_heads, dims_.keys, dims_.value_head}),
                                              view(own.mask, {dims_.mask_batch, dims_.mask_heads, dims_.mask_rows, dims_.keys})};
  const TensorView output{reinterpret_cast<std::byte*>(own.y), DType::f32, {dims_.batch, dims_.heads, dims_.queries, dims_.value_head}};
  KernelCall inner;
  inner.inputs = std::span(inputs).first(dims_.mask_batch > 0 ? 4 : 3);
  inner.outputs = std::span(&output, 1);
  inner.workspace = call.workspace + inner_at_;
  inner.workspace_bytes = inner_->workspace_bytes();
  inner.pool = call.pool;
  FB_TRY(inner_->run(inner));
  auto* to = reinterpret_cast<float*>(call.outputs[0].data);
  const std::int64_t size = dims_.value_head;
  call.pool->parallel_for(dims_.batch * dims_.queries, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      for (std::int64_t h = 0; h < dims_.heads; ++h) {
        std::copy_n(own.y + ((i / dims_.queries * dims_.heads + h) * dims_.queries + i % dims_.queries) * size, size,
                    to + (i * dims_.heads + h) * size);
      }
    }
  });
  return {};
}

}  // namespace forebay::ops
