// Convolutions and their transposes, as kernels see them: dense NCHW data in up to three spatial axes.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

struct ConvTask {
  DType type = DType::f32;
  const void *x = nullptr, *bias = nullptr, *sum = nullptr;  // sum: of y's shape, added before the activation
  SlabTable w;                                               // its rows are filters; one entry where they lie together
  void* y = nullptr;
  float* sums = nullptr;  // [split, filter of the call, batch * pixel], where there are several splits and no clusters
  int batch = 0, groups = 1;
  int channels = 0, filters = 0;   // of a group; those of the call where weights come in slabs
  int first = 0, all_filters = 0;  // where the call's filters begin in y, and how many y has
  int in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, dilation[3] = {1, 1, 1}, pad[3] = {0, 0, 0};
  int taps = 1, in_size = 1, out_size = 1;
  int splits = 1;           // of the sum over channels and taps; a power of two, at most 8; 1 with large tiles
  bool clusters = false;    // the blocks of a sum's splits are a cluster, sm_90 and up
  bool dense = false;       // an output pixel reads the input pixel of its place
  bool masked = true;       // windows reach beyond the input
  bool transposed = false;  // W is [channel, filter, tap], and x is spread by the strides
  Activation activation = Activation::none;
  float alpha = 0, beta = 0;
};

// Tensor cores, f16 and bf16, not transposed, up to kMostTaps taps, kMostMaskTaps where masked.
inline constexpr int kMostMaskTaps = 63, kMostTaps = 1024;
enum class ConvTile : int { small, large };  // 64 x 64, 128 x 128 (filters x pixels)
inline constexpr int conv_tile_size(ConvTile tile) {
  return tile == ConvTile::small ? 64 : 128;
}
inline constexpr int kConvDepth = 32;  // of a step of the sum
// Of launch_conv_mma: one tap, no steps and padding, channels a multiple of 8 and pixels of 4.
cudaError_t start_conv_point(const ConvTask& task, ConvTile tile, cudaStream_t stream);
cudaError_t launch_conv_mma(const ConvTask& task, ConvTile tile, cudaStream_t stream);
// One FMA chain an output, channel by channel and tap by tap.
cudaError_t launch_conv_plain(const ConvTask& task, cudaStream_t stream);
// One channel a group; `filters` are the call's, `channels` those of x: filter f reads channel f / (all_filters / groups).
cudaError_t launch_conv_depthwise(const ConvTask& task, cudaStream_t stream);

enum class PoolKind : int { max, average, lp };
struct PoolTask {
  DType type = DType::f32;  // floats; i8 and u8 for max
  PoolKind kind = PoolKind::max;
  const void* x = nullptr;
  void* y = nullptr;
  std::int64_t* indices = nullptr;
  std::int64_t planes = 0;
  int in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, dilation[3] = {1, 1, 1}, pad[3] = {0, 0, 0},
      pad_end[3] = {0, 0, 0};
  int spatial = 2;
  bool count_pads = false, column_major = false;
  float p = 2;
};
cudaError_t launch_pool(const PoolTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
