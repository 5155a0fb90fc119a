#include "runtime/ops/product_plain.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/nn_support.h"

namespace forebay::ops {
namespace {

std::int64_t batch_of(std::span<const std::int64_t> dims) { return dims.size() > 2 ? static_cast<std::int64_t>(dims.size()) - 2 : 0; }

// Offset of each output batch in an operand whose own batch dims broadcast.
std::vector<std::int64_t> batch_offsets(std::span<const std::int64_t> batch, std::span<const std::int64_t> own, std::int64_t matrix) {
  std::int64_t count = 1;
  for (const std::int64_t dim : batch) count *= dim;
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = i, stride = matrix, offset = 0;
    for (std::size_t axis = batch.size(); axis-- > 0;) {
      const std::int64_t index = rest % batch[axis];
      rest /= batch[axis];
      if (axis + own.size() < batch.size()) continue;
      const std::int64_t dim = own[axis + own.size() - batch.size()];
      if (dim != 1) offset += index * stride;
      stride *= dim;
    }
    offsets[static_cast<std::size_t>(i)] = offset;
  }
  return offsets;
}

template <typename T>
class PlainProduct final : public Kernel {
 public:
  explicit PlainProduct(const ProductSpec& spec) : spec_(spec) {}
  Status prepare(const PrepareContext& context) override {
    const TypeShape* c = context.inputs.size() > 2 && context.inputs[2].present() ? &context.inputs[2] : nullptr;
    FB_ASSIGN(layout_, product_layout(context.node, context.inputs[0], context.inputs[1], c, spec_));
    return {};
  }
  Status run(const KernelCall& call) override {
    const T* c = in<T>(call, 2);
    const auto rows = static_cast<std::int64_t>(layout_.a_offsets.size()) * layout_.m;
    call.pool->parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) run_row(call, c, row / layout_.m, row % layout_.m);
    });
    return {};
  }
  std::string_view id() const override { return "cpu.product.plain"; }

 private:
  // Integers wrap as unsigned: signed overflow would be undefined.
  static T multiply_add(T sum, T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      return sum + a * b;
    } else {
      return static_cast<T>(static_cast<std::uint64_t>(sum) + static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
    }
  }
  void run_row(const KernelCall& call, const T* c, std::int64_t batch, std::int64_t m) const {
    const auto at = static_cast<std::size_t>(batch);
    const T* a = reinterpret_cast<const T*>(call.inputs[0].data) + layout_.a_offsets[at] + m * layout_.a_row;
    const T* b = reinterpret_cast<const T*>(call.inputs[1].data) + layout_.b_offsets[at];
    T* y = reinterpret_cast<T*>(call.outputs[0].data) + (batch * layout_.m + m) * layout_.n;
    std::fill(y, y + layout_.n, T(0));
    for (std::int64_t k = 0; k < layout_.k; ++k) {
      const T value = a[k * layout_.a_col];
      for (std::int64_t n = 0; n < layout_.n; ++n) y[n] = multiply_add(y[n], value, b[k * layout_.b_row + n * layout_.b_col]);
    }
    if (spec_.alpha == 1.0f && c == nullptr) return;
    for (std::int64_t n = 0; n < layout_.n; ++n) {
      if constexpr (std::is_floating_point_v<T>) {
        y[n] = static_cast<T>(spec_.alpha) * y[n];
        if (c != nullptr) y[n] += static_cast<T>(spec_.beta) * c[m * layout_.c_row + n * layout_.c_col];
      } else {  // alpha and beta are floats also for integers: whole numbers stay exact
        if (spec_.alpha != 1.0f) y[n] = static_cast<T>(static_cast<double>(spec_.alpha) * static_cast<double>(y[n]));
        if (c == nullptr) continue;
        const T added = c[m * layout_.c_row + n * layout_.c_col];
        y[n] = multiply_add(y[n], spec_.beta == 1.0f ? added : static_cast<T>(static_cast<double>(spec_.beta) * static_cast<double>(added)), T(1));
      }
    }
  }
  ProductSpec spec_;
  ProductLayout layout_;
};

}  // namespace

Result<ProductLayout> product_layout(const NodeView& node, const TypeShape& a, const TypeShape& b, const TypeShape* c, const ProductSpec& spec) {
  FB_ASSIGN(const std::vector<std::int64_t> out, product_dims(node, a, b, spec));
  ProductLayout layout;
  std::vector<std::int64_t> da = a.dims, db = b.dims;
  if (da.size() == 1) da.insert(da.begin(), 1);
  if (db.size() == 1) db.push_back(1);
  const std::size_t ra = da.size(), rb = db.size();
  layout.m = spec.trans_a ? da[ra - 1] : da[ra - 2];
  layout.k = spec.trans_a ? da[ra - 2] : da[ra - 1];
  layout.n = spec.trans_b ? db[rb - 2] : db[rb - 1];
  layout.a_row = spec.trans_a ? 1 : layout.k;
  layout.a_col = spec.trans_a ? layout.m : 1;
  layout.b_row = spec.trans_b ? 1 : layout.n;
  layout.b_col = spec.trans_b ? layout.k : 1;
  const auto batch_a = std::span(da).first(static_cast<std::size_t>(batch_of(da)));
  const auto batch_b = std::span(db).first(static_cast<std::size_t>(batch_of(db)));
  FB_ASSIGN(const std::vector<std::int64_t> batch, broadcast_dims(node, batch_a, batch_b));
  const bool one_b = std::all_of(batch_b.begin(), batch_b.end(), [](std::int64_t dim) { return dim == 1; });
  if (one_b && !spec.trans_a) {  // one matrix B: the batches of A are more rows
    for (const std::int64_t dim : batch_a) layout.m *= dim;
    layout.a_offsets = layout.b_offsets = {0};
  } else {
    layout.a_offsets = batch_offsets(batch, batch_a, layout.m * layout.k);
    layout.b_offsets = batch_offsets(batch, batch_b, layout.k * layout.n);
  }
  if (c != nullptr) {  // Gemm, or the bias of Linear
    const std::size_t rank = c->dims.size();
    if (rank > 2) return node.invalid("C has rank " + std::to_string(rank) + ", at most 2 is possible");
    const std::int64_t columns = rank >= 1 ? c->dims[rank - 1] : 1, rows = rank == 2 ? c->dims[0] : 1;
    if ((columns != 1 && columns != layout.n) || (rows != 1 && rows != layout.m)) {
      return node.invalid("C " + dims_text(c->dims) + " does not broadcast to " + dims_text(out));
    }
    layout.c_col = columns == 1 ? 0 : 1;
    layout.c_row = rows == 1 ? 0 : columns;
  }
  return layout;
}

std::unique_ptr<Kernel> create_plain_product(DType dtype, const ProductSpec& spec) {
  switch (dtype) {
    case DType::f64: return std::make_unique<PlainProduct<double>>(spec);
    case DType::i32: return std::make_unique<PlainProduct<std::int32_t>>(spec);
    case DType::i64: return std::make_unique<PlainProduct<std::int64_t>>(spec);
    case DType::u32: return std::make_unique<PlainProduct<std::uint32_t>>(spec);
    case DType::u64: return std::make_unique<PlainProduct<std::uint64_t>>(spec);
    case DType::i16: return std::make_unique<PlainProduct<std::int16_t>>(spec);
    case DType::u16: return std::make_unique<PlainProduct<std::uint16_t>>(spec);
    case DType::i8: return std::make_unique<PlainProduct<std::int8_t>>(spec);
    case DType::u8: return std::make_unique<PlainProduct<std::uint8_t>>(spec);
    default: return nullptr;
  }
}

}  // namespace forebay::ops
