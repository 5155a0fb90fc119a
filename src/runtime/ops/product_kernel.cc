#include "runtime/ops/product_kernel.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "base/check.h"
#include "runtime/cpu/convert_floats.h"
#include "runtime/cpu/dnnl_matmul.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/cpu/gemv.h"
#include "runtime/cpu/quant_panels.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_plain.h"

namespace forebay::ops {
namespace {



class FloatProduct final : public Kernel {
 public:
  explicit FloatProduct(const ProductSpec& spec) : spec_(spec), set_(cpu::cpu_instruction_set()) {}

  Status prepare(const PrepareContext& context) override {
    const std::size_t at = spec_.c_input;
    const TypeShape* c =
        context.inputs.size() > at && context.inputs[at].present() ? &context.inputs[at] : nullptr;
    TypeShape b = context.inputs[1];
    if (spec_.packed) {
      whole_.assign(context.inputs.begin(), context.inputs.end());
      FB_ASSIGN(packed_, quant_layout(context.node, whole_));
      b = packed_.matrix();
    }
    FB_ASSIGN(layout_, product_layout(context.node, context.inputs[0], b, c, spec_));
    if (context.sliced_input != plan::kNone && context.sliced_input != 1) return context.node.unsupported("only the second operand may come in slabs");
    consumption_ = context.consumption;
    const plan::Consumption form =
        spec_.trans_b ? plan::Consumption::by_output : plan::Consumption::by_reduction;
    if (spec_.packed && context.sliced_input != plan::kNone && consumption_ != form)
      return context.node.unsupported("slabs of another form");
    batches_ = static_cast<std::int64_t>(layout_.a_offsets.size());
    few_rows_ = layout_.m <= cpu::kGemvRows;
    std::int64_t slab_most = 0;
    for (const std::int64_t rows : context.slab_rows) slab_most = std::max(slab_most, rows);
    const DType a = context.inputs[0].dtype, y = context.outputs[0].dtype;
    stage_a_ = few_rows_ && (a != DType::f32 || layout_.a_col != 1);
    stage_y_ = y != DType::f32;
    columns_kept_ = consumption_ == plan::Consumption::by_output ? slab_most : layout_.n;
    const std::int64_t k = consumption_ == plan::Consumption::by_reduction ? slab_most : layout_.k;
    const int threads = context.pool->threads();
    grid_ = cpu::gemm_grid(set_, layout_.m, columns_kept_, k, batches_ >= threads ? 1 : threads);
    scratch_each_ = few_rows_ ? 0 : cpu::gemm_scratch_floats(set_, layout_.m, columns_kept_, k, true);
    if (spec_.packed && few_rows_)
      scratch_each_ =
          (spec_.trans_b ? cpu::quant_row_dot_scratch(layout_.m, k) : cpu::quant_axpy_scratch()) /
              16 * 16 +
          16;
    const std::int64_t scratches = batches_ >= threads || few_rows_ ? threads : grid_.parts();
    y_offset_ = stage_a_ ? float_bytes(batches_ * layout_.m * layout_.k) : 0;
    scratch_offset_ = y_offset_ + (stage_y_ ? float_bytes(batches_ * layout_.m * columns_kept_) : 0);
    std::uint64_t scratch = static_cast<std::uint64_t>(scratch_each_ * scratches) * sizeof(float);
    library_.clear();
    if (!few_rows_ && a == DType::bf16 && context.inputs[1].dtype == DType::bf16 && cpu::native_bf16()) scratch = std::max(scratch, use_library(context));
    bytes_ = scratch_offset_ + scratch;
    return {};
  }
  std::uint64_t workspace_bytes() const override { return bytes_; }
  std::string_view id() const override {
    if (few_rows_ && spec_.packed)
      return spec_.trans_b ? "cpu.packed.gemv256" : "cpu.packed.gemv_axpy";
    if (few_rows_) return spec_.trans_b ? "cpu.gemv256" : "cpu.gemv_axpy";
    if (spec_.packed) return "cpu.packed.gemm_blocked";
    return library_.empty() ? "cpu.gemm_blocked" : "cpu.dnnl.matmul";
  }

