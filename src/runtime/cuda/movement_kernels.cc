// Transpose, Concat, Split, Slice, Expand and Gather: copies of strided ranges.
#include <algorithm>
#include <array>

#include "runtime/cuda/attention_around.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/infer.h"
#include "runtime/plane_reader.h"

namespace forebay::cuda {
namespace {

using Ints = std::vector<std::int64_t>;

struct Move {
  std::size_t input = 0, output = 0;
  std::int64_t from = 0, to = 0;  // elements from the start
  Walk walk;
  int element_bytes = 0;
};

// The same move with larger elements, as far as runs, steps and offsets are multiples.
void widen_elements(Move& move) {
  Walk& walk = move.walk;
  const int last = walk.rank - 1;
  if (walk.strides[0][last] != 1 || walk.strides[1][last] != 1) return;
  int factor = 16 / move.element_bytes;
  const auto fits = [&](std::int64_t value) { return value % factor == 0; };
  while (factor > 1) {
    bool all = fits(walk.dims[last]) && fits(move.from) && fits(move.to);
    for (int d = 0; d < last; ++d)
      all = all && fits(walk.strides[0][d]) && fits(walk.strides[1][d]);
    if (all) break;
    factor /= 2;
  }
  walk.dims[last] /= factor;
  walk.total /= factor;
  for (int d = 0; d < last; ++d) {
    walk.strides[0][d] /= factor;
    walk.strides[1][d] /= factor;
  }
  move.from /= factor;
  move.to /= factor;
  move.element_bytes *= factor;
}

class MoveKernel : public CudaKernel, public GroupedKernel {
 public:
  using CudaKernel::CudaKernel;
  // Neighbours of the same element size share a launch.
  Status run(const KernelCall& call) override {
    CopyTask task;
    int element_bytes = 0;
    for (const Move& move : moves_) {
      if (task.count == CopyTask::kMost || (task.count > 0 && move.element_bytes != element_bytes)) {
        FB_TRY(check(launch_copies(element_bytes, task, queue_stream())));
        task.count = 0;
      }
      put(move, call, &task, &element_bytes);
    }
    return check(launch_copies(element_bytes, task, queue_stream()));
  }

  // As the two halves of a cache.
  Result<std::size_t> run_group(std::span<const Member> members) override {
    CopyTask task;
    int element_bytes = 0;
    std::size_t done = 0, moves = 0;
    for (const Member& member : members) {
      const auto* const kernel = dynamic_cast<const MoveKernel*>(member.kernel);
      if (kernel == nullptr || kernel->moves_.empty() || (moves += kernel->moves_.size()) > CopyTask::kMost) break;
      const auto same = [&](const Move& move) { return move.element_bytes == moves_[0].element_bytes; };
      if (!std::all_of(kernel->moves_.begin(), kernel->moves_.end(), same)) break;
      for (const Move& move : kernel->moves_) put(move, member.calls[0], &task, &element_bytes);
      ++done;
    }
    if (done < 2) return std::size_t{0};
    FB_TRY(check(launch_copies(element_bytes, task, queue_stream())));
    return done;
  }

 protected:
  void add(std::size_t input, std::size_t output, std::int64_t from, std::int64_t to, DType dtype,
           std::span<const std::int64_t> dims, const Ints& from_strides, const Ints& to_strides) {
    const std::array<Ints, 2> strides{to_strides, from_strides};
    Move move{input, output, from, to, make_walk(dims, strides), dtype_bits(dtype) / 8};
    if (move.walk.total == 0) return;
    widen_elements(move);
    moves_.push_back(move);
  }
  std::vector<Move> moves_;

