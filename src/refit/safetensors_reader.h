// Opens safetensors files and sharded indexes, and gives their tensors as source tensor records.
#pragma once

#include <string>
#include <vector>

#include "base/file.h"
#include "base/source_tensor.h"
#include "forebay/logger.h"
#include "refit/safetensors_header.h"

namespace forebay::refit {

struct SafetensorsFile {
  std::vector<SourceTensor> tensors;  // records are checked; by offset
  std::vector<Problem> unusable;      // tensors of types that forebay has not: a problem only for a plan that wants them
};

// A file that the user named (links are followed).
Result<SafetensorsFile> read_safetensors(FileSystem& fs, const std::string& path, const SafetensorsLimits& limits);
// A file that an index named: it lies beneath `folder`.
Result<SafetensorsFile> read_safetensors_beneath(FileSystem& fs, const std::string& folder, const std::string& name,
                                                 const SafetensorsLimits& limits);

struct SafetensorsIndex {
  std::map<std::string, std::string> weight_map;  // tensor -> file, a single path component
  bool has_total_size = false;
  std::uint64_t total_size = 0;
};
// model.safetensors.index.json. Metadata and keys we do not know may hold anything; the weight map may not.
Result<SafetensorsIndex> read_safetensors_index(FileSystem& fs, const std::string& path, const SafetensorsLimits& limits);
Result<SafetensorsIndex> parse_safetensors_index(std::span<const char> text, const std::string& file, const SafetensorsLimits& limits);

}  // namespace forebay::refit
