// Einsum: any equation over up to eight inputs. Contractions of two operands that amount to a batched matrix product run as one; the rest
// is summed index by index.
#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "base/check.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kMostOperands = 8;
// Labels of the ellipsis' axes, counted from the last: no letter.
constexpr int kEllipsis = 256;

struct Equation {
  std::vector<std::vector<int>> inputs;
  std::vector<int> output;
};

Result<std::vector<int>> expand(const NodeView& node, std::string_view term, std::size_t ellipsis_axes) {
  std::vector<int> labels;
  bool seen = false;
  for (std::size_t i = 0; i < term.size(); ++i) {
    if (std::isalpha(static_cast<unsigned char>(term[i])) != 0) {
      labels.push_back(static_cast<unsigned char>(term[i]));
    } else if (term.substr(i, 3) == "..." && !seen) {
      for (std::size_t a = ellipsis_axes; a-- > 0;) labels.push_back(kEllipsis + static_cast<int>(a));
      seen = true;
      i += 2;
    } else {
      return node.invalid("the equation holds '" + std::string(term) + "'");
    }
  }
  return labels;
}

std::size_t letters(std::string_view term) {
  return static_cast<std::size_t>(std::count_if(term.begin(), term.end(), [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }));
}

// The output of an equation without "->": the ellipsis, then the labels that occur once, in alphabetical order.
std::vector<int> implicit_output(const Equation& equation, std::size_t ellipsis_axes) {
  std::array<int, 256> count{};
  for (const auto& labels : equation.inputs) {
    for (const int label : labels) {
      if (label < kEllipsis) ++count[static_cast<std::size_t>(label)];
    }
  }
  std::vector<int> output;
  for (std::size_t a = ellipsis_axes; a-- > 0;) output.push_back(kEllipsis + static_cast<int>(a));
  for (int label = 0; label < 256; ++label) {
    if (count[static_cast<std::size_t>(label)] == 1) output.push_back(label);
  }
  return output;
}

Result<Equation> parse(const NodeView& node, std::span<const TypeShape> inputs) {
  std::string text(node.text("equation", ""));
  std::erase_if(text, [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; });
  const std::size_t arrow = text.find("->");
  std::string_view left = std::string_view(text).substr(0, arrow), right = arrow == std::string::npos ? std::string_view() : std::string_view(text).substr(arrow + 2);
  std::vector<std::string_view> terms;
  for (std::size_t at = 0; at <= left.size();) {
    const std::size_t comma = std::min(left.find(',', at), left.size());
    terms.push_back(left.substr(at, comma - at));
    at = comma + 1;
  }
  if (terms.size() != inputs.size() || terms.size() > kMostOperands) {
    return node.invalid("the equation '" + text + "' does not have one term for each of " + std::to_string(inputs.size()) + " inputs");
  }
  Equation equation;
  std::size_t widest = 0;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const std::size_t own = letters(terms[i]), rank = inputs[i].dims.size();
    const bool ellipsis = terms[i].find("...") != std::string_view::npos;
    if (ellipsis ? rank < own : rank != own) return node.invalid("the term '" + std::string(terms[i]) + "' does not fit an input " + dims_text(inputs[i].dims));
    FB_ASSIGN(std::vector<int> labels, expand(node, terms[i], ellipsis ? rank - own : 0));
    widest = std::max(widest, ellipsis ? rank - own : 0);
    equation.inputs.push_back(std::move(labels));
  }
  if (arrow == std::string::npos) {
    equation.output = implicit_output(equation, widest);
  } else {
    FB_ASSIGN(equation.output, expand(node, right, widest));
  }
  return equation;
}

// Size of every label; axes of size 1 under a label of another size broadcast (ellipsis).
struct Sizes {
  std::array<std::int64_t, kEllipsis + 16> of;
  Sizes() { of.fill(-2); }
};

