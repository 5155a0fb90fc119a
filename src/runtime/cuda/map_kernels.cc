// Functions of one value that few models use, Clip with computed bounds; Pad, Tile and Resize through a table an axis.
#include <algorithm>
#include <limits>

#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/map_task.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/pad_places.h"
#include "runtime/ops/resize_kernel.h"

namespace forebay::cuda {
namespace {

class MapKernel final : public CudaKernel {
 public:
  MapKernel(MapTask task, StatePtr state) : CudaKernel("cuda.map", std::move(state)), task_(task) {}
  Status setup(const PrepareContext&) override { return {}; }
  Status run(const KernelCall& call) override {
    MapTask task = task_;
    const auto in = [&](std::size_t i) -> const void* {
      return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr;
    };
    task.count = call.inputs[0].shape.elements();
    task.a = in(0);
    task.low = in(1);
    task.high = in(2);
    task.y = call.outputs[0].data;
    return check(launch_map(task, queue_stream()));
  }

 private:
  const MapTask task_;
};

// Attributes as the functions take them, and their defaults; alpha and beta without a name are what stands there.
struct MapEntry {
  std::string_view op;
  MapOp map;
  std::string_view alpha_name = "", beta_name = "";
  float alpha = 0, beta = 0;
};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr MapEntry kMaps[] = {{"Sign", MapOp::sign},
                              {"Round", MapOp::round},
                              {"Tan", MapOp::tan},
                              {"Asin", MapOp::asin},
                              {"Acos", MapOp::acos},
                              {"Atan", MapOp::atan},
                              {"Sinh", MapOp::sinh},
                              {"Cosh", MapOp::cosh},
                              {"Asinh", MapOp::asinh},
                              {"Acosh", MapOp::acosh},
                              {"Atanh", MapOp::atanh},
                              {"Softplus", MapOp::softplus},
                              {"Softsign", MapOp::softsign},
                              {"Elu", MapOp::elu, "alpha", "", 1.0f},
                              {"Celu", MapOp::celu, "alpha", "", 1.0f},
                              {"ThresholdedRelu", MapOp::thresholded_relu, "alpha", "", 1.0f},
                              {"Selu", MapOp::selu, "alpha", "gamma", 1.67326319217681884765625f, 1.05070102214813232421875f},
                              {"Shrink", MapOp::shrink, "lambd", "bias", 0.5f, 0.0f},
                              {"Clip", MapOp::clip, "min", "max", -kInfinity, kInfinity},
                              {"IsNaN", MapOp::is_nan},
                              {"IsInf", MapOp::is_inf, "", "", 1.0f, 1.0f}};

KernelPtr make_map(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  for (const MapEntry& entry : kMaps) {
    if (entry.op != node.op() || !float_type(inputs[0].dtype)) continue;
    MapTask task;
    task.op = entry.map;
    task.type = inputs[0].dtype;
    task.alpha = entry.alpha_name.empty() ? entry.alpha : node.real(entry.alpha_name, entry.alpha);
    task.beta = entry.beta_name.empty() ? entry.beta : node.real(entry.beta_name, entry.beta);
    if (entry.map == MapOp::is_inf) {
      task.alpha = static_cast<float>(node.integer("detect_negative", 1));
      task.beta = static_cast<float>(node.integer("detect_positive", 1));
    }
    return std::make_unique<MapKernel>(task, state);
  }
  return nullptr;
}

class NotKernel final : public CudaKernel {
 public:
  explicit NotKernel(StatePtr state) : CudaKernel("cuda.not", std::move(state)) {}
  Status setup(const PrepareContext&) override { return {}; }
  Status run(const KernelCall& call) override {
    return check(launch_not(call.inputs[0].shape.elements(), call.outputs[0].data, call.inputs[0].data, queue_stream()));
  }
};
KernelPtr make_not(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>, const StatePtr& state) {
  return std::make_unique<NotKernel>(state);
}

// The tables are made when shapes are known and copied into the workspace with each call.
class TableKernel final : public CudaKernel {
 public:
  TableKernel(std::string id, StatePtr state) : CudaKernel(std::move(id), std::move(state)) {}
  Status setup(const PrepareContext& context) override {
    const auto& in = context.inputs[0].dims;
    const auto& out = context.outputs[0].dims;
    task_ = TableTask();
    task_.type = context.inputs[0].dtype;
    task_.element_bytes = dtype_bits(task_.type) / 8;
    task_.rank = static_cast<int>(in.size());
    places_.clear();
    weights_.clear();
    mixes_ = fills_ = false;
    for (const std::int64_t dim : out) {
      if (dim > kMostPlaces) return context.node.unsupported("an axis beyond " + std::to_string(kMostPlaces));
    }
    FB_TRY(context.node.op() == "Pad" ? pad(context) : context.node.op() == "Tile" ? tile(in, out) : resize(context));
    const std::vector<std::int64_t> dense = dense_strides(in);
    for (std::size_t d = 0; d < in.size(); ++d) {
      task_.strides[d] = dense[d];
      task_.out[d] = static_cast<int>(out[d]);
      task_.total *= out[d];
    }
    return static_cast<std::int64_t>(places_.size()) > kMostPlaces
               ? context.node.unsupported("tables beyond " + std::to_string(kMostPlaces))
               : Status();
  }
  std::uint64_t workspace_bytes() const override { return places_.size() * sizeof(int) + weights_.size() * sizeof(float); }
  Status run(const KernelCall& call) override {
    if (task_.total == 0) return {};
    TableTask task = task_;
    const std::size_t places = places_.size() * sizeof(int);
    if (places > 0) FB_TRY(check(cudaMemcpyAsync(call.workspace, places_.data(), places, cudaMemcpyHostToDevice, queue_stream())));
    if (mixes_) {
      FB_TRY(check(cudaMemcpyAsync(call.workspace + places, weights_.data(), weights_.size() * sizeof(float), cudaMemcpyHostToDevice,
                                   queue_stream())));
      task.weights = reinterpret_cast<const float*>(call.workspace + places);
    }
    task.tables = reinterpret_cast<const int*>(call.workspace);
    task.a = call.inputs[0].data;
    task.y = call.outputs[0].data;
    if (fills_ && call.inputs.size() > 2 && call.inputs[2].present()) task.fill = call.inputs[2].data;
    return check(mixes_ ? launch_table_mix(task, queue_stream()) : launch_table_copy(task, queue_stream()));
  }

