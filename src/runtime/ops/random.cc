// Random operators: random_words.h has the generator.
#include <cmath>
#include <memory>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/random_words.h"

namespace forebay::ops {
namespace {

// Writes value(i) for every element, rounded once.
template <typename F>
void fill_with(const TensorView& out, ThreadPool& pool, F&& value) {
  pool.parallel_for(out.shape.elements(), 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double v = value(i);
      if (is_half(out.dtype)) {
        const auto narrow = static_cast<float>(v);
        store_half(out.dtype, &narrow, out.data + i * 2, 1);
      } else if (out.dtype == DType::boolean) {
        out.data[i] = v != 0 ? std::byte{1} : std::byte{0};
      } else {
        dispatch_number(out.dtype, [&](auto tag) {
          using T = typename decltype(tag)::type;
          reinterpret_cast<T*>(out.data)[i] = static_cast<T>(v);
        });
      }
    }
  });
}

enum class Law : std::uint8_t { uniform, normal };

class RandomKernel final : public NamedKernel {
 public:
  RandomKernel(std::string id, Law law, const NodeView& node)
      : NamedKernel(std::move(id)), law_(law), generator_(generator_of(node)),
        a_(law == Law::normal ? node.real("mean", 0.0f) : node.real("low", 0.0f)),
        b_(law == Law::normal ? node.real("scale", 1.0f) : node.real("high", 1.0f)) {}
  Status run(const KernelCall& call) override {
    const TensorView& out = call.outputs[0];
    if (law_ == Law::normal) {
      fill_with(out, *call.pool, [&](std::int64_t i) { return a_ + b_ * generator_.normal(i); });
    } else if (out.dtype == DType::f64) {
      fill_with(out, *call.pool, [&](std::int64_t i) { return a_ + (b_ - a_) * generator_.unit53(i); });
    } else {
      fill_with(out, *call.pool, [&](std::int64_t i) { return a_ + (b_ - a_) * generator_.unit24(i); });
    }
    return {};
  }

 private:
  Law law_;
  Generator generator_;
  double a_, b_;
};

Result<DType> output_dtype(const NodeView& node, DType otherwise, DTypeSet set) {
  const DType dtype = node.has("dtype") ? onnx_dtype(node.integer("dtype", 0)) : otherwise;
  if (!in_set(set, dtype)) return node.unsupported("the output dtype is not served here");
  return dtype;
}

Status infer_random(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 0, 0));
  FB_ASSIGN(const DType dtype, output_dtype(ctx.node(), DType::f32, kFloats));
  if (!ctx.node().has("shape")) return ctx.node().invalid("shape is missing");
  const auto shape = ctx.node().integers("shape");
  for (const std::int64_t dim : shape) {
    if (dim < 0) return ctx.node().invalid("shape holds " + std::to_string(dim));
  }
  ctx.set_output(0, dtype, {shape.begin(), shape.end()});
  return {};
}
Status infer_random_like(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_ASSIGN(const DType dtype, output_dtype(ctx.node(), ctx.input(0).dtype, kFloats));
  set_like(ctx, 0, 0, dtype);
  return {};
}

template <Law kLaw>
Result<std::unique_ptr<Kernel>> create_random(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<RandomKernel>("cpu." + std::string(node.op()), kLaw, node));
}

double real_at(const ConstTensorView& view, std::int64_t i) {
  if (is_half(view.dtype)) {
    float value = 0;
    load_half(view.dtype, view.data + i * 2, &value, 1);
    return value;
  }
  return view.dtype == DType::f64 ? reinterpret_cast<const double*>(view.data)[i] : reinterpret_cast<const float*>(view.data)[i];
}

Status infer_bernoulli(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kFloats));
  FB_ASSIGN(const DType dtype, output_dtype(ctx.node(), ctx.input(0).dtype, kNumbers | kBool));
  set_like(ctx, 0, 0, dtype);
  return {};
}

