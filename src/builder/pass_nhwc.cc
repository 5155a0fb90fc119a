// Images with their channels together: convolutions, pools and what lies between them read and write [N,H,W,C], in which a tap of a
// pixel is one run of memory. Each node that is turned leaves a Transpose back in its place, which readers that are turned too go round;
// those that nobody reads any more are dead code. Weights of true windows are turned by their recipe, all others stay as they lie.
#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"
#include "builder/pattern.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

constexpr std::int64_t kRun = 8;            // channels that kernels read at once
constexpr std::int64_t kImageChannels = 4;  // an image's own three are padded to this
constexpr std::int64_t kMostTaps = 1024;
constexpr std::int64_t kMostSqueezed = 128 << 10;  // numbers of a weight that is read whole
constexpr std::string_view kPlain[] = {"Relu",  "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish",
                                       "Swish", "Mish",      "Gelu",    "Elu",  "Softplus",    "Clip"};
constexpr std::string_view kPools[] = {"MaxPool", "AveragePool", "GlobalAveragePool"};
constexpr std::string_view kBinary[] = {"Add", "Sub", "Mul", "Div"};

template <std::size_t N>
bool among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

class NhwcPass {
 public:
  explicit NhwcPass(PassContext& context) : ir_(context.ir), needs_(context.ir, context.registry), uses_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || node->graph != 0 || node->inputs.empty() || !is_image(node->inputs[0]) || !one_output(*node)) continue;
      FB_ASSIGN(const bool turned, turn(*node));
      made += turned ? 1 : 0;
    }
    pattern_.apply();
    ir_.sweep();
    return made;
  }

 private:
  const TypeShape& type(ValueId id) const { return ir_.values[id].type; }
  bool is_image(ValueId id) const {
    return id != kNone && type(id).has_rank && type(id).dims.size() == 4 && (type(id).dtype == DType::f16 || type(id).dtype == DType::bf16);
  }
  static bool one_output(const IrNode& node) {
    return std::all_of(node.outputs.begin() + 1, node.outputs.end(), [](ValueId id) { return id == kNone; });
  }
  bool turned(ValueId id) const { return id != kNone && twins_.contains(id); }
  std::int64_t channels(ValueId id) const { return type(id).dims[1]; }
  static bool convolves(const IrNode& node) { return (node.domain.empty() || node.domain == "forebay") && node.op == "Conv"; }

  Result<bool> turn(IrNode& node) {
    if (convolves(node)) return turn_conv(node);
    if (!node.domain.empty()) return false;
    if (among(kPools, node.op)) return turn_pool(node);
    if (among(kPlain, node.op) && turned(node.inputs[0])) {
      std::vector<ValueId> inputs = node.inputs;
      inputs[0] = twins_[inputs[0]];
      return replace(node, "", node.op, node.version, std::move(inputs), node.attributes);
    }
    if (among(kBinary, node.op) && node.version >= 7) return turn_binary(node);
    return node.op == "Concat" ? turn_concat(node) : false;
  }

  // Does a reader of `id` gain by images that are turned?
  bool leads_on(ValueId id) const {
    const std::vector<Use>& uses = uses_.uses(id);
    return std::any_of(uses.begin(), uses.end(), [](const Use& use) {
      return convolves(*use.node) || among(kPools, use.node->op) || among(kPlain, use.node->op) || among(kBinary, use.node->op) ||
             use.node->op == "Concat";
    });
  }

  Result<bool> turn_conv(IrNode& node) {
    FB_ASSIGN(const bool gated, turn_gate(node));
    if (gated) return true;
    const TypeShape w = type(node.inputs[1]);  // a copy: values are added below
    if (!needs_.fixed(node.inputs[1]) || !w.known() || w.dims.size() != 4 || channels(node.inputs[0]) < 0) return false;
    const std::int64_t group = ir_.view(node).integer("group", 1), each = w.dims[1], taps = w.dims[2] * w.dims[3];
    const bool depthwise = group > 1 && each == 1, image = group == 1 && (each == kImageChannels - 1 || each == kImageChannels) && taps > 1;
    const bool fits = depthwise ? w.dims[0] == group && group % kRun == 0 && taps <= kMostTaps : image || each % kRun == 0;
    if (!fits || w.dims[0] == 0 || taps == 0) return false;
    const bool adds = node.inputs.size() > 3 && node.inputs[3] != kNone;
    if (!turned(node.inputs[0]) && !leads_on(node.outputs[0]) && !(adds && turned(node.inputs[3]))) return false;
    std::vector<ValueId> inputs = node.inputs;
    pattern_.begin(node);
    FB_ASSIGN(inputs[0], twin(node, inputs[0], image ? kImageChannels : 0));
    if (adds) {
      FB_ASSIGN(inputs[3], twin(node, inputs[3]));
    }
    if (each > 1 && taps > 1) {
      FB_ASSIGN(inputs[1], turned_weight(node, inputs[1]));
    }
    // Factors of its one reader's channels are that reader's.
    const auto factors = scaled_.find(node.inputs[0]);
    if (factors != scaled_.end() && group == 1 && taps == 1 && uses_.single_use(node.inputs[0]) && steps_alone(ir_.view(node))) {
      inputs.resize(5, kNone);
      inputs[0] = factors->second.first;
      inputs[4] = factors->second.second;
    }
    std::vector<plan::Attribute> attributes;
    for (const plan::Attribute& attribute : node.attributes) {
      if (attribute.name != "kernel_shape") attributes.push_back(attribute);
    }
    attributes.push_back({"kernel_shape", std::vector<std::int64_t>{w.dims[2], w.dims[3]}});
    const auto mean = means_.find(node.inputs[0]);
    if (mean != means_.end() && is_product(node) && uses_.single_use(node.inputs[0]) && uses_.single_use(node.outputs[0]))
      squeezed_[node.outputs[0]] = {mean->second, node.inputs[1], bias_of(node), node.attributes};
    return replace(node, "forebay", "NhwcConv", 1, std::move(inputs), std::move(attributes));
  }

  // A product of a pixel's channels, small enough to be read whole.
  bool is_product(const IrNode& node) const {
    const TypeShape& w = type(node.inputs[1]);
    const bool plain = needs_.fixed(node.inputs[1]) && w.known() && w.dims.size() == 4 && w.dims[2] * w.dims[3] == 1 && w.dims[0] > 0;
    return plain && w.shape().elements() <= kMostSqueezed && ir_.view(node).integer("group", 1) == 1 && steps_alone(ir_.view(node)) &&
           (node.inputs.size() < 4 || node.inputs[3] == kNone);
  }

  // Squeeze and excite: the mean and both products are one operator, wherever the mean was turned. Any number of squeezed values.
  Result<bool> turn_gate(IrNode& node) {
    const auto found = squeezed_.find(node.inputs[0]);
    if (found == squeezed_.end() || !is_product(node) || type(node.inputs[1]).dims[0] % kRun != 0) return false;
    const Squeeze& down = found->second;
    std::vector<plan::Attribute> attributes;
    for (const plan::Attribute& attribute : down.attributes) {
      if (attribute.name.starts_with("activation")) attributes.push_back({"squeeze_" + attribute.name, attribute.value});
    }
    for (const plan::Attribute& attribute : node.attributes) {
      if (attribute.name.starts_with("activation")) attributes.push_back(attribute);
    }
    return replace(node, "forebay", "NhwcSqueeze", 1, {down.x, down.w, down.bias, node.inputs[1], bias_of(node)}, std::move(attributes));
  }
  static ValueId bias_of(const IrNode& node) { return node.inputs.size() > 2 ? node.inputs[2] : kNone; }

  // Every pixel is read once, as it lies.
  static bool steps_alone(const NodeView& view) {
    const auto all = [&](std::string_view name, std::int64_t wanted) {
      const auto values = view.integers(name);
      return std::all_of(values.begin(), values.end(), [&](std::int64_t value) { return value == wanted; });
    };
    return all("strides", 1) && all("pads", 0);
  }

  // [O,C,h,w] as [O,h,w,C], with zeros behind an image's three channels.
  Result<ValueId> turned_weight(const IrNode& node, ValueId w) {
    const std::string name = ir_.values[w].name + "/nhwc";
    const bool pads = type(w).dims[1] == kImageChannels - 1;
    FB_ASSIGN(ValueId made, pattern_.insert(node, name, "Transpose", kPassOpset, {w}, {{"perm", std::vector<std::int64_t>{0, 2, 3, 1}}}));
    if (!pads) return made;
    HostTensor widths(DType::i64, Shape{8});
    std::fill_n(widths.as<std::int64_t>().begin(), 8, 0);
    widths.as<std::int64_t>()[7] = 1;
    const ValueId behind = ir_.add_constant(name + "_pads", std::make_shared<const HostTensor>(std::move(widths)), {});
    return pattern_.insert(node, name + "_padded", "Pad", kPassOpset, {made, behind});
  }

  Result<bool> turn_pool(IrNode& node) {
    if (!turned(node.inputs[0]) || channels(node.inputs[0]) % kRun != 0 || channels(node.inputs[0]) < 0) return false;
    pattern_.begin(node);
    if (node.op == "GlobalAveragePool") means_[node.outputs[0]] = twins_[node.inputs[0]];
    return replace(node, "forebay", "Nhwc" + node.op, 1, {twins_[node.inputs[0]]}, node.attributes);
  }

  // One number a channel of each image.
  bool one_a_channel(ValueId id, ValueId image) const {
    const auto &a = type(id).dims, &b = type(image).dims;
    return is_image(id) && !needs_.fixed(id) && a[2] == 1 && a[3] == 1 && a[1] == b[1] && a[1] > 0 && a[1] % kRun == 0 && a[0] == b[0] &&
           (b[2] != 1 || b[3] != 1);
  }

  Result<bool> turn_binary(IrNode& node) {
    if (node.inputs.size() != 2 || node.inputs[1] == kNone) return false;
    std::vector<ValueId> inputs = node.inputs;
    if (!turned(inputs[0]) && !turned(inputs[1])) return false;
    for (const ValueId id : inputs) {
      const bool single = type(id).known() && type(id).shape().elements() == 1;
      if (!single && !(is_image(id) && (!needs_.fixed(id) || type(id).known()))) return false;
    }
    pattern_.begin(node);
    const bool product = node.op == "Mul";
    const bool scales = product && (one_a_channel(inputs[1], inputs[0]) || one_a_channel(inputs[0], inputs[1]));
    if (scales && one_a_channel(inputs[0], inputs[1])) std::swap(inputs[0], inputs[1]);
    for (ValueId& id : inputs) {
      if (type(id).known() && type(id).shape().elements() == 1) continue;
      FB_ASSIGN(id, twin(node, id));
    }
    if (scales) scaled_[node.outputs[0]] = {inputs[0], inputs[1]};
    if (scales) return replace(node, "forebay", "NhwcScale", 1, std::move(inputs), {});
    return replace(node, "", node.op, node.version, std::move(inputs), node.attributes);
  }

  Result<bool> turn_concat(IrNode& node) {
    const std::int64_t axis = ir_.view(node).integer("axis", 1);
    if ((axis != 1 && axis != -3) || !std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return turned(id); }))
      return false;
    std::vector<ValueId> inputs = node.inputs;
    for (ValueId& id : inputs) id = twins_[id];
    pattern_.begin(node);
    return replace(node, "", "Concat", node.version, std::move(inputs), {{"axis", std::int64_t{3}}});
  }

  // `id` as [N,H,W,C], made before `node` where it is not there yet.
  Result<ValueId> twin(const IrNode& node, ValueId id, std::int64_t least = 0) {
    const bool pads = least > channels(id);
    if (!pads && turned(id)) return twins_[id];
    const std::string name = ir_.values[id].name + (pads ? "/nhwc_padded" : "/nhwc");
    if (needs_.fixed(id))
      return pattern_.insert(node, name, "Transpose", kPassOpset, {id}, {{"perm", std::vector<std::int64_t>{0, 2, 3, 1}}});
    std::vector<plan::Attribute> attributes;
    if (pads) attributes.push_back({"channels", least});
    FB_ASSIGN(const ValueId made, pattern_.insert(node, name, "NhwcFromNchw", 1, {id}, std::move(attributes), "forebay"));
    if (!pads) twins_[id] = made;
    return made;
  }

  Result<bool> replace(IrNode& node, std::string_view domain, std::string_view op, std::int32_t version, std::vector<ValueId> inputs,
                       std::vector<plan::Attribute> attributes) {
    const ValueId y = node.outputs[0];
    pattern_.begin(node);
    FB_ASSIGN(const ValueId made,
              pattern_.insert(node, ir_.values[y].name + "/nhwc", op, version, std::move(inputs), std::move(attributes), domain));
    twins_[y] = made;
    FB_TRY(pattern_.become(node, "", "Transpose", kPassOpset, {made}, {{"perm", std::vector<std::int64_t>{0, 3, 1, 2}}}));
    return true;
  }

  struct Squeeze {
    ValueId x = kNone, w = kNone, bias = kNone;  // the turned image, not its mean
    std::vector<plan::Attribute> attributes;
  };

  Ir& ir_;
  ValueNeeds needs_;
  UseIndex uses_;
  Pattern pattern_;
  std::map<ValueId, std::pair<ValueId, ValueId>> scaled_;  // by the product: the turned image and its factors
  std::map<ValueId, ValueId> means_;                       // by a mean of all pixels: the turned image
  std::map<ValueId, Squeeze> squeezed_;                    // by a product of such a mean
  std::map<ValueId, ValueId> twins_;                       // by the image as the model has it
};

}  // namespace

Result<std::size_t> pass_nhwc(PassContext& context) {
  return NhwcPass(context).run();
}

}  // namespace forebay::builder
