// The one gate to the bytes of a source tensor (promise P7). Every container (ONNX inline, ONNX external, safetensors,
// memory) describes its tensors by this record; only read_source_tensor turns a record into bytes. A record is checked
// when it is made (check_source_tensor): containment by FileSystem::open_beneath, range within the file, size = shape x dtype.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/file.h"
#include "forebay/types.h"

namespace forebay {

// How the payload lies in the file.
enum class Encoding : std::uint8_t {
  raw,        // little-endian elements, dense: bytes can be read from any offset ("identity extent")
  varint,     // packed or unpacked protobuf varints (int32_data, int64_data, uint64_data): sequential decode
  fixed32,    // unpacked fixed 32-bit fields (float_data written unpacked): sequential decode
  fixed64,    // unpacked fixed 64-bit fields
};

struct SourceTensor {
  std::string name;
  DType dtype = DType::none;
  Shape shape;
  Encoding encoding = Encoding::raw;
  // 0: the payload is one packed run of elements. Otherwise the payload is a run of protobuf fields, and the elements are those with the
  // field number of this tag, each on its own or packed; other fields between them are passed over.
  std::uint32_t field_tag = 0;
  std::shared_ptr<File> file;             // buffered handle; null for a tensor in memory
  std::shared_ptr<const HostTensor> memory;  // used when file is null
  // How the same file is opened again, for example with O_DIRECT (open_source_file): open_beneath(open_folder, open_name), or where
  // open_folder is empty open_read(open_name): a path that the user gave, which may be a link.
  std::string open_folder, open_name;
  std::uint64_t offset = 0;               // payload start in the file
  std::uint64_t stored_bytes = 0;         // payload length in the file
  std::uint64_t bytes() const { return dtype_bytes(dtype, shape.elements()).value_or(0); }
};

// Opens tensor.file once more. Where another file has taken its place meanwhile: corruption. The tensor must be in a file.
Result<std::unique_ptr<File>> open_source_file(FileSystem& fs, const SourceTensor& tensor, DirectIo direct);

// Range, size and type. Names file, tensor and offset.
Status check_source_tensor(const SourceTensor& tensor);
// Plain bytes [offset, offset + out.size()) of the decoded tensor. For encodings other than raw, offset must be 0 and out the whole
// tensor. bf16/f16 in int32_data keep the low 16 bits; bools are normalised to 0 or 1. Thread-safe.
Status read_source_tensor(const SourceTensor& tensor, std::uint64_t offset, std::span<std::byte> out);
// The whole tensor; `max_bytes` caps the allocation.
Result<HostTensor> load_source_tensor(const SourceTensor& tensor, std::uint64_t max_bytes);

}  // namespace forebay
