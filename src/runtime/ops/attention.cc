// Attention (23, 24) with past, masks, grouped heads, softcap and its intermediate output, and RotaryEmbedding (23).
//
// In f32 a block of query rows is multiplied by all keys it may see, made a softmax, and multiplied by the values: blocked products for
// many rows, attention_rows for a few; keys and values of f16 and bf16 stay as they are and are widened a few rows at a time. f64 and the
// intermediate output go one row at a time. forebay.Attention is what the builder writes for
// attention found in a graph: as Attention, but a row that sees nothing gives what a softmax of it gives (not a number), or zero with
// nan_rows = 1, and where a boolean mask is false the score becomes mask_fill.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/ops/attention_dims.h"
#include "runtime/ops/attention_rows.h"
#include "runtime/ops/families.h"
#include "runtime/ops/lane_sums.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/rotary.h"
#include "runtime/ops/softmax_rows.h"
#include "runtime/ops/vector_loops.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kMask = kAttentionMask, kPastKey = kAttentionPastKey, kPastValue = kAttentionPastValue, kLengths = kAttentionLengths;

bool has(std::span<const TypeShape> inputs, std::size_t i) { return i < inputs.size() && inputs[i].present(); }

Status infer_attention(InferContext& context) {
  const NodeView& node = context.node();
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  for (std::size_t i = 0; i < 3; ++i) {
    if (!has(inputs, i)) return node.invalid("Q, K and V are needed");
    FB_TRY(require_float(node, inputs[i].dtype, "Q, K or V"));
    if ((inputs[i].dtype == DType::f64) != (inputs[0].dtype == DType::f64)) return node.unsupported("f64 mixed with narrower types");
  }
  if (has(inputs, kMask) && inputs[kMask].dtype != DType::boolean && !kernel_float(inputs[kMask].dtype)) {
    return node.unsupported("a mask of type " + std::string(dtype_name(inputs[kMask].dtype)));
  }
  const DType q = inputs[0].dtype, k = inputs[1].dtype, v = inputs[2].dtype;
  if (!inputs[0].has_rank || !inputs[1].has_rank || !inputs[2].has_rank) {
    context.set_output_unranked(0, q);
    context.set_output_unranked(1, k);
    context.set_output_unranked(2, v);
    context.set_output_unranked(3, q);
    return {};
  }
  FB_ASSIGN(const AttentionDims d, attention_dims(node, inputs));
  const std::int64_t wide = d.q_heads < 0 || d.value_head < 0 ? -1 : d.q_heads * d.value_head;
  context.set_output(0, q, d.packed ? std::vector<std::int64_t>{d.batch, d.queries, wide} : std::vector<std::int64_t>{d.batch, d.q_heads, d.queries, d.value_head});
  context.set_output(1, k, {d.batch, d.kv_heads, d.total(), d.head});
  context.set_output(2, v, {d.batch, d.kv_heads, d.total(), d.value_head});
  context.set_output(3, q, {d.batch, d.q_heads, d.queries, d.total()});
  return {};
}

class AttentionKernel final : public FloatKernel {
 public:
  // `tiled`: keys, values and pasts are taken as they are.
  explicit AttentionKernel(bool tiled) {
    if (!tiled) return;
    raw_inputs_ = 1u << 1 | 1u << 2 | 1u << kPastKey | 1u << kPastValue;
    raw_outputs_ = 1u << 1 | 1u << 2;
  }
  std::string_view id() const override { return "cpu.attention"; }