  Status run(const KernelCall& call) override {
    Slab slab{0, layout_.n, 0, layout_.k, call.slab == 0, true};
    if (consumption_ == plan::Consumption::by_output) {
      slab.column = call.row_begin;
      slab.columns = call.inputs[1].shape[0];
      slab.first = true;
    } else if (consumption_ == plan::Consumption::by_reduction) {
      slab.k = call.row_begin;
      slab.depth = call.inputs[1].shape[0];
      slab.last = call.slab + 1 == call.slab_count;
    }
    if (stage_a_ && call.slab == 0) widen_a(call);
    if (few_rows_) {
      multiply_few(call, slab);
    } else if (!library_.empty()) {
      FB_TRY(multiply_by_library(call, slab));
    } else {
      multiply_many(call, slab);
    }
    if (slab.last) finish(call, slab);
    return {};
  }

 private:
  static constexpr std::int64_t kLibraryColumns = 64;  // a part has at least as many
  struct Library {
    struct Part {
      std::int64_t column;
      std::unique_ptr<cpu::DnnlMatmul> product;
    };
    std::int64_t rows;
    bool accumulate;
    std::vector<Part> parts;
  };
  struct Slab {
    std::int64_t column, columns, k, depth;
    bool first, last;  // of the sums of these columns
  };

  // bf16 where the processor multiplies it natively: oneDNN is about twice as fast as widening. For each slab size (and for its first and
  // later sums) one product a thread, each a range of columns; none at all when one is missing. Gives the scratch they need.
  std::uint64_t use_library(const PrepareContext& context) {
    std::vector<std::int64_t> sizes(context.slab_rows.begin(), context.slab_rows.end());
    const bool output = consumption_ == plan::Consumption::by_output, reduction = consumption_ == plan::Consumption::by_reduction;
    if (!output && !reduction) sizes.assign(1, 0);
    library_scratch_ = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const bool accumulate = reduction && i > 0;
      if (find_library(sizes[i], accumulate) != nullptr) continue;
      Library library{sizes[i], accumulate, {}};
      const std::int64_t columns = output ? sizes[i] : layout_.n;
      const std::int64_t parts = std::clamp<std::int64_t>(columns / kLibraryColumns, 1, context.pool->threads());
      for (std::int64_t part = 0; part < parts; ++part) {
        const std::int64_t begin = columns * part / parts, end = columns * (part + 1) / parts;
        cpu::DnnlMatmulShape shape{layout_.m, end - begin, reduction ? sizes[i] : layout_.k, DType::bf16, layout_.a_row, layout_.a_col,
                                   layout_.b_row, layout_.b_col, stage_y_ ? columns_kept_ : layout_.n, accumulate};
        library.parts.push_back({begin, cpu::DnnlMatmul::create(shape)});
        if (library.parts.back().product == nullptr) {
          library_.clear();
          return 0;
        }
        library_scratch_ = std::max(library_scratch_, padded_bytes(library.parts.back().product->scratch_bytes()));
      }
      library_.push_back(std::move(library));
    }
    return library_scratch_ * static_cast<std::uint64_t>(context.pool->threads());
  }
  const Library* find_library(std::int64_t rows, bool accumulate) const {
    for (const Library& one : library_) {
      if (one.rows == rows && one.accumulate == accumulate) return &one;
    }
    return nullptr;
  }
  Status multiply_by_library(const KernelCall& call, const Slab& slab) const {
    const bool sliced = consumption_ == plan::Consumption::by_output || consumption_ == plan::Consumption::by_reduction;
    const Library* library = find_library(sliced ? call.inputs[1].shape[0] : 0, !slab.first);
    if (library == nullptr) return Status(Code::internal, "a slab of a size that was not prepared");
    std::atomic<bool> failed = false;
    for (std::int64_t batch = 0; batch < batches_; ++batch) {
      const cpu::GemmTask task = block_task(call, slab, batch);
      call.pool->parallel_for(static_cast<std::int64_t>(library->parts.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const Library::Part& part = library->parts[static_cast<std::size_t>(i)];
          std::byte* scratch = call.workspace + scratch_offset_ + library_scratch_ * static_cast<std::uint64_t>(i);
          const std::byte* b = task.b.data + part.column * layout_.b_col * 2;
          if (!part.product->run(task.a.data, b, task.c + part.column, scratch).ok()) failed = true;
        }
      });
    }
    return failed ? Status(Code::internal, "oneDNN failed to execute a matrix product") : Status();
  }

