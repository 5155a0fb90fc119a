// .npy files (NumPy format 1 and 2), little-endian, C order. Types that NumPy has no letter for are written the way ml_dtypes arrays are:
// bf16 as '<V2', the 8-bit floats as '|V1'; 4- and 2-bit types stay packed as '|u1' of one dimension (their bytes). Such a file
// does not tell the type, so reading takes it from the caller.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"
#include "forebay/types.h"

namespace forebay {

// `wanted` none: the type is as the file says ('V2' reads as bf16, 'V1' is refused). Otherwise a 'V2', 'V1' or 'u1' file of fitting size is
// taken as `wanted`, and any other type that differs from it is refused. Packed sub-byte files keep `wanted` and the shape given in
// `packed_shape`. `max_bytes` caps the allocation. Column-major files are transposed.
Result<HostTensor> read_npy(FileSystem& fs, const std::string& path, std::uint64_t max_bytes, DType wanted = DType::none,
                            const Shape* packed_shape = nullptr);
// Durable: the old file or the whole new one.
Status write_npy(FileSystem& fs, const std::string& path, const ConstTensorView& tensor);

}  // namespace forebay