 protected:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_ASSIGN(d_, attention_dims(node, context.inputs));
    scale_ = node.has("scale") ? static_cast<double>(node.real("scale", 1)) : 1.0 / std::sqrt(static_cast<double>(d_.head));
    softcap_ = static_cast<double>(node.real("softcap", 0));
    causal_ = node.integer("is_causal", 0) != 0;
    mode_ = node.integer("qk_matmul_output_mode", 0);
    mask_fill_ = static_cast<double>(node.real("mask_fill", -std::numeric_limits<float>::infinity()));
    empty_rows_ = EmptyRows::zero;
    if (node.domain() == "forebay") empty_rows_ = node.integer("nan_rows", 0) != 0 ? EmptyRows::zero_when_nan : EmptyRows::as_softmax;
    FB_ASSIGN(const AttentionMask mask, check_attention(node, context.inputs, d_));
    mask_strides_ = mask.strides;
    mask_length_ = mask.length;
    blocked_ = context.inputs[0].dtype != DType::f64 && (context.outputs.size() <= 3 || !context.outputs[3].present());
    const auto threads = static_cast<std::uint64_t>(context.pool->threads());
    set_scratch((blocked_ ? plan_blocks() : float_bytes(d_.total(), 8)) * threads);
    return {};
  }
  Status compute(const KernelCall& call) override {
    if (blocked_) {
      present(call, 1, 1, kPastKey, d_.head);
      present(call, 2, 2, kPastValue, d_.value_head);
      go_blocked(call);
    } else if (call.inputs[0].dtype == DType::f64) {
      go<double>(call);
    } else {
      go<float>(call);
    }
    return {};
  }

 private:
  // Row j of the keys or values of a head: past first, then the new ones in either layout.
  template <typename T>
  const T* row(const KernelCall& call, std::size_t input, std::size_t past, std::int64_t b, std::int64_t h, std::int64_t j, std::int64_t width) const {
    if (j < d_.past) return reinterpret_cast<const T*>(call.inputs[past].data) + ((b * d_.kv_heads + h) * d_.past + j) * width;
    const std::int64_t at = j - d_.past;
    const auto* data = reinterpret_cast<const T*>(call.inputs[input].data);
    return d_.packed ? data + ((b * d_.keys + at) * d_.kv_heads + h) * width : data + ((b * d_.kv_heads + h) * d_.keys + at) * width;
  }

  template <typename T>
  T bias(const KernelCall& call, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    constexpr T kNever = -std::numeric_limits<T>::infinity();
    if (causal_ && j > i + d_.past) return kNever;
    if (call.inputs.size() > kLengths && call.inputs[kLengths].present() && j >= reinterpret_cast<const std::int64_t*>(call.inputs[kLengths].data)[b]) return kNever;
    if (call.inputs.size() <= kMask || !call.inputs[kMask].present()) return T(0);
    if (j >= mask_length_) return kNever;
    const ConstTensorView& mask = call.inputs[kMask];
    const std::int64_t at = b * mask_strides_[0] + h * mask_strides_[1] + i * mask_strides_[2] + j * mask_strides_[3];
    if (mask.dtype == DType::boolean) return reinterpret_cast<const std::uint8_t*>(mask.data)[at] != 0 ? T(0) : kNever;  // mask_fill: see masked()
    return mask.dtype == DType::f64 ? static_cast<T>(reinterpret_cast<const double*>(mask.data)[at]) : static_cast<T>(reinterpret_cast<const float*>(mask.data)[at]);
  }

  template <typename T>
  T masked(const KernelCall& call, T score, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const T added = bias<T>(call, b, h, i, j);
    if (mask_fill_ == -std::numeric_limits<double>::infinity() || added != -std::numeric_limits<T>::infinity()) return score + added;
    return call.inputs[kMask].dtype == DType::boolean ? static_cast<T>(mask_fill_) : score + added;
  }

  // Softmax of a row in place; `most` is its largest score.
  template <typename T>
  void soften(T* scores, std::int64_t count, T most) const {
    constexpr T kNever = -std::numeric_limits<T>::infinity();
    if (empty_rows_ == EmptyRows::zero && most == kNever && std::all_of(scores, scores + count, [](T s) { return s == kNever; })) {
      return static_cast<void>(std::fill_n(scores, count, T(0)));
    }
    softmax_row(scores, count, scores);
    if (empty_rows_ == EmptyRows::zero_when_nan && count > 0 && std::isnan(scores[0])) std::fill_n(scores, count, T(0));
  }

  template <typename T>
  void one_query(const KernelCall& call, std::int64_t b, std::int64_t h, std::int64_t i, T* scores) const {
    const std::int64_t total = d_.total(), kv_head = h / (d_.q_heads / d_.kv_heads), head = d_.head, width = d_.value_head;
    const auto* q = reinterpret_cast<const T*>(call.inputs[0].data) +
                    (d_.packed ? ((b * d_.queries + i) * d_.q_heads + h) * head : ((b * d_.q_heads + h) * d_.queries + i) * head);
    T* shown = call.outputs.size() > 3 && call.outputs[3].present()
                   ? reinterpret_cast<T*>(call.outputs[3].data) + ((b * d_.q_heads + h) * d_.queries + i) * total
                   : nullptr;
    const auto show = [&](std::int64_t mode) {
      if (shown != nullptr && mode_ == mode) std::copy(scores, scores + total, shown);
    };
    for (std::int64_t j = 0; j < total; ++j) {
      const T* k = row<T>(call, 1, kPastKey, b, kv_head, j, head);
      scores[j] = static_cast<T>(scale_) * lane_sum<T>(head, [q, k](std::int64_t e) { return q[e] * k[e]; });
    }
    show(0);
    if (softcap_ != 0) {
      for (std::int64_t j = 0; j < total; ++j) scores[j] = static_cast<T>(softcap_ * std::tanh(static_cast<double>(scores[j]) / softcap_));
    }
    show(1);
    for (std::int64_t j = 0; j < total; ++j) scores[j] = masked(call, scores[j], b, h, i, j);
    show(2);
    const T most = total > 0 ? *std::max_element(scores, scores + total) : T(0);
    soften(scores, total, most);
    show(3);
    T* y = reinterpret_cast<T*>(call.outputs[0].data) +
           (d_.packed ? ((b * d_.queries + i) * d_.q_heads + h) * width : ((b * d_.q_heads + h) * d_.queries + i) * width);
    std::fill(y, y + width, T(0));
    for (std::int64_t j = 0; j < total; ++j) {
      if (scores[j] == T(0)) continue;
      const T* v = row<T>(call, 2, kPastValue, b, kv_head, j, width);
      for (std::int64_t e = 0; e < width; ++e) y[e] += scores[j] * v[e];
    }
  }

  // The same row in whatever type it is held.
  const std::byte* row_bytes(const KernelCall& call, std::size_t input, std::size_t past, std::int64_t b, std::int64_t h, std::int64_t j,
                             std::int64_t width) const {
    const std::int64_t size = dtype_bits(call.inputs[j < d_.past ? past : input].dtype) / 8;
    if (j < d_.past) return call.inputs[past].data + ((b * d_.kv_heads + h) * d_.past + j) * width * size;
    const std::int64_t at = j - d_.past;
    const std::int64_t place = d_.packed ? (b * d_.keys + at) * d_.kv_heads + h : (b * d_.kv_heads + h) * d_.keys + at;
    return call.inputs[input].data + place * width * size;
  }

  void present(const KernelCall& call, std::size_t output, std::size_t input, std::size_t past, std::int64_t width) const {
    if (output >= call.outputs.size() || !call.outputs[output].present()) return;
    const TensorView& to = call.outputs[output];
    const std::int64_t total = d_.total(), size = dtype_bits(to.dtype) / 8;
    call.pool->parallel_for(d_.batch * d_.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t bh = begin; bh < end; ++bh) {
        for (std::int64_t j = 0; j < total; ++j) {
          const std::byte* from = row_bytes(call, input, past, bh / d_.kv_heads, bh % d_.kv_heads, j, width);
          copy_floats(call.inputs[j < d_.past ? past : input].dtype, from, width, to.dtype, to.data + (bh * total + j) * width * size);
        }
      }
    });
  }

  template <typename T>
  void go(const KernelCall& call) const {
    present(call, 1, 1, kPastKey, d_.head);
    present(call, 2, 2, kPastValue, d_.value_head);
    const std::int64_t rows = d_.batch * d_.q_heads * d_.queries, threads = call.pool->threads();
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        T* scores = reinterpret_cast<T*>(call.workspace + static_cast<std::uint64_t>(part) * float_bytes(d_.total(), 8));
        for (std::int64_t i = rows * part / threads; i < rows * (part + 1) / threads; ++i) {
          one_query(call, i / (d_.q_heads * d_.queries), i / d_.queries % d_.q_heads, i % d_.queries, scores);
        }
      }
    });
  }

  // Rows that read the same keys and values: all queries of a head, or of all heads of a group where they are few and lie one after another.
  struct Unit {
    std::int64_t b = 0, kv_head = 0, first_head = 0;
    const float* q = nullptr;
    float* y = nullptr;
  };

  // Rows of a block and the scratch of a thread.
  std::uint64_t plan_blocks() {
    set_ = cpu::cpu_instruction_set();
    const std::int64_t group = d_.kv_heads > 0 ? d_.q_heads / d_.kv_heads : 1;
    joined_ = d_.queries * group <= kFewAttentionRows && (!d_.packed || d_.queries == 1);
    unit_rows_ = d_.queries * (joined_ ? group : 1);
    units_ = d_.batch * (joined_ ? d_.kv_heads : d_.q_heads);
    const std::int64_t total = std::max<std::int64_t>(1, d_.total());
    block_rows_ = std::min(unit_rows_, std::clamp<std::int64_t>(kBlockScores / total / 12 * 12, 12, 96));
    std::int64_t products = 0;
    for (const std::int64_t keys : {total, std::min(total, kTileRows)}) {
      products = std::max({products, cpu::gemm_scratch_floats(set_, block_rows_, keys, d_.head),
                           cpu::gemm_scratch_floats(set_, block_rows_, d_.value_head, keys)});
    }
    scores_bytes_ = float_bytes(block_rows_ * total);
    tile_at_ = unit_rows_ <= kFewAttentionRows ? 0 : float_bytes(products);
    return scores_bytes_ + tile_at_ + (raw_inputs_ != 0 ? float_bytes(std::min(total, kTileRows) * std::max(d_.head, d_.value_head)) : 0);
  }

  Unit unit(const KernelCall& call, std::int64_t index) const {
    const std::int64_t heads = joined_ ? d_.kv_heads : d_.q_heads, group = d_.q_heads / d_.kv_heads;
    Unit u;
    u.b = index / heads;
    u.first_head = index % heads * (joined_ ? group : 1);
    u.kv_head = u.first_head / group;
    const std::int64_t at = d_.packed ? u.b * d_.queries * d_.q_heads + u.first_head : (u.b * d_.q_heads + u.first_head) * d_.queries;
    u.q = reinterpret_cast<const float*>(call.inputs[0].data) + at * d_.head;
    u.y = reinterpret_cast<float*>(call.outputs[0].data) + at * d_.value_head;
    return u;
  }

  // How many keys row i of a head may see; the rest never counts, whatever lies there.
  std::int64_t visible(const KernelCall& call, std::int64_t b, std::int64_t i) const {
    std::int64_t count = d_.total();
    if (causal_) count = std::min(count, i + d_.past + 1);
    if (call.inputs.size() > kLengths && call.inputs[kLengths].present()) {
      count = std::min(count, reinterpret_cast<const std::int64_t*>(call.inputs[kLengths].data)[b]);
    }
    if (call.inputs.size() > kMask && call.inputs[kMask].present()) count = std::min(count, mask_length_);
    return std::max<std::int64_t>(0, count);
  }

  // Products with the keys (scores) or the values (y), past and new ones; narrow ones are widened tile by tile.
  void multiply(const KernelCall& call, const Unit& u, std::size_t input, AttentionRows rows, std::int64_t keys, float* scratch) const {
    const bool mixing = input == 2;
    const std::size_t past = mixing ? kPastValue : kPastKey;
    rows.width = mixing ? d_.value_head : d_.head;
    float* tile = scratch + tile_at_ / sizeof(float);
    for (const bool old : {true, false}) {
      const std::int64_t begin = old ? 0 : std::min(d_.past, keys), end = old ? std::min(d_.past, keys) : keys;
      if (begin == end) continue;
      const DType dtype = call.inputs[old ? past : input].dtype;
      const std::byte* from = row_bytes(call, input, past, u.b, u.kv_head, begin, rows.width);
      const std::int64_t stride = !old && d_.packed ? d_.kv_heads * rows.width : rows.width;
      const std::int64_t step = dtype == DType::f32 ? end - begin : kTileRows;
      for (std::int64_t at = begin; at < end; at += step) {
        AttentionRows part = rows;
        part.count = std::min(step, end - at);
        part.right = dtype == DType::f32 ? reinterpret_cast<const float*>(from) : tile;
        part.right_stride = dtype == DType::f32 ? stride : rows.width;
        if (dtype != DType::f32) widen(dtype, from + (at - begin) * stride * 2, part.count, rows.width, stride, tile);
        if (mixing) {
          part.left += at;
        } else {
          part.out += at;
        }
        product(part, mixing, at > 0, scratch);
      }
    }
  }

  void widen(DType dtype, const std::byte* from, std::int64_t count, std::int64_t width, std::int64_t stride, float* tile) const {
    if (stride == width) return cpu::to_f32(dtype, from, count * width, tile, set_);
    for (std::int64_t i = 0; i < count; ++i) cpu::to_f32(dtype, from + i * stride * 2, width, tile + i * width, set_);
  }

  void product(const AttentionRows& part, bool mixing, bool more, float* scratch) const {
    if (unit_rows_ <= kFewAttentionRows) return mixing ? attention_loops().mix(part) : attention_loops().scores(part);
    cpu::GemmTask task;
    task.m = part.rows;
    task.n = mixing ? part.width : part.count;
    task.k = mixing ? part.count : part.width;
    task.a = {reinterpret_cast<const std::byte*>(part.left), DType::f32, part.left_stride, 1};
    task.b = {reinterpret_cast<const std::byte*>(part.right), DType::f32, mixing ? part.right_stride : 1, mixing ? 1 : part.right_stride};
    task.c = part.out;
    task.c_stride = part.out_stride;
    task.accumulate = mixing && more;
    cpu::gemm_range(set_, task, 0, task.m, 0, task.n, scratch);
  }

  void one_block(const KernelCall& call, const Unit& u, std::int64_t begin, std::int64_t end, float* scores, float* scratch) const {
    const std::int64_t head = d_.head, width = d_.value_head, total = d_.total();
    const std::int64_t row_step = d_.packed && !joined_ ? d_.q_heads : 1;
    std::int64_t keys = 0;
    for (std::int64_t r = begin; r < end; ++r) keys = std::max(keys, visible(call, u.b, r % d_.queries));
    AttentionRows rows;
    rows.left = u.q + begin * row_step * head;
    rows.left_stride = row_step * head;
    rows.rows = end - begin;
    rows.out = scores;
    rows.out_stride = total;
    multiply(call, u, 1, rows, keys, scratch);
    for (std::int64_t r = begin; r < end; ++r) finish_row(call, u, r, keys, scores + (r - begin) * total);
    rows.left = scores;
    rows.left_stride = total;
    rows.out = u.y + begin * row_step * width;
    rows.out_stride = row_step * width;
    for (std::int64_t r = 0; r < rows.rows; ++r) std::fill_n(rows.out + r * rows.out_stride, width, 0.0f);
    multiply(call, u, 2, rows, keys, scratch);
  }

  // Products to weights.
  void finish_row(const KernelCall& call, const Unit& u, std::int64_t r, std::int64_t keys, float* scores) const {
    const std::int64_t h = u.first_head + r / d_.queries, i = r % d_.queries, count = visible(call, u.b, i);
    const ConstTensorView* mask = call.inputs.size() > kMask && call.inputs[kMask].present() ? &call.inputs[kMask] : nullptr;
    const AttentionLoops& loops = attention_loops();
    const bool rowwise = mask == nullptr || (mask->dtype == DType::f32 && mask_strides_[3] == 1);
    const float* added = nullptr;
    if (mask != nullptr && rowwise) {
      added = reinterpret_cast<const float*>(mask->data) + u.b * mask_strides_[0] + h * mask_strides_[1] + i * mask_strides_[2];
    }
    const bool direct = rowwise && softcap_ == 0;
    float most = loops.bias(scores, direct ? added : nullptr, static_cast<float>(scale_), count);
    if (softcap_ != 0) {
      loops.bias(scores, nullptr, static_cast<float>(1 / softcap_), count);
      vector_loops().unary(FloatUnary::tanh, false)(scores, nullptr, scores, count, {});
      most = loops.bias(scores, rowwise ? added : nullptr, static_cast<float>(softcap_), count);
    }
    if (!rowwise) {
      for (std::int64_t j = 0; j < count; ++j) scores[j] = masked(call, scores[j], u.b, h, i, j);
      most = loops.bias(scores, nullptr, 1.0f, count);
    }
    soften(scores, count, most);
    std::fill(scores + count, scores + keys, 0.0f);
  }

  void go_blocked(const KernelCall& call) const {
    const std::int64_t blocks = unit_rows_ > 0 ? (unit_rows_ + block_rows_ - 1) / block_rows_ : 0, all = units_ * blocks;
    const std::int64_t threads = call.pool->threads();
    const std::uint64_t each = call.workspace_bytes / static_cast<std::uint64_t>(threads) / 64 * 64;
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        std::byte* own = call.workspace + each * static_cast<std::uint64_t>(part);
        // Interleaved: with a causal mask later blocks are longer.
        for (std::int64_t at = part; at < all; at += threads) {
          const std::int64_t first = at % blocks * block_rows_;
          one_block(call, unit(call, at / blocks), first, std::min(unit_rows_, first + block_rows_), reinterpret_cast<float*>(own),
                    reinterpret_cast<float*>(own + scores_bytes_));
        }
      }
    });
  }

  static constexpr std::int64_t kTileRows = 128;           // widened at once
  static constexpr std::int64_t kBlockScores = 128 << 10;  // floats: they stay in the second cache
  enum class EmptyRows : std::uint8_t { zero, as_softmax, zero_when_nan };

  AttentionDims d_;
  double scale_ = 1, softcap_ = 0, mask_fill_ = 0;
  bool causal_ = false, blocked_ = false, joined_ = false;
  EmptyRows empty_rows_ = EmptyRows::zero;
  cpu::InstructionSet set_ = cpu::InstructionSet::baseline;
  std::int64_t units_ = 0, unit_rows_ = 0, block_rows_ = 1;
  std::uint64_t scores_bytes_ = 0, tile_at_ = 0;  // of a thread's scratch: the scores, then that of products, then the tile
  std::int64_t mode_ = 0, mask_length_ = 0;
  std::array<std::int64_t, 4> mask_strides_{};
};

Result<std::unique_ptr<Kernel>> create_attention(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  const bool shown = outputs.size() > 3 && outputs[3].present();
  const bool narrow =
      narrow_float(inputs[1].dtype) && narrow_float(inputs[2].dtype) && (inputs[1].dtype != DType::f32 || inputs[2].dtype != DType::f32);
  return std::unique_ptr<Kernel>(std::make_unique<AttentionKernel>(narrow && !shown));
}

}  // namespace

std::span<const OpSpec> attention_ops() {
  static const OpSpec specs[] = {
      {"", "Attention", 23, 0x7fffffff, kOpNone, 0, infer_attention, nullptr, create_attention},
      {"forebay", "Attention", 1, 0x7fffffff, kOpNone, 0, infer_attention, nullptr, create_attention},
      {"", "RotaryEmbedding", 23, 0x7fffffff, kOpNone, 0, infer_rotary, nullptr, create_rotary},
      {"com.microsoft", "RotaryEmbedding", 1, 0x7fffffff, kOpNone, 0, infer_rotary, nullptr, create_rotary},
  };
  return specs;
}

}  // namespace forebay::ops
