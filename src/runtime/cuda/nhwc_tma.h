// Channels-last convolutions whose tiles the copy engine of compute capability 9.0 brings.
#pragma once

#include "runtime/cuda/nhwc_task.h"
#include "runtime/cuda/tensor_map.h"

namespace forebay::cuda {

// One group, and several taps only of channels that are a multiple of 64; slabs, where there are several, of a multiple of 8
// filters.
cudaError_t launch_nhwc_tma(const NhwcConvTask& given, NhwcTile tile, cudaStream_t stream);

// Of launch_nhwc_tma, at most 32 slabs: blocks that go from tile to tile.
cudaError_t launch_nhwc_flow(const NhwcConvTask& task, NhwcTile tile, cudaStream_t stream);

inline ImageMap nhwc_image_map(const NhwcConvTask& task, int pixels) {
  const NhwcWindow& w = task.window;
  return {task.type,
          task.x,
          task.batch,
          task.channels,
          {w.in[0], w.in[1]},
          {w.out[0], w.out[1]},
          {w.stride[0], w.stride[1]},
          {w.pad[0], w.pad[1]},
          pixels};
}

}  // namespace forebay::cuda