 private:
  // Outputs that nobody wants are left out.
  static void put(const Move& move, const KernelCall& call, CopyTask* task, int* element_bytes) {
    std::byte* const to = call.outputs[move.output].data;
    if (to == nullptr) return;
    *element_bytes = move.element_bytes;
    const std::byte* const from = call.inputs[move.input].data;
    task->parts[task->count++] = {move.walk, to + move.to * move.element_bytes, from + move.from * move.element_bytes};
  }
};

class TransposeKernel final : public MoveKernel {
 public:
  using MoveKernel::MoveKernel;
  Status setup(const PrepareContext& context) override {
    moves_.clear();
    const Ints& in = context.inputs[0].dims;
    const Ints& out = context.outputs[0].dims;
    const auto perm = context.node.integers("perm");
    const Ints dense = dense_strides(in);
    Ints from(in.size());
    for (std::size_t d = 0; d < in.size(); ++d)
      from[d] = dense[perm.empty() ? in.size() - 1 - d : static_cast<std::size_t>(perm[d])];
    add(0, 0, 0, 0, context.inputs[0].dtype, out, from, dense_strides(out));
    return {};
  }
};

class ExpandKernel final : public MoveKernel {
 public:
  using MoveKernel::MoveKernel;
  Status setup(const PrepareContext& context) override {
    moves_.clear();
    const Ints& out = context.outputs[0].dims;
    add(0, 0, 0, 0, context.inputs[0].dtype, out,
        broadcast_strides(context.inputs[0].dims, out.size()), dense_strides(out));
    return {};
  }
};

class ConcatKernel final : public MoveKernel, public PlaneAppender, public RowAppender {
 public:
  using MoveKernel::MoveKernel;
  Status setup(const PrepareContext& context) override {
    out_ = context.outputs[0].dims;
    inputs_.assign(context.inputs.begin(), context.inputs.end());
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 1), static_cast<int>(out_.size())));
    axis_ = static_cast<std::size_t>(axis);
    in_place_ = false;
    move_from(0, dense_strides(out_));
    return {};
  }
  void append_in_place(std::int64_t elements) override {
    Ints to = dense_strides(out_);
    const std::int64_t plane = out_[axis_] * to[axis_];
    for (std::size_t d = 0; d < axis_ && elements > 0 && plane > 0; ++d) to[d] = to[d] / plane * elements;
    in_place_ = true;
    pitch_ = elements > 0 ? elements : plane;
    move_from(1, to);
  }
  bool appended_row(const KernelCall& call, AppendedRow* row) const override {
    if (inputs_.size() != 2 || axis_ + 2 != out_.size() || inputs_[1].dims[axis_] != 1) return false;
    const std::int64_t rows = inputs_[0].dims[axis_], width = out_.back();
    *row = {call.inputs[0].data, call.inputs[1].data, call.outputs[0].data, 1, rows, width, rows * width, (rows + 1) * width, !in_place_};
    for (std::size_t d = 0; d < axis_; ++d) row->planes *= out_[d];
    if (in_place_) row->past_pitch = row->present_pitch = pitch_;
    return row->planes == 1 || !in_place_ || row->past == row->present;
  }

 private:
  void move_from(std::size_t first, const Ints& to) {
    moves_.clear();
    std::int64_t at = 0;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const Ints& in = inputs_[i].dims;
      if (i >= first) add(i, 0, 0, at * to[axis_], inputs_[i].dtype, in, dense_strides(in), to);
      at += in[axis_];
    }
  }
  Ints out_;
  std::vector<TypeShape> inputs_;
  std::size_t axis_ = 0;
  bool in_place_ = false;
  std::int64_t pitch_ = 0;  // elements from plane to plane, in place
};

class SplitKernel final : public MoveKernel {
 public:
  using MoveKernel::MoveKernel;
  Status setup(const PrepareContext& context) override {
    moves_.clear();
    const Ints& in = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 0),
                                             static_cast<int>(in.size())));
    const Ints from = dense_strides(in);
    std::int64_t at = 0;
    for (std::size_t o = 0; o < context.outputs.size(); ++o) {
      // Where the next begins is not known behind an output that nobody wants.
      if (!context.outputs[o].present())
        return context.node.unsupported("outputs that are not used");
      const Ints& out = context.outputs[o].dims;
      add(0, o, at * from[static_cast<std::size_t>(axis)], 0, context.inputs[0].dtype, out, from,
          dense_strides(out));
      at += out[static_cast<std::size_t>(axis)];
    }
    return {};
  }
};

class SliceKernel final : public MoveKernel {
 public:
  using MoveKernel::MoveKernel;
  Status setup(const PrepareContext& context) override {
    moves_.clear();
    const Ints& in = context.inputs[0].dims;
    const Ints& out = context.outputs[0].dims;
    const auto list = [&](std::size_t input, std::string_view attribute) {
      if (context.node.version() < 10) {
        const auto given = context.node.integers(attribute);
        return Ints(given.begin(), given.end());
      }
      const bool there = input < context.values.size() && context.values[input] != nullptr;
      return there ? ops::host_integers(*context.values[input]) : Ints();
    };
    const Ints starts = list(1, "starts"), axes = list(3, "axes"), steps = list(4, "");
    const Ints dense = dense_strides(in);
    Ints from = dense;
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < starts.size(); ++i) {
      FB_ASSIGN(const int axis,
                normalize_axis(context.node, axes.empty() ? static_cast<std::int64_t>(i) : axes[i],
                               static_cast<int>(in.size())));
      const auto d = static_cast<std::size_t>(axis);
      const std::int64_t step = steps.empty() ? 1 : steps[i], most = step > 0 ? in[d] : in[d] - 1;
      const std::int64_t start = std::clamp<std::int64_t>(
          starts[i] < 0 ? starts[i] + in[d] : starts[i], 0, std::max<std::int64_t>(0, most));
      begin += start * dense[d];
      from[d] = dense[d] * step;
    }
    add(0, 0, begin, 0, context.inputs[0].dtype, out, from, dense_strides(out));
    return {};
  }
};

template <typename K>
KernelPtr make_move(const NodeView& node, std::span<const TypeShape> inputs,
                    std::span<const TypeShape>, const StatePtr& state) {
  const int bits = dtype_bits(inputs[0].dtype);
  if (bits < 8 || bits > 64) return nullptr;
  std::string id = "cuda." + std::string(node.op());
  std::transform(id.begin(), id.end(), id.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  });
  return std::make_unique<K>(std::move(id), state);
}

}  // namespace

std::span<const TableEntry> movement_table() {
  static constexpr TableEntry kTable[] = {
      {"", "Transpose", make_move<TransposeKernel>}, {"", "Expand", make_move<ExpandKernel>},
      {"", "Concat", make_move<ConcatKernel>},       {"", "Split", make_move<SplitKernel>},
      {"", "Slice", make_move<SliceKernel>},
  };
  return kTable;
}

}  // namespace forebay::cuda
