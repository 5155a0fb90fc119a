// LSTM, GRU and RNN: shapes and registration.
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/recurrent_kernel.h"

namespace forebay::ops {
namespace {

Status infer_recurrent(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape &x = context.input(0), &w = context.input(1), &r = context.input(2);
  if (!x.present() || !w.present() || !r.present()) return node.invalid("inputs X, W and R are needed");
  FB_TRY(require_float(node, x.dtype, "X"));
  for (const std::size_t i : {1, 2, 3, 5, 6, 7}) {
    if (context.input(i).present() && context.input(i).dtype != x.dtype) return node.invalid("input " + std::to_string(i) + " has another type than X");
  }
  if (context.input(4).present() && context.input(4).dtype != DType::i32) return node.invalid("sequence_lens must be i32");
  const std::string_view direction = node.text("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional") return node.invalid("direction is '" + std::string(direction) + "'");
  const std::int64_t directions = direction == "bidirectional" ? 2 : 1;
  const bool batch_first = node.integer("layout", 0) != 0;
  if ((x.has_rank && x.dims.size() != 3) || (w.has_rank && w.dims.size() != 3) || (r.has_rank && r.dims.size() != 3)) {
    return node.invalid("X, W and R must have three dimensions");
  }
  std::int64_t steps = -1, batch = -1, hidden = node.integer("hidden_size", -1);
  if (x.has_rank) {
    steps = x.dims[batch_first ? 1 : 0];
    batch = x.dims[batch_first ? 0 : 1];
  }
  if (r.has_rank && r.dims[2] >= 0) {
    if (hidden >= 0 && hidden != r.dims[2]) return node.invalid("hidden_size " + std::to_string(hidden) + " does not fit R " + dims_text(r.dims));
    hidden = r.dims[2];
  }
  if (r.has_rank && r.dims[0] >= 0 && r.dims[0] != directions) return node.invalid("R " + dims_text(r.dims) + " does not have one matrix a direction");
  if (r.has_rank && r.dims[1] >= 0 && hidden >= 0 && r.dims[1] != hidden * cell_gates(cell_kind(node))) {
    return node.invalid("R " + dims_text(r.dims) + " does not have the rows of all gates");
  }
  context.set_output(0, x.dtype,
                     batch_first ? std::vector<std::int64_t>{batch, steps, directions, hidden} : std::vector<std::int64_t>{steps, directions, batch, hidden});
  const auto state = batch_first ? std::vector<std::int64_t>{batch, directions, hidden} : std::vector<std::int64_t>{directions, batch, hidden};
  context.set_output(1, x.dtype, state);
  if (node.op() == "LSTM") context.set_output(2, x.dtype, state);
  return {};
}

Result<std::unique_ptr<Kernel>> create_recurrent(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return create_recurrent_kernel(cell_kind(node));
}

}  // namespace

std::span<const OpSpec> recurrent_ops() {
  static const OpSpec specs[] = {
      {"", "LSTM", 1, 0x7fffffff, kOpNone, 0, infer_recurrent, nullptr, create_recurrent},
      {"", "GRU", 1, 0x7fffffff, kOpNone, 0, infer_recurrent, nullptr, create_recurrent},
      {"", "RNN", 1, 0x7fffffff, kOpNone, 0, infer_recurrent, nullptr, create_recurrent},
  };
  return specs;
}

}  // namespace forebay::ops
