// The user's weight sources: ONNX (inline, external), safetensors (one file, sharded index), shard folders, memory, and mixtures.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/source_tensor.h"
#include "forebay/logger.h"
#include "plan/binding.h"

namespace forebay::refit {

class ShardSet;  // shard_reader.h

// What --map holds: lines "plan_name = source_name [transpose]"; '#' starts a comment. Errors carry the line.
struct NameMap {
  struct Entry {
    std::string source;
    bool transpose = false;  // the source holds the last two axes swapped
  };
  std::map<std::string, Entry> entries;
  static Result<NameMap> read(FileSystem& fs, const std::string& path);
};

// Tensors by name over all sources, and at most one shard set per plan. A name found in two sources is a problem (both places named) unless
// the bytes come from the same file extent. Immutable after open; thread-safe.
class Catalog {
 public:
  // `sources`: MODEL.onnx, *.safetensors, model.safetensors.index.json, a shard folder, or a folder holding one of them. In a
  // folder shards come first, then the one ONNX file, an index, the one safetensors file; what cannot be chosen is refused, never
  // guessed.
  static Result<std::shared_ptr<const Catalog>> open(FileSystem& fs, std::span<const std::string> sources, Logger& logger);
  static std::shared_ptr<const Catalog> from_memory(std::vector<SourceTensor> tensors);
  const SourceTensor* find(const std::string& name) const;
  std::vector<std::string> names() const;
  std::shared_ptr<const ShardSet> shards() const { return shards_; }
  const std::vector<Problem>& problems() const { return problems_; }  // duplicates and the like: reported together with the refit's own
  // A tensor that is there but of a type that forebay has not; null for others. A problem only for a plan that wants it.
  const Problem* unusable(const std::string& name) const;

 private:
  std::map<std::string, SourceTensor> tensors_;
  std::shared_ptr<const ShardSet> shards_;
  std::vector<Problem> problems_;
  std::map<std::string, Problem> unusable_;
  friend class CatalogBuilder;
};

}  // namespace forebay::refit
