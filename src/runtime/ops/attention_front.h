// What the com.microsoft attention operators share. They differ from the standard one in how heads, pasts and masks are handed over, not in
// the attention itself: a front gathers queries, keys and values as [batch, heads, rows, size], writes the mask to be added, and calls the
// standard kernel. All in f32 (FloatKernel widens f16 and bf16) but pasts and presents, which stay as they are: the kernel widens their
// rows tile by tile.
#pragma once

#include <memory>
#include <vector>

#include "runtime/ops/nn_support.h"

namespace forebay::ops {

struct FrontDims {
  std::int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, head = 0, value_head = 0;
  std::int64_t mask_batch = 0, mask_heads = 1, mask_rows = 1;  // mask_batch 0: none. A mask is [mask_batch, mask_heads, mask_rows, keys]
};

// Where the rows of heads lie, in floats.
struct HeadRows {
  const float* data = nullptr;
  std::int64_t batch = 0, head = 0, row = 0;  // strides
  const float* bias = nullptr;                // [heads, size], added to every row
  const float* at(std::int64_t b, std::int64_t h, std::int64_t i) const { return data + b * batch + h * head + i * row; }
};
// [batch, rows, heads * size], the size of a row being `width` where more than these heads are packed into it.
HeadRows packed_rows(const float* data, std::int64_t rows, std::int64_t width, std::int64_t size);
// [batch, heads, rows, size]
HeadRows plain_rows(const float* data, std::int64_t heads, std::int64_t rows, std::int64_t size);

class AttentionFront : public FloatKernel {
 protected:
  struct Buffers {
    float *q = nullptr, *mask = nullptr, *y = nullptr;
    std::byte *k = nullptr, *v = nullptr;  // where the front gathers keys and values when they are no output (Options::gathers)
  };
  struct Options {
    float scale = 0, softcap = 0;  // scale 0: one over the root of the head's size
    bool causal = false;           // key j is seen by the queries from j on: no past
    DType cache = DType::f32;      // of keys and values
    bool gathers_keys = true, gathers_values = true;
  };
  // Fixes sizes and scratch. `extra` bytes more may be used: extra_scratch().
  Status plan_front(const PrepareContext& context, const FrontDims& dims, const Options& options, std::uint64_t extra = 0);
  Buffers buffers(const KernelCall& call) const;
  std::byte* extra_scratch(const KernelCall& call) const { return call.workspace + extra_at_; }
  // The attention of what the buffers hold; its result goes to output 0 as [batch, queries, heads * value_head].
  Status attend(const KernelCall& call, const std::byte* k, const std::byte* v) const;

  FrontDims dims_;
  DType cache_ = DType::f32;

 private:
  plan::Plan plan_;  // attributes of the inner node refer to it
  std::vector<plan::Attribute> attributes_;
  std::unique_ptr<Kernel> inner_;
  std::uint64_t k_at_ = 0, v_at_ = 0, mask_at_ = 0, y_at_ = 0, inner_at_ = 0, extra_at_ = 0;
};

// to[b][h][first + i] = from(b, h, i) + bias, for all rows; `to` has `length` rows a head.
void gather_rows(ThreadPool& pool, const HeadRows& from, std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t size,
                 float* to, std::int64_t length, std::int64_t first);
// The same into rows of any float type.
void write_rows(ThreadPool& pool, const HeadRows& from, std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t size,
                DType dtype, std::byte* to, std::int64_t length, std::int64_t first);
// Heads of `rows` rows in `from`, of which `count` go to heads of `length` rows.
void copy_heads(ThreadPool& pool, const std::byte* from, std::int64_t heads, std::int64_t rows, std::int64_t count, std::int64_t row_bytes,
                std::byte* to, std::int64_t length);

}  // namespace forebay::ops
