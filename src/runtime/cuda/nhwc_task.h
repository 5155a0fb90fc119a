// Images whose channels lie together ([N,H,W,C]), f16 and bf16: what the forebay.Nhwc operators' kernels are given.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

struct NhwcWindow {
  int in[2] = {1, 1}, out[2] = {1, 1}, kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, pad[2] = {0, 0}, pad_end[2] = {0, 0};
};

struct NhwcConvTask {
  DType type = DType::f16;
  const void *x = nullptr, *bias = nullptr, *sum = nullptr;  // sum: of y's shape, added before the activation
  const void* scale = nullptr;  // x's factors, one a channel, `scale_image` from image to image; one tap, one group
  int scale_image = 0;
  SlabTable w;  // its rows are filters, [tap, channel] each; one entry where they lie together
  void* y = nullptr;
  NhwcWindow window;
  int batch = 0, groups = 1;
  int channels = 0, filters = 0;   // of a group; filters of the call where weights come in slabs
  int first = 0, all_filters = 0;  // where the call's filters begin in y, and how many y has
  int splits = 1;                  // of the sum, among the blocks of a cluster; a power of two, at most 8
  Activation activation = Activation::none;
  float alpha = 0, beta = 0;
};

// How pixels, filters and the steps of the sum are shared out.
enum class NhwcTile : int {
  small,
  small_deep,
  narrow,
  wide,
  wide_deep,
  large,
  large_deep,
  hopper_wide,
  hopper_large,
  tma_wide,
  tma_large,
  tma_tall,
  tma_most,
  flow,
  flow_large,
  stem
};
struct NhwcTileSize {
  int pixels, filters, depth;
};
inline constexpr NhwcTileSize kNhwcTiles[] = {{64, 64, 32},   {64, 64, 64},  {64, 32, 64},   {128, 64, 32}, {128, 64, 64},  {128, 128, 32},
                                              {128, 128, 64}, {128, 64, 64}, {128, 128, 64}, {128, 64, 64}, {128, 128, 64}, {256, 64, 64},
                                              {256, 128, 64}, {128, 64, 64}, {128, 128, 64}, {128, 64, 16}};
bool has_nhwc_hopper(int capability);  // from hopper_wide to flow_large
// Channels a multiple of 8, or 4 (then small, wide and stem alone); nhwc_tma.h says what tiles from tma_wide to flow_large can do.
cudaError_t launch_nhwc_conv(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream);
cudaError_t launch_nhwc_hopper(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream);  // of launch_nhwc_conv
bool has_nhwc_stem(const NhwcConvTask& task);
inline constexpr int kNhwcMostShared = 96 << 10;                              // of a block; every device from 8.0 on has it
cudaError_t launch_nhwc_stem(const NhwcConvTask& task, cudaStream_t stream);  // of launch_nhwc_conv
inline constexpr int kNhwcMostTaps = 1024;                                    // of launch_nhwc_depthwise
// One channel a group and one filter a channel, a multiple of 8; `filters` and `first` are the call's.
cudaError_t launch_nhwc_depthwise(const NhwcConvTask& task, cudaStream_t stream);

struct NhwcPoolTask {
  DType type = DType::f16;
  const void* x = nullptr;
  void* y = nullptr;
  NhwcWindow window;
  int batch = 0, channels = 0;  // a multiple of 8
  bool average = false, count_pads = false;
};
cudaError_t launch_nhwc_pool(const NhwcPoolTask& task, cudaStream_t stream);
// The mean of all pixels.
cudaError_t launch_nhwc_mean(const NhwcPoolTask& task, cudaStream_t stream);

// y[n, f] = a1(w1 * a0(w0 * mean(x[n]) + b0) + b1): w0 [squeezed, channels], w1 [factors, squeezed]; biases may be null.
struct NhwcSqueezeTask {
  DType type = DType::f16;
  const void *x = nullptr, *w[2] = {}, *bias[2] = {};
  void* y = nullptr;
  int batch = 0, pixels = 0, channels = 0, squeezed = 0, factors = 0;  // channels a multiple of 8, at most kNhwcMostSqueezed
  int splits = 1;                                                      // of an image, among the blocks of a cluster
  Activation activation[2] = {Activation::none, Activation::none};
  float alpha[2] = {}, beta[2] = {};
};
inline constexpr int kNhwcMostSqueezed = 4096;
int nhwc_squeeze_bytes(int channels, int squeezed);  // of shared memory: at most kNhwcMostShared
cudaError_t launch_nhwc_squeeze(const NhwcSqueezeTask& task, cudaStream_t stream);

// y[n, p, c] = x[n, p, c] * scale[n, c]; channels a multiple of 8.
struct NhwcScaleTask {
  DType type = DType::f16;
  const void *x = nullptr, *scale = nullptr;
  void* y = nullptr;
  std::int64_t batch = 0, pixels = 0, channels = 0;
  bool shared = false;  // one scale for all images
};
cudaError_t launch_nhwc_scale(const NhwcScaleTask& task, cudaStream_t stream);

// y[n, p, c] = x[n, c, p], zeros from `channels` on to `wide` channels.
struct NhwcFromTask {
  const void* x = nullptr;
  void* y = nullptr;
  std::int64_t batch = 0;
  int pixels = 0, channels = 0, wide = 0;
};
cudaError_t launch_nhwc_from(const NhwcFromTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