  // Where the sums of a batch lie and how far apart its rows are.
  float* sums(const KernelCall& call, std::int64_t batch, const Slab& slab, std::int64_t* stride) const {
    if (stage_y_) {
      *stride = columns_kept_;
      return reinterpret_cast<float*>(call.workspace + y_offset_) + batch * layout_.m * columns_kept_;
    }
    *stride = layout_.n;
    return reinterpret_cast<float*>(call.outputs[0].data) + batch * layout_.m * layout_.n + slab.column;
  }

  void widen_a(const KernelCall& call) const {
    const ConstTensorView& a = call.inputs[0];
    const std::int64_t size = dtype_bits(a.dtype) / 8;
    auto* to = reinterpret_cast<float*>(call.workspace);
    for (std::int64_t batch = 0; batch < batches_; ++batch) {
      const std::byte* from = a.data + layout_.a_offsets[static_cast<std::size_t>(batch)] * size;
      for (std::int64_t m = 0; m < layout_.m; ++m, to += layout_.k) {
        if (layout_.a_col == 1) {
          cpu::to_f32(a.dtype, from + m * layout_.a_row * size, layout_.k, to, set_);
        } else {
          for (std::int64_t k = 0; k < layout_.k; ++k) cpu::to_f32(a.dtype, from + (m * layout_.a_row + k * layout_.a_col) * size, 1, to + k, set_);
        }
      }
    }
  }