class BernoulliKernel final : public NamedKernel {
 public:
  explicit BernoulliKernel(const NodeView& node) : NamedKernel("cpu.Bernoulli"), generator_(generator_of(node)) {}
  Status run(const KernelCall& call) override {
    fill_with(call.outputs[0], *call.pool,
              [&](std::int64_t i) { return generator_.unit53(i) < real_at(call.inputs[0], i) ? 1.0 : 0.0; });
    return {};
  }

 private:
  Generator generator_;
};

Status infer_multinomial(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kFloats));
  FB_ASSIGN(const DType dtype, output_dtype(ctx.node(), DType::i32, kIndices));
  const std::int64_t samples = ctx.node().integer("sample_size", 1);
  if (samples < 0) return ctx.node().invalid("sample_size is negative");
  const TypeShape& data = ctx.input(0);
  if (data.has_rank && (data.dims.size() != 2 || data.dims[1] == 0)) return ctx.node().invalid("the input is not [batch, classes]");
  ctx.set_output(0, dtype, {data.has_rank ? data.dims[0] : -1, samples});
  return {};
}

// Inputs are log-probabilities, not normalised: a draw is the first class where the running sum of exp passes it.
class MultinomialKernel final : public NamedKernel {
 public:
  explicit MultinomialKernel(const NodeView& node) : NamedKernel("cpu.Multinomial"), generator_(generator_of(node)) {}
  Status run(const KernelCall& call) override {
    const ConstTensorView& in = call.inputs[0];
    const std::int64_t classes = in.shape[1], samples = call.outputs[0].shape[1];
    for (std::int64_t batch = 0; batch < in.shape[0]; ++batch) {
      double largest = real_at(in, batch * classes), total = 0;
      for (std::int64_t c = 1; c < classes; ++c) largest = std::max(largest, real_at(in, batch * classes + c));
      for (std::int64_t c = 0; c < classes; ++c) total += std::exp(real_at(in, batch * classes + c) - largest);
      for (std::int64_t s = 0; s < samples; ++s) {
        const double draw = generator_.unit53(batch * samples + s) * total;
        double sum = 0;
        std::int64_t chosen = classes - 1;
        for (std::int64_t c = 0; c < classes; ++c) {
          sum += std::exp(real_at(in, batch * classes + c) - largest);
          if (draw < sum) {
            chosen = c;
            break;
          }
        }
        const std::int64_t at = batch * samples + s;
        if (call.outputs[0].dtype == DType::i64) {
          reinterpret_cast<std::int64_t*>(call.outputs[0].data)[at] = chosen;
        } else {
          reinterpret_cast<std::int32_t*>(call.outputs[0].data)[at] = static_cast<std::int32_t>(chosen);
        }
      }
    }
    return {};
  }

 private:
  Generator generator_;
};

template <typename K>
Result<std::unique_ptr<Kernel>> create_drawn(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<K>(node));
}

constexpr OpSpec kSpecs[] = {
    {.name = "RandomNormal", .flags = kOpRandom, .infer = infer_random, .create = create_random<Law::normal>},
    {.name = "RandomUniform", .flags = kOpRandom, .infer = infer_random, .create = create_random<Law::uniform>},
    {.name = "RandomNormalLike", .flags = kOpRandom, .infer = infer_random_like, .create = create_random<Law::normal>},
    {.name = "RandomUniformLike", .flags = kOpRandom, .infer = infer_random_like, .create = create_random<Law::uniform>},
    {.name = "Bernoulli", .since = 15, .flags = kOpRandom, .infer = infer_bernoulli, .create = create_drawn<BernoulliKernel>},
    {.name = "Multinomial", .since = 7, .flags = kOpRandom, .infer = infer_multinomial, .create = create_drawn<MultinomialKernel>},
};

}  // namespace

std::span<const OpSpec> random_ops() { return kSpecs; }

}  // namespace forebay::ops