Result<Sizes> label_sizes(const NodeView& node, const Equation& equation, std::span<const TypeShape> inputs) {
  Sizes sizes;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t a = 0; a < equation.inputs[i].size(); ++a) {
      std::int64_t& size = sizes.of[static_cast<std::size_t>(equation.inputs[i][a])];
      const std::int64_t dim = inputs[i].dims[a];
      if (size == -2 || size == 1 || (size < 0 && dim >= 0)) {
        size = dim;
      } else if (dim >= 0 && size >= 0 && dim != 1 && dim != size) {
        return node.invalid("a label has sizes " + std::to_string(size) + " and " + std::to_string(dim));
      }
    }
  }
  for (std::size_t i = 0; i < equation.output.size(); ++i) {
    if (sizes.of[static_cast<std::size_t>(equation.output[i])] == -2) return node.invalid("an output label is in no input");
    if (std::count(equation.output.begin(), equation.output.end(), equation.output[i]) > 1) return node.invalid("an output label occurs twice");
  }
  return sizes;
}

Status infer_einsum(InferContext& context) {
  const NodeView& node = context.node();
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  if (inputs.empty()) return node.invalid("an input is needed");
  for (const TypeShape& input : inputs) {
    if (!input.present() || input.dtype != inputs[0].dtype) return node.invalid("the inputs must have one type");
    FB_TRY(require_float(node, input.dtype, "an input"));
    if (!input.has_rank) {
      context.set_output_unranked(0, inputs[0].dtype);
      return {};
    }
    if (input.dims.size() > static_cast<std::size_t>(kMaxRank)) return node.unsupported("rank above 8");
  }
  FB_ASSIGN(const Equation equation, parse(node, inputs));
  FB_ASSIGN(const Sizes sizes, label_sizes(node, equation, inputs));
  std::vector<std::int64_t> dims;
  for (const int label : equation.output) dims.push_back(sizes.of[static_cast<std::size_t>(label)]);
  context.set_output(0, inputs[0].dtype, std::move(dims));
  return {};
}

// An index of the loops: its size and its stride in every operand.
struct Loop {
  std::int64_t size = 1;
  std::array<std::int64_t, kMostOperands> stride{};
};

class EinsumKernel final : public FloatKernel {
 public:
  std::string_view id() const override { return matrix_ ? "cpu.einsum.gemm" : "cpu.einsum"; }

