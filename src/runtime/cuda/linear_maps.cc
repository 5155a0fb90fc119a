// Maps of x and W by which the tensor copy engine fetches tiles of 128 bytes a row, 16-byte pieces swizzled as warpgroup products read
// them.
#include <algorithm>
#include <cstdint>

#include "runtime/cuda/linear_bulk.h"
#include "runtime/cuda/tensor_map.h"

namespace forebay::cuda {
namespace {

constexpr int kLeastBox = 16;

bool aligned(const void* at) {
  return reinterpret_cast<std::uintptr_t>(at) % 16 == 0;
}

// `count` slabs of a matrix of 16-bit elements, `columns` of which are a row.
struct Slabs {
  const LinearTask* task;
  int rows, columns, count;
  bool behind_each_other;

  explicit Slabs(const LinearTask& t)
      : task(&t),
        rows(t.turned ? t.depth : t.columns),
        columns(t.turned ? t.columns : t.depth),
        count(static_cast<int>((rows + t.w.rows - 1) / t.w.rows)),
        behind_each_other(true) {
    const auto* const first = static_cast<const char*>(t.w.slabs[0]);
    for (int i = 1; i < count; ++i) behind_each_other = behind_each_other && t.w.slabs[i] == first + i * t.w.rows * columns * 2;
  }
  int maps() const { return behind_each_other ? 1 : count; }
  int in_map() const { return behind_each_other ? rows : static_cast<int>(task->w.rows); }
  // The most rows, up to `most`, that no copy takes across the end of a slab.
  int box(int most) const {
    int found = most;
    while (found > kLeastBox && (most % found != 0 || (maps() > 1 && in_map() % found != 0))) found -= kLeastBox;
    return found;
  }
};

bool fits(const LinearTask& task) {
  const bool whole = !task.turned || (task.first_part && task.last_part && task.depth == task.all_depth);
  return whole && task.columns > 0 && (task.first | task.columns | task.all_columns) % 8 == 0 && aligned(task.y) && aligned(task.bias);
}

}  // namespace

bool map_linear(const LinearGroup& group, LinearTile tile, BulkGroup* bulk) {
  const LinearShape shape = linear_shape(tile);
  if (!shape.bulk) return false;
  const LinearTask& first = group.tasks[0];
  if (!make_tensor_map(MatrixMap{first.type, first.x, first.rows, first.depth, first.x_row, shape.pair ? shape.rows / 2 : shape.rows},
                       &bulk->x))
    return false;
  bulk->count = group.count;
  int maps = 0;
  for (int i = 0; i < group.count; ++i) {
    const LinearTask& task = group.tasks[i];
    const Slabs slabs(task);
    if (!fits(task) || maps + slabs.maps() > BulkGroup::kMaps || (slabs.maps() > 1 && task.w.rows % kLeastBox != 0)) return false;
    BulkTask& to = bulk->tasks[i];
    to.bias = task.bias;
    to.y = task.y;
    to.rows = task.rows;
    to.columns = task.columns;
    to.depth = task.depth;
    to.first = task.first;
    to.all_columns = task.all_columns;
    to.first_map = maps;
    to.slab_rows = slabs.in_map();
    to.box_rows = task.turned ? kMapColumns : slabs.box(shape.columns);
    to.splits = task.splits;
    to.constant = task.constant;
    to.activation = task.activation;
    to.alpha = task.alpha;
    to.beta = task.beta;
    for (int s = 0; s < slabs.maps(); ++s) {
      const int rows = std::min(to.slab_rows, slabs.rows - s * to.slab_rows);
      const MatrixMap matrix{first.type, task.w.slabs[s], rows, slabs.columns, slabs.columns, to.box_rows};
      if (!make_tensor_map(matrix, &bulk->w[maps++])) return false;
    }
  }
  return true;
}

}  // namespace forebay::cuda
