// What kernels tell of themselves to an attention of one query that may do their work in its own launch: the rotation of queries and of the
// new keys, and the Concats that put new keys and values behind those of earlier passes.
#pragma once

#include "runtime/cuda/attention_task.h"
#include "runtime/op.h"

namespace forebay::cuda {

// One new row behind each plane of a cache.
struct AppendedRow {
  const void *past = nullptr, *now = nullptr;
  void* present = nullptr;
  std::int64_t planes = 0, rows = 0, width = 0;    // rows that were there
  std::int64_t past_pitch = 0, present_pitch = 0;  // elements from plane to plane
  bool whole = false;                              // what was there is copied
};

class RowAppender {
 public:
  virtual ~RowAppender() = default;
  // False: the call does something else.
  virtual bool appended_row(const KernelCall& call, AppendedRow* row) const = 0;
};

// Of `rows` rows of two halves, by the same tables.
struct TurnedRows {
  const void *x = nullptr, *cos = nullptr, *sin = nullptr;
  void* y = nullptr;
  DType type = DType::none, table_type = DType::none;
  std::int64_t rows = 0, half = 0, cos_step = 0, sin_step = 0;  // as RotateTask has them
};

class RowTurner {
 public:
  virtual ~RowTurner() = default;
  virtual bool turned_rows(const KernelCall& call, TurnedRows* rows) const = 0;
};

// What a launch does besides.
struct AttentionAround {
  AppendedRow keys, values;
  TurnedRows turned_queries, turned_keys;  // of no rows: they come as they are
};
// Whether launch_attention_around() takes it: the same bits as one launch after the other.
bool serves_attention_around(const AttentionTask& task, const AttentionAround& around);
cudaError_t launch_attention_around(const AttentionTask& task, const AttentionAround& around, cudaStream_t stream);

}  // namespace forebay::cuda