 protected:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(const Equation equation, parse(context.node, context.inputs));
    FB_ASSIGN(const Sizes sizes, label_sizes(context.node, equation, context.inputs));
    operands_ = context.inputs.size();
    outer_.clear();
    inner_.clear();
    std::vector<int> summed;
    for (const auto& labels : equation.inputs) {
      for (const int label : labels) {
        const bool kept = std::count(equation.output.begin(), equation.output.end(), label) > 0;
        if (!kept && std::count(summed.begin(), summed.end(), label) == 0) summed.push_back(label);
      }
    }
    for (const int label : equation.output) outer_.push_back(loop(equation, sizes, context.inputs, label));
    for (const int label : summed) inner_.push_back(loop(equation, sizes, context.inputs, label));
    plan_matrix(context);
    return {};
  }
  Status compute(const KernelCall& call) override {
    if (call.inputs[0].dtype == DType::f64) {
      sum<double>(call);
    } else if (matrix_) {
      multiply(call);
    } else {
      sum<float>(call);
    }
    return {};
  }

 private:
  static Loop loop(const Equation& equation, const Sizes& sizes, std::span<const TypeShape> inputs, int label) {
    Loop made;
    made.size = sizes.of[static_cast<std::size_t>(label)];
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      std::int64_t stride = 1;
      for (std::size_t a = inputs[i].dims.size(); a-- > 0;) {
        if (equation.inputs[i][a] == label && inputs[i].dims[a] != 1) made.stride[i] += stride;  // a repeated label walks the diagonal
        stride *= inputs[i].dims[a];
      }
    }
    return made;
  }

  // Two operands, one summed index, and the last two of the output are a row of the first and a column of the second.
  void plan_matrix(const PrepareContext& context) {
    matrix_ = false;
    if (operands_ != 2 || inner_.size() != 1 || outer_.size() < 2 || context.inputs[0].dtype == DType::f64) return;
    const Loop &row = outer_[outer_.size() - 2], &column = outer_.back(), &k = inner_[0];
    if (row.stride[1] != 0 || column.stride[0] != 0 || row.size * column.size * k.size < 4096) return;
    matrix_ = true;
    batches_ = 1;
    for (std::size_t i = 0; i + 2 < outer_.size(); ++i) batches_ *= outer_[i].size;
    const int threads = context.pool->threads();
    grid_ = cpu::gemm_grid(set_, row.size, column.size, k.size, batches_ >= threads ? 1 : threads);
    each_ = cpu::gemm_scratch_floats(set_, row.size, column.size, k.size);
    set_scratch(float_bytes(each_ * threads));
  }

  std::int64_t offset(std::span<const Loop> loops, std::int64_t index, std::size_t operand) const {
    std::int64_t at = 0;
    for (std::size_t i = loops.size(); i-- > 0;) {
      at += index % loops[i].size * loops[i].stride[operand];
      index /= loops[i].size;
    }
    return at;
  }

  void multiply(const KernelCall& call) const {
    const Loop &row = outer_[outer_.size() - 2], &column = outer_.back(), &k = inner_[0];
    const auto task_of = [&](std::int64_t batch) {
      const auto loops = std::span(outer_).first(outer_.size() - 2);
      cpu::GemmTask task;
      task.m = row.size;
      task.n = column.size;
      task.k = k.size;
      task.a = {call.inputs[0].data + offset(loops, batch, 0) * 4, DType::f32, row.stride[0], k.stride[0]};
      task.b = {call.inputs[1].data + offset(loops, batch, 1) * 4, DType::f32, k.stride[1], column.stride[1]};
      task.c = reinterpret_cast<float*>(call.outputs[0].data) + batch * task.m * task.n;
      task.c_stride = task.n;
      return task;
    };
    auto* scratch = reinterpret_cast<float*>(call.workspace);
    const std::int64_t threads = call.pool->threads();
    if (batches_ < threads) {
      for (std::int64_t batch = 0; batch < batches_; ++batch) cpu::gemm_parallel(set_, task_of(batch), grid_, *call.pool, scratch);
      return;
    }
    call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        for (std::int64_t batch = batches_ * part / threads; batch < batches_ * (part + 1) / threads; ++batch) {
          const cpu::GemmTask task = task_of(batch);
          cpu::gemm_range(set_, task, 0, task.m, 0, task.n, scratch + part * each_);
        }
      }
    });
  }

  template <typename T>
  void sum(const KernelCall& call) const {
    std::int64_t terms = 1;
    for (const Loop& l : inner_) terms *= l.size;
    T* y = reinterpret_cast<T*>(call.outputs[0].data);
    const std::int64_t count = call.outputs[0].shape.elements();
    call.pool->parallel_for(count, std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(1, terms)), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::array<std::int64_t, kMostOperands> base{};
        for (std::size_t o = 0; o < operands_; ++o) base[o] = offset(outer_, i, o);
        T total = 0;
        for (std::int64_t t = 0; t < terms; ++t) {
          T product = 1;
          for (std::size_t o = 0; o < operands_; ++o) product *= reinterpret_cast<const T*>(call.inputs[o].data)[base[o] + offset(inner_, t, o)];
          total += product;
        }
        y[i] = total;
      }
    });
  }

  cpu::InstructionSet set_ = cpu::cpu_instruction_set();
  std::vector<Loop> outer_, inner_;
  std::size_t operands_ = 0;
  bool matrix_ = false;
  std::int64_t batches_ = 1, each_ = 0;
  cpu::GemmGrid grid_;
};

Result<std::unique_ptr<Kernel>> create_einsum(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<EinsumKernel>());
}

}  // namespace

std::span<const OpSpec> einsum_ops() {
  static const OpSpec specs[] = {{"", "Einsum", 12, 0x7fffffff, kOpNone, 0, infer_einsum, nullptr, create_einsum}};
  return specs;
}

}  // namespace forebay::ops
