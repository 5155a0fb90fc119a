#include "refit/safetensors_reader.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"

namespace forebay::refit {
namespace {

constexpr std::uint64_t kPieceBytes = 256 * 1024;

Result<SafetensorsHeader> read_header(File& file, std::uint64_t file_bytes, const SafetensorsLimits& limits) {
  std::vector<std::byte> piece(static_cast<std::size_t>(std::min(kPieceBytes, file_bytes)));
  const std::span<std::byte> first = std::span(piece).first(std::min<std::size_t>(8, piece.size()));
  FB_TRY(file.read_exactly(0, first));
  FB_ASSIGN(const std::uint64_t length, check_safetensors_length(first, file_bytes, file.name(), limits));
  SafetensorsHeaderParser parser(file.name(), length, limits);
  for (std::uint64_t done = 0; done < length;) {
    const std::span<std::byte> part =
        std::span(piece).first(static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), length - done)));
    FB_TRY(file.read_exactly(8 + done, part));
    FB_TRY(parser.feed({reinterpret_cast<const char*>(part.data()), part.size()}));
    done += part.size();
  }
  return parser.finish(file_bytes);
}

Result<SafetensorsFile> tensors_of(std::shared_ptr<File> file, const std::string& open_folder, const std::string& open_name,
                                   const SafetensorsLimits& limits) {
  FB_ASSIGN(const FileIdentity identity, file->identity());
  FB_ASSIGN(SafetensorsHeader header, read_header(*file, identity.bytes, limits));
  SafetensorsFile result;
  result.tensors.reserve(header.entries.size());
  for (SafetensorsEntry& entry : header.entries) {
    if (entry.dtype == DType::none) {
      Problem problem;
      problem.code = "unusable_tensor";
      problem.message = std::string("its type ") + entry.dtype_word + " is not one that forebay has";
      problem.file = file->name();
      problem.tensor = std::move(entry.name);
      problem.offset = header.data_start + entry.begin;
      result.unusable.push_back(std::move(problem));
      continue;
    }
    SourceTensor tensor;
    tensor.name = std::move(entry.name);
    tensor.dtype = entry.dtype;
    tensor.shape = entry.shape;
    tensor.file = file;
    tensor.open_folder = open_folder;
    tensor.open_name = open_name;
    tensor.offset = header.data_start + entry.begin;
    tensor.stored_bytes = entry.end - entry.begin;
    FB_TRY(check_source_tensor(tensor));
    result.tensors.push_back(std::move(tensor));
  }
  return result;
}

}  // namespace

Result<SafetensorsFile> read_safetensors(FileSystem& fs, const std::string& path, const SafetensorsLimits& limits) {
  FB_ASSIGN(std::shared_ptr<File> file, fs.open_read(path, DirectIo::off));
  return tensors_of(std::move(file), "", path, limits);
}

Result<SafetensorsFile> read_safetensors_beneath(FileSystem& fs, const std::string& folder, const std::string& name,
                                                 const SafetensorsLimits& limits) {
  FB_ASSIGN(std::shared_ptr<File> file, fs.open_beneath(folder, name, DirectIo::off));
  return tensors_of(std::move(file), folder, name, limits);
}

}  // namespace forebay::refit