  void multiply_few(const KernelCall& call, const Slab& slab) const {
    const cpu::QuantView packed = spec_.packed ? packed_.view(call, whole_) : cpu::QuantView();
    const auto one = [&](std::int64_t batch, std::int64_t begin, std::int64_t end,
                         float* scratch = nullptr) {
      const auto at = static_cast<std::size_t>(batch);
      cpu::GemvTask task;
      task.dtype = call.inputs[1].dtype;
      task.weights = call.inputs[1].data + layout_.b_offsets[at] * (dtype_bits(task.dtype) / 8);
      task.n = slab.columns;
      task.k = slab.depth;
      task.m = layout_.m;
      task.x = stage_a_ ? reinterpret_cast<const float*>(call.workspace) + batch * layout_.m * layout_.k
                        : reinterpret_cast<const float*>(call.inputs[0].data) + layout_.a_offsets[at];
      task.x += slab.k;
      task.x_stride = stage_a_ ? layout_.k : layout_.a_row;
      task.y = sums(call, batch, slab, &task.y_stride);
      if (spec_.trans_b && spec_.packed)
        return cpu::quant_row_dot(set_, packed, task, begin, end, scratch);
      if (spec_.trans_b) return cpu::gemv_row_dot(set_, task, begin, end);
      if (slab.first) {
        for (std::int64_t m = 0; m < task.m; ++m)
          std::fill(task.y + m * task.y_stride + begin, task.y + m * task.y_stride + end, 0.0f);
      }
      if (spec_.packed) return cpu::quant_axpy(set_, packed, task, begin, end, scratch);
      cpu::gemv_axpy(set_, task, begin, end);
    };
    if (spec_.packed) return share_packed(call, slab, one);
    if (batches_ >= call.pool->threads()) {
      call.pool->parallel_for(batches_, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t batch = begin; batch < end; ++batch) one(batch, 0, slab.columns);
      });
      return;
    }
    const std::int64_t grain = std::max<std::int64_t>(16, 32768 / std::max<std::int64_t>(1, slab.depth));
    for (std::int64_t batch = 0; batch < batches_; ++batch) {
      call.pool->parallel_for(slab.columns, grain, [&](std::int64_t begin, std::int64_t end) { one(batch, begin, end); });
    }
  }

  // One matrix for all rows; a range of columns for each thread.
  template <typename F>
  void share_packed(const KernelCall& call, const Slab& slab, const F& one) const {
    const std::int64_t parts =
        std::clamp<std::int64_t>(slab.columns * slab.depth / 32768, 1, call.pool->threads());
    auto* scratch = reinterpret_cast<float*>(call.workspace + scratch_offset_);
    call.pool->parallel_for(parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t part = begin; part < end; ++part) {
        const std::int64_t from = slab.columns * part / parts / 16 * 16,
                           to = part + 1 == parts ? slab.columns
                                                  : slab.columns * (part + 1) / parts / 16 * 16;
        one(0, from, to, scratch + part * scratch_each_);
      }
    });
  }

  cpu::GemmTask block_task(const KernelCall& call, const Slab& slab, std::int64_t batch) const {
    const auto at = static_cast<std::size_t>(batch);
    cpu::GemmTask task;
    task.m = layout_.m;
    task.n = slab.columns;
    task.k = slab.depth;
    const ConstTensorView& a = call.inputs[0];
    const ConstTensorView& b = call.inputs[1];
    task.a = {a.data + (layout_.a_offsets[at] + slab.k * layout_.a_col) * (dtype_bits(a.dtype) / 8), a.dtype, layout_.a_row, layout_.a_col};
    task.b = {b.data + layout_.b_offsets[at] * (dtype_bits(b.dtype) / 8), b.dtype, layout_.b_row, layout_.b_col};
    task.c = sums(call, batch, slab, &task.c_stride);
    task.accumulate = !slab.first;
    task.wide = true;
    return task;
  }

  void multiply_many(const KernelCall& call, const Slab& slab) const {
    auto* scratch = reinterpret_cast<float*>(call.workspace + scratch_offset_);
    const int threads = call.pool->threads();
    if (spec_.packed) {
      const cpu::QuantPanels panels(set_, packed_.view(call, whole_), spec_.trans_b);
      cpu::GemmTask task = block_task(call, slab, 0);
      task.panels = &panels;
      return cpu::gemm_parallel(set_, task, grid_, *call.pool, scratch);
    }
    if (batches_ >= threads) {
      call.pool->parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t thread = begin; thread < end; ++thread) {
          for (std::int64_t batch = batches_ * thread / threads; batch < batches_ * (thread + 1) / threads; ++batch) {
            cpu::gemm_range(set_, block_task(call, slab, batch), 0, layout_.m, 0, slab.columns, scratch + thread * scratch_each_);
          }
        }
      });
      return;
    }
    for (std::int64_t batch = 0; batch < batches_; ++batch) cpu::gemm_parallel(set_, block_task(call, slab, batch), grid_, *call.pool, scratch);
  }

  // alpha, C, the activation and the output's dtype, on the columns that are complete.
  void finish(const KernelCall& call, const Slab& slab) const {
    const bool has_c = call.inputs.size() > spec_.c_input && call.inputs[spec_.c_input].present() && spec_.beta != 0.0f;
    if (!stage_y_ && !has_c && spec_.alpha == 1.0f && spec_.epilogue.loop == nullptr) return;
    call.pool->parallel_for(batches_ * layout_.m, std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(1, slab.columns)),
                            [&](std::int64_t begin, std::int64_t end) {
                              for (std::int64_t row = begin; row < end; ++row) finish_row(call, slab, row / layout_.m, row % layout_.m, has_c);
                            });
  }

  void finish_row(const KernelCall& call, const Slab& slab, std::int64_t batch, std::int64_t m, bool has_c) const {
    constexpr std::int64_t kPiece = 256;
    float values[kPiece], added[kPiece];
    std::int64_t stride = 0;
    const float* from = sums(call, batch, slab, &stride);
    from += m * stride;
    const TensorView& y = call.outputs[0];
    const std::int64_t y_size = dtype_bits(y.dtype) / 8;
    std::byte* to = y.data + ((batch * layout_.m + m) * layout_.n + slab.column) * y_size;
    for (std::int64_t at = 0; at < slab.columns; at += kPiece) {
      const std::int64_t count = std::min(kPiece, slab.columns - at);
      for (std::int64_t i = 0; i < count; ++i) values[i] = spec_.alpha * from[at + i];
      if (has_c) {
        const ConstTensorView& c = call.inputs[spec_.c_input];
        const std::byte* first = c.data + (m * layout_.c_row + (slab.column + at) * layout_.c_col) * (dtype_bits(c.dtype) / 8);
        cpu::to_f32(c.dtype, first, layout_.c_col == 0 ? 1 : count, added, set_);
        for (std::int64_t i = 0; i < count; ++i) values[i] += spec_.beta * added[layout_.c_col == 0 ? 0 : i];
      }
      spec_.epilogue.apply(values, count);
      cpu::from_f32(y.dtype, values, count, to + at * y_size, set_);
    }
  }

  ProductSpec spec_;
  cpu::InstructionSet set_;
  ProductLayout layout_;
  QuantLayout packed_;
  std::vector<TypeShape> whole_;  // the inputs uncut, when packed
  std::vector<Library> library_;
  plan::Consumption consumption_ = plan::Consumption::whole;
  std::int64_t batches_ = 1, columns_kept_ = 0, scratch_each_ = 0;
  bool few_rows_ = false, stage_a_ = false, stage_y_ = false;
  cpu::GemmGrid grid_;
  std::uint64_t y_offset_ = 0, scratch_offset_ = 0, bytes_ = 0, library_scratch_ = 0;
};

}  // namespace

