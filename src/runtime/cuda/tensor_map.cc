#include "runtime/cuda/tensor_map.h"

#include "runtime/cuda/cuda_status.h"

namespace forebay::cuda {
namespace {

struct MapCalls {
  decltype(&cuTensorMapEncodeTiled) tiled = nullptr;
  decltype(&cuTensorMapEncodeIm2col) im2col = nullptr;
};
const MapCalls& calls() {
  static const MapCalls found = [] {
    MapCalls all;
    find_driver_call("cuTensorMapEncodeTiled", &all.tiled);
    find_driver_call("cuTensorMapEncodeIm2col", &all.im2col);
    return all;
  }();
  return found;
}

CUtensorMapDataType map_type(DType type) {
  return type == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

// Where the last window of axis d begins, counted from the last place of the axis.
int upper_corner(const ImageMap& images, int d) {
  return (images.out[d] - 1) * images.stride[d] - images.pad[d] - (images.in[d] - 1);
}

}  // namespace

bool driver_has_tensor_maps() {
  return calls().tiled != nullptr && calls().im2col != nullptr;
}

bool make_tensor_map(const MatrixMap& matrix, CUtensorMap* map) {
  if (!driver_has_tensor_maps() || reinterpret_cast<std::uintptr_t>(matrix.at) % 16 != 0 || matrix.pitch % 8 != 0) return false;
  const cuuint64_t dims[] = {static_cast<cuuint64_t>(matrix.columns), static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t pitches[] = {static_cast<cuuint64_t>(matrix.pitch) * 2};
  const cuuint32_t box[] = {kMapColumns, static_cast<cuuint32_t>(matrix.tile_rows)}, steps[] = {1, 1};
  return calls().tiled(map, map_type(matrix.type), 2, const_cast<void*>(matrix.at), dims, pitches, box, steps,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool make_tensor_map(const ImageMap& images, CUtensorMap* map) {
  if (!driver_has_tensor_maps()) return false;
  const cuuint64_t channels = static_cast<cuuint64_t>(images.channels), height = static_cast<cuuint64_t>(images.in[0]),
                   width = static_cast<cuuint64_t>(images.in[1]);
  const cuuint64_t dims[] = {channels, width, height, static_cast<cuuint64_t>(images.batch)};
  const cuuint64_t pitches[] = {channels * 2, width * channels * 2, height * width * channels * 2};
  const int lower[] = {-images.pad[1], -images.pad[0]}, upper[] = {upper_corner(images, 1), upper_corner(images, 0)};
  const cuuint32_t steps[] = {1, static_cast<cuuint32_t>(images.stride[1]), static_cast<cuuint32_t>(images.stride[0]), 1};
  return calls().im2col(map, map_type(images.type), 4, const_cast<void*>(images.at), dims, pitches, lower, upper, kMapColumns,
                        static_cast<cuuint32_t>(images.pixels), steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
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