 private:
  static constexpr std::int64_t kMostPlaces = std::int64_t{1} << 24;

  void add_axis(std::span<const std::int64_t> places, int width) {
    const std::size_t d = axes_++;
    task_.first[d] = static_cast<int>(places_.size());
    task_.width[d] = width;
    for (const std::int64_t place : places) places_.push_back(static_cast<int>(place));
  }
  Status pad(const PrepareContext& context) {
    axes_ = 0;
    fills_ = true;
    if (context.node.version() < 11 && context.node.real("value", 0.0f) != 0.0f) return context.node.unsupported("a value as an attribute");
    FB_ASSIGN(const auto places, ops::pad_places(context));
    for (const auto& axis : places) add_axis(axis, 1);
    return {};
  }
  Status tile(std::span<const std::int64_t> in, std::span<const std::int64_t> out) {
    axes_ = 0;
    for (std::size_t d = 0; d < in.size(); ++d) {
      std::vector<std::int64_t> places(static_cast<std::size_t>(out[d]));
      for (std::size_t i = 0; i < places.size(); ++i) places[i] = static_cast<std::int64_t>(i) % in[d];
      add_axis(places, 1);
    }
    return {};
  }
  Status resize(const PrepareContext& context) {
    axes_ = 0;
    FB_ASSIGN(const ops::ResizeRules rules, ops::resize_rules(context.node));
    bool known = false;
    FB_ASSIGN(const std::vector<ops::ResizeAxis> axes, ops::resize_geometry(context.node, context.inputs[0], context.values, &known));
    mixes_ = rules.mode != ops::ResizeMode::nearest;
    const bool crops = rules.coordinates == ops::Coordinates::tf_crop_and_resize;
    if (!known || (mixes_ && !float_type(task_.type)) || (crops && !mixes_)) return context.node.unsupported("this form");
    task_.fill_value = static_cast<float>(rules.extrapolation);
    for (const ops::ResizeAxis& axis : axes) {
      if (axis.in == 0) return context.node.unsupported("an empty axis");
      ops::AxisTaps taps = ops::axis_taps(rules, axis);
      if (mixes_ && axis.in == axis.out && axis.scale == 1.0 && !crops) {  // one tap does
        taps = {};
        for (std::int64_t i = 0; i < axis.out; ++i) taps.index.push_back(i);
        taps.weight.assign(taps.index.size(), 1.0);
      }
      for (std::size_t i = 0; i < taps.outside.size(); ++i) {
        if (taps.outside[i] != 0) taps.index[i * static_cast<std::size_t>(taps.width)] = -1;
      }
      add_axis(taps.index, taps.width);
      for (const double weight : taps.weight) weights_.push_back(static_cast<float>(weight));
    }
    return {};
  }

  TableTask task_;
  std::vector<int> places_;
  std::vector<float> weights_;
  std::size_t axes_ = 0;
  bool mixes_ = false, fills_ = false;
};

KernelPtr make_table(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const int bits = dtype_bits(inputs[0].dtype);
  if (bits < 8 || bits > 64) return nullptr;
  return std::make_unique<TableKernel>(node.op() == "Pad" ? "cuda.pad" : node.op() == "Tile" ? "cuda.tile" : "cuda.resize", state);
}

}  // namespace

std::span<const TableEntry> map_table() {
  static constexpr TableEntry kTable[] = {
      {"", "Sign", make_map},     {"", "Round", make_map},      {"", "Tan", make_map},   {"", "Asin", make_map},
      {"", "Acos", make_map},     {"", "Atan", make_map},       {"", "Sinh", make_map},  {"", "Cosh", make_map},
      {"", "Asinh", make_map},    {"", "Acosh", make_map},      {"", "Atanh", make_map}, {"", "Softplus", make_map},
      {"", "Softsign", make_map}, {"", "Elu", make_map},        {"", "Celu", make_map},  {"", "ThresholdedRelu", make_map},
      {"", "Selu", make_map},     {"", "Shrink", make_map},     {"", "Clip", make_map},  {"", "IsNaN", make_map},
      {"", "IsInf", make_map},    {"", "Not", make_not},        {"", "Pad", make_table}, {"", "Tile", make_table},
      {"", "Resize", make_table}, {"", "Upsample", make_table},
  };
  return kTable;
}

}  // namespace forebay::cuda
