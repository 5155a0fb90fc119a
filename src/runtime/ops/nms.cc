// NonMaxSuppression. How many boxes are kept depends on data: everything that decides is a host input, so infer knows the count before the
// kernel runs; while it is unknown (in the builder) it is -1.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"

namespace forebay::ops {
namespace {

struct Selected {
  std::int64_t batch = 0, group = 0, box = 0;
};

struct Corners {
  float y1 = 0, x1 = 0, y2 = 0, x2 = 0;  // low corner first
};

// Two opposite corners in any order, or centre and size.
Corners corners_of(const float* box, bool centre) {
  if (centre) return {box[1] - box[3] / 2, box[0] - box[2] / 2, box[1] + box[3] / 2, box[0] + box[2] / 2};
  return {std::min(box[0], box[2]), std::min(box[1], box[3]), std::max(box[0], box[2]), std::max(box[1], box[3])};
}

bool overlap(const Corners& a, const Corners& b, float threshold) {
  const float height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1), width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  if (!(height > 0) || !(width > 0)) return false;
  const float area_a = (a.y2 - a.y1) * (a.x2 - a.x1), area_b = (b.y2 - b.y1) * (b.x2 - b.x1);
  if (!(area_a > 0) || !(area_b > 0)) return false;
  const float both = height * width;
  return both / (area_a + area_b - both) > threshold;
}

template <typename T>
T scalar_or(const HostTensor* tensor, T otherwise) {
  return tensor != nullptr && tensor->bytes() >= sizeof(T) ? tensor->as<T>()[0] : otherwise;
}

// Best first; equal scores by their place. A box is kept unless one kept before overlaps it too much.
std::vector<Selected> select_boxes(const NodeView& node, const HostTensor& boxes, const HostTensor& scores, std::int64_t most,
                                   float overlap_threshold, const float* score_threshold) {
  const bool centre = node.integer("center_point_box", 0) != 0;
  const std::int64_t batches = scores.shape()[0], groups = scores.shape()[1], count = scores.shape()[2];
  std::vector<Selected> selected;
  std::vector<std::int64_t> order;
  std::vector<Corners> kept;
  for (std::int64_t row = 0; row < batches * groups && most > 0; ++row) {
    const float* score = scores.as<float>().data() + row * count;
    const float* box = boxes.as<float>().data() + row / groups * count * 4;
    order.clear();
    for (std::int64_t i = 0; i < count; ++i) {
      if (score_threshold == nullptr || score[i] > *score_threshold) order.push_back(i);
    }
    // Not a number comes last.
    const auto rank = [&](std::int64_t i) { return std::isnan(score[i]) ? -std::numeric_limits<float>::infinity() : score[i]; };
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return rank(a) > rank(b); });
    kept.clear();
    for (const std::int64_t i : order) {
      if (static_cast<std::int64_t>(kept.size()) >= most) break;
      const Corners candidate = corners_of(box + i * 4, centre);
      const bool hidden =
          std::any_of(kept.begin(), kept.end(), [&](const Corners& other) { return overlap(candidate, other, overlap_threshold); });
      if (hidden) continue;
      kept.push_back(candidate);
      selected.push_back({row / groups, row % groups, i});
    }
  }
  return selected;
}

std::vector<Selected> select_boxes(const NodeView& node, std::span<const HostTensor* const> values) {
  const auto value = [&](std::size_t i) { return i < values.size() ? values[i] : nullptr; };
  const float score = scalar_or<float>(value(4), 0);
  return select_boxes(node, *values[0], *values[1], scalar_or<std::int64_t>(value(2), 0), scalar_or<float>(value(3), 0),
                      value(4) != nullptr ? &score : nullptr);
}

Status check_shapes(const InferContext& ctx) {
  const TypeShape &boxes = ctx.input(0), &scores = ctx.input(1);
  if ((boxes.has_rank && boxes.dims.size() != 3) || (scores.has_rank && scores.dims.size() != 3)) {
    return ctx.node().invalid("boxes and scores must have rank 3");
  }
  if (boxes.has_rank && boxes.dims[2] >= 0 && boxes.dims[2] != 4)
    return ctx.node().invalid("boxes have " + std::to_string(boxes.dims[2]) + " numbers each, not 4");
  if (!boxes.has_rank || !scores.has_rank) return {};
  const auto differ = [](std::int64_t a, std::int64_t b) { return a >= 0 && b >= 0 && a != b; };
  if (differ(boxes.dims[0], scores.dims[0])) return ctx.node().invalid("boxes and scores have different batch sizes");
  if (differ(boxes.dims[1], scores.dims[2])) {
    return ctx.node().invalid("there are " + std::to_string(boxes.dims[1]) + " boxes and scores for " + std::to_string(scores.dims[2]));
  }
  return {};
}

Status infer_nms(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 5));
  for (const std::size_t i : {0u, 1u}) FB_TRY(need_input(ctx, i, dtypes(DType::f32)));
  FB_TRY(allow_input(ctx, 2, dtypes(DType::i64)));
  for (const std::size_t i : {3u, 4u}) FB_TRY(allow_input(ctx, i, dtypes(DType::f32)));
  FB_TRY(check_shapes(ctx));
  std::int64_t found = -1;
  bool known = true;
  std::array<const HostTensor*, 5> values{};
  for (std::size_t i = 0; i < ctx.input_count(); ++i) {
    values[i] = ctx.value(i);
    known = known && (values[i] != nullptr || !ctx.input(i).present());
  }
  if (known) found = static_cast<std::int64_t>(select_boxes(ctx.node(), values).size());
  ctx.set_output(0, DType::i64, {found, 3});
  return {};
}

class NmsKernel final : public NamedKernel {
 public:
  NmsKernel() : NamedKernel("cpu.NonMaxSuppression") {}
  Status prepare(const PrepareContext& context) override {
    selected_ = select_boxes(context.node, context.values);
    return {};
  }
  Status run(const KernelCall& call) override {
    auto* out = reinterpret_cast<std::int64_t*>(call.outputs[0].data);
    for (const Selected& s : selected_) {
      *out++ = s.batch;
      *out++ = s.group;
      *out++ = s.box;
    }
    return {};
  }

 private:
  std::vector<Selected> selected_;
};

Result<std::unique_ptr<Kernel>> create_nms(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<NmsKernel>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "NonMaxSuppression", .since = 10, .host_inputs = 0b11111, .infer = infer_nms, .create = create_nms},
};

}  // namespace

std::span<const OpSpec> nms_ops() {
  return kSpecs;
}

}  // namespace forebay::ops
