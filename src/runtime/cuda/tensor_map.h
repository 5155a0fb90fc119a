// Tensor maps: what the device's copy engine (compute capability 9.0 and up) knows of a matrix or of images in memory. Made on the host,
// given to a kernel by value. Tiles arrive as rows of 64 values (128 bytes), 16-byte piece p of row r at p ^ r % 8, zeros for what lies
// outside.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "forebay/types.h"

namespace forebay::cuda {

bool driver_has_tensor_maps();

inline constexpr int kMapColumns = 64;

// 16-bit values [rows, columns] in steps of `pitch` values from row to row; tiles of `tile_rows` (at most 256) by 64.
struct MatrixMap {
  DType type = DType::f16;
  const void* at = nullptr;
  std::int64_t rows = 0, columns = 0, pitch = 0;
  int tile_rows = 0;
};
// False where the driver cannot make it, or the matrix does not lie at multiples of 16 bytes.
bool make_tensor_map(const MatrixMap& matrix, CUtensorMap* map);

// Images [batch, in[0], in[1], channels] of 16-bit values as the rows of a product see them: a tile is a tap of `pixels` (at most 1024)
// output pixels, in their order, by 64 channels.
struct ImageMap {
  DType type = DType::f16;
  const void* at = nullptr;
  std::int64_t batch = 0, channels = 0;
  int in[2] = {1, 1}, out[2] = {1, 1}, stride[2] = {1, 1}, pad[2] = {0, 0};
  int pixels = 0;
};
bool make_tensor_map(const ImageMap& images, CUtensorMap* map);
// Whether a map can say it, taps up to `reach` places from a window's first.
bool has_tensor_map(const ImageMap& images, const int (&reach)[2]);

}  // namespace forebay::cuda