Result<std::vector<std::int64_t>> product_dims(const NodeView& node, const TypeShape& a, const TypeShape& b, const ProductSpec& spec) {
  std::vector<std::int64_t> da = a.dims, db = b.dims;
  if (da.empty() || db.empty()) return node.invalid("a scalar cannot be multiplied as a matrix");
  const bool vector_a = da.size() == 1, vector_b = db.size() == 1;
  if (vector_a) da.insert(da.begin(), 1);
  if (vector_b) db.push_back(1);
  if (spec.trans_a && !vector_a) std::swap(da[da.size() - 1], da[da.size() - 2]);
  if (spec.trans_b && !vector_b) std::swap(db[db.size() - 1], db[db.size() - 2]);
  const std::int64_t ka = da[da.size() - 1], kb = db[db.size() - 2];
  if (ka >= 0 && kb >= 0 && ka != kb) {
    return node.invalid("the inner sizes differ: " + std::to_string(ka) + " of A " + dims_text(a.dims) + " and " + std::to_string(kb) +
                        " of B " + dims_text(b.dims));
  }
  FB_ASSIGN(std::vector<std::int64_t> out, broadcast_dims(node, std::span(da).first(da.size() - 2), std::span(db).first(db.size() - 2)));
  if (!vector_a) out.push_back(da[da.size() - 2]);
  if (!vector_b) out.push_back(db[db.size() - 1]);
  return out;
}

plan::Consumption product_consumption(const TypeShape& b, bool trans_b) {
  if (!narrow_float(b.dtype) || !b.has_rank || b.dims.size() != 2) return plan::Consumption::whole;
  return trans_b ? plan::Consumption::by_output : plan::Consumption::by_reduction;
}

Result<std::unique_ptr<Kernel>> create_product(const NodeView& node, const ProductSpec& spec, std::span<const TypeShape> inputs,
                                               std::span<const TypeShape> outputs) {
  if (spec.packed) return std::unique_ptr<Kernel>(std::make_unique<FloatProduct>(spec));
  const DType a = inputs[0].dtype, b = inputs[1].dtype, y = outputs[0].dtype;
  if (narrow_float(a) && narrow_float(b) && narrow_float(y)) return std::unique_ptr<Kernel>(std::make_unique<FloatProduct>(spec));
  std::unique_ptr<Kernel> plain = a == b && a == y ? create_plain_product(a, spec) : nullptr;
  if (plain == nullptr) {
    return node.unsupported("no matrix product of " + std::string(dtype_name(a)) + " and " + std::string(dtype_name(b)));
  }
  return plain;
}

}  // namespace forebay::ops
