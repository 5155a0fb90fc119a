#include "runtime/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <string>

#include "base/check.h"

namespace forebay::cuda {
namespace {

template <typename F>
Status look_up(const char* name, F* function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess || found == nullptr)
    return Status(Code::unavailable, "the CUDA driver has no " + std::string(name));
  *function = reinterpret_cast<F>(found);
  return {};
}

CUtensorMapDataType map_type(DType type) {
  return type == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

// Where the last window of axis d begins, counted from the last place of the axis.
int upper_corner(const ImageMap& images, int d) {
  return (images.out[d] - 1) * images.stride[d] - images.pad[d] - (images.in[d] - 1);
}

}  // namespace

Status find_tensor_map_calls(TensorMapCalls* calls) {
  FB_TRY(look_up("cuTensorMapEncodeTiled", &calls->tiled));
  return look_up("cuTensorMapEncodeIm2col", &calls->im2col);
}

CUresult make_tensor_map(const TensorMapCalls& calls, const MatrixMap& matrix, CUtensorMap* map) {
  const cuuint64_t dims[] = {static_cast<cuuint64_t>(matrix.columns), static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t pitches[] = {static_cast<cuuint64_t>(matrix.pitch) * 2};
  const cuuint32_t box[] = {kMapColumns, static_cast<cuuint32_t>(matrix.tile_rows)}, steps[] = {1, 1};
  return calls.tiled(map, map_type(matrix.type), 2, const_cast<void*>(matrix.at), dims, pitches, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                     CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

CUresult make_tensor_map(const TensorMapCalls& calls, const ImageMap& images, CUtensorMap* map) {
  const cuuint64_t channels = static_cast<cuuint64_t>(images.channels), height = static_cast<cuuint64_t>(images.in[0]),
                   width = static_cast<cuuint64_t>(images.in[1]);
  const cuuint64_t dims[] = {channels, width, height, static_cast<cuuint64_t>(images.batch)};
  const cuuint64_t pitches[] = {channels * 2, width * channels * 2, height * width * channels * 2};
  const int lower[] = {-images.pad[1], -images.pad[0]}, upper[] = {upper_corner(images, 1), upper_corner(images, 0)};
  const cuuint32_t steps[] = {1, static_cast<cuuint32_t>(images.stride[1]), static_cast<cuuint32_t>(images.stride[0]), 1};
  return calls.im2col(map, map_type(images.type), 4, const_cast<void*>(images.at), dims, pitches, lower, upper, kMapColumns,
                      static_cast<cuuint32_t>(images.pixels), steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

bool has_tensor_map(const ImageMap& images, const int (&reach)[2]) {
  // Drivers of CUDA 13.0 and before make wrong maps of images smaller than this.
  constexpr std::int64_t kLeast = 128 << 10;
  bool fits = images.batch * images.in[0] * images.in[1] * images.channels * 2 >= kLeast && images.channels % 8 == 0;
  for (int d = 0; d < 2; ++d) {
    const int upper = upper_corner(images, d);
    fits = fits && images.stride[d] <= 8 && images.pad[d] <= 128 && upper >= -128 && upper <= 127 && reach[d] <= 255;
  }
  return fits;
}

}  // namespace forebay::cuda
