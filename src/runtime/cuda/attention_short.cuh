// What the kernels of attention_short.h share: which queries of which head a block has, and how they, keys and values come to shared
// memory.
#pragma once

#include "runtime/cuda/attention_short.h"
#include "runtime/cuda/attention_tile.cuh"
#include "runtime/cuda/attention_unit.cuh"

namespace forebay::cuda {
namespace {

constexpr int kHead = 64, kRows = 64, kThreads = 128, kRowBytes = 2 * kHead;

// kCopied rows of a head, zeros behind the `count` there are.
template <int kCopied>
__device__ __forceinline__ void copy_head(unsigned tile, const void* from, std::int64_t stride, int count) {
  const int row = static_cast<int>(threadIdx.x) / 8, piece = static_cast<int>(threadIdx.x) % 8;
  const unsigned to = tile + static_cast<unsigned>(row * kRowBytes + ((piece ^ (row & 7)) << 4));
  const char* at = static_cast<const char*>(from) + 2 * (row * stride + piece * 8);
#pragma unroll
  for (int i = 0; i < kCopied / 16; ++i, at += 32 * stride)
    copy_piece(to + i * 16 * kRowBytes, row + i * 16 < count ? at : from, row + i * 16 < count);
}

// `lots` blocks share the queries of a head; `first` is where this one's begin.
template <typename T>
struct ShortUnit {
  int first, batch, head, key_head;

  __device__ __forceinline__ ShortUnit(const AttentionTask& t, int lots) {
    const int heads = static_cast<int>(t.q_heads), unit = static_cast<int>(blockIdx.x) / lots;
    first = static_cast<int>(blockIdx.x) % lots * kRows;
    batch = unit / heads;
    head = unit % heads;
    key_head = head / static_cast<int>(t.q_heads / t.kv_heads);
  }
  __device__ __forceinline__ const T* queries(const AttentionTask& t) const {
    return static_cast<const T*>(t.q) + batch * t.q_strides[0] + head * t.q_strides[1];
  }
  template <int kKeys>
  __device__ __forceinline__ void copy_keys(unsigned tile, const AttentionTask& t) const {
    copy_head<kKeys>(tile, static_cast<const T*>(t.k) + batch * t.k_strides[0] + key_head * t.k_strides[1], t.k_strides[2],
                     static_cast<int>(t.keys));
  }
  template <int kKeys>
  __device__ __forceinline__ void copy_values(unsigned tile, const AttentionTask& t) const {
    copy_head<kKeys>(tile, static_cast<const T*>(t.v) + batch * t.v_strides[0] + key_head * t.v_strides[1], t.v_strides[2],
                     static_cast<int>(t.keys));
  }
};

}  // namespace
}  // namespace forebay::cuda
