#include "refit/catalog.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/name_match.h"
#include "base/printable.h"
#include "onnx/onnx_model.h"
#include "onnx/tensor_walk.h"
#include "refit/safetensors_reader.h"
#include "refit/shard_reader.h"

namespace forebay::refit {
namespace {

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

constexpr std::string_view kIndexEnd = ".safetensors.index.json";
constexpr std::string_view kIndexOfShards = "forebay.index";

std::string place_of(const SourceTensor& tensor) {
  if (tensor.file == nullptr) return "in memory";
  return "in " + printable(tensor.file->name()) + " at offset " + std::to_string(tensor.offset);
}

}  // namespace

// Adds sources one after the other; the catalog is immutable once given away.
class CatalogBuilder {
 public:
  CatalogBuilder(FileSystem* fs, Logger* logger) : fs_(fs), logger_(logger), catalog_(std::make_shared<Catalog>()) {}

  Status add(const std::string& source) {
    FB_ASSIGN(const bool folder, fs_->is_folder(source));
    if (folder) return add_folder(source);
    const std::string name = file_name_of(source);
    if (ends_with(name, ".safetensors")) return add_safetensors(source);
    if (ends_with(name, ".json")) return add_index(source);
    if (name == kIndexOfShards) return add_shards(folder_of(source));
    return add_onnx(source);
  }

  void insert(SourceTensor tensor) {
    const auto [at, fresh] = catalog_->tensors_.try_emplace(tensor.name);
    if (fresh) {
      at->second = std::move(tensor);
      return;
    }
    if (same_extent(at->second, tensor)) return;
    Problem problem;
    problem.code = "duplicate_name";
    problem.message = "the tensor is found twice: " + place_of(at->second) + " and " + place_of(tensor);
    if (tensor.file != nullptr) problem.file = tensor.file->name();
    problem.tensor = tensor.name;
    problem.offset = tensor.offset;
    problem.hint = "name only one of the two sources";
    catalog_->problems_.push_back(std::move(problem));
    twice_.insert(tensor.name);
  }

  std::shared_ptr<const Catalog> finish() { return std::move(catalog_); }

 private:
  // The same bytes reached by two ways: an ONNX file whose external data is a safetensors shard that is named too.
  bool same_extent(const SourceTensor& a, const SourceTensor& b) {
    if (a.file == nullptr || b.file == nullptr || a.offset != b.offset || a.stored_bytes != b.stored_bytes || a.encoding != b.encoding ||
        a.dtype != b.dtype || a.shape != b.shape)
      return false;
    if (a.file == b.file) return true;
    const auto first = identity_of(a.file), second = identity_of(b.file);
    return first && second && first->device == second->device && first->inode == second->inode;
  }
  std::optional<FileIdentity> identity_of(const std::shared_ptr<File>& file) {
    const auto [at, fresh] = identities_.try_emplace(file.get());
    if (fresh)
      if (auto identity = file->identity(); identity.ok()) at->second = *identity;
    return at->second;
  }

  Status add_folder(const std::string& folder) {
    FB_ASSIGN(const bool shards, is_shard_folder(*fs_, folder));
    if (shards) return add_shards(folder);
    FB_ASSIGN(const std::vector<std::string> names, fs_->list(folder));
    const auto ending = [&](std::string_view end) {
      std::vector<std::string> found;
      for (const std::string& name : names)
        if (ends_with(name, end) && name.front() != '.') found.push_back(name);
      return found;
    };
    const auto onnx = ending(".onnx"), indexes = ending(kIndexEnd), files = ending(".safetensors");
    if (onnx.size() == 1) return add_onnx(join_path(folder, onnx[0]));
    if (onnx.size() > 1) return ambiguous(folder, onnx);
    if (std::find(indexes.begin(), indexes.end(), "model.safetensors.index.json") != indexes.end())
      return add_index(join_path(folder, "model.safetensors.index.json"));
    if (indexes.size() == 1) return add_index(join_path(folder, indexes[0]));
    if (indexes.size() > 1) return ambiguous(folder, indexes);
    if (files.size() == 1) return add_safetensors(join_path(folder, files[0]));
    if (files.size() > 1) return ambiguous(folder, files);
    Problem problem;
    problem.code = "no_weights";
    problem.message = "the folder '" + printable(folder) + "' holds no weights";
    problem.hint = "a folder may hold forebay.index with its shards, one .onnx file, a .safetensors.index.json, or one .safetensors file";
    return Status(Code::not_found, std::move(problem));
  }
  static Status ambiguous(const std::string& folder, const std::vector<std::string>& names) {
    Problem problem;
    problem.code = "ambiguous_folder";
    problem.message = "the folder '" + printable(folder) + "' holds " + std::to_string(names.size()) + " files that could be meant:";
    for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 5); ++i) problem.message += (i == 0 ? " " : ", ") + printable(names[i]);
    problem.hint = "name the file in place of the folder";
    return Status(Code::invalid_argument, std::move(problem));
  }

  Status add_shards(const std::string& folder) {
    FB_ASSIGN(std::shared_ptr<const ShardSet> shards, ShardSet::open(*fs_, folder, DirectIo::prefer));
    if (catalog_->shards_ == nullptr) {
      catalog_->shards_ = std::move(shards);
      return {};
    }
    Problem problem;
    problem.code = "duplicate_shards";
    problem.message = "two shard sets are named, in '" + printable(catalog_->shards_->folder()) + "' and in '" + printable(folder) + "'";
    problem.hint = "name only one of them";
    catalog_->problems_.push_back(std::move(problem));
    return {};
  }

  Status add_onnx(const std::string& path) {
    const onnx::Limits limits;
    FB_ASSIGN(onnx::Model model, onnx::read_model(*fs_, path, limits));
    for (const std::string& note : model.notes) logger_->log(LogLevel::warning, "model=" + printable(model.file_name) + " note=" + note);
    FB_TRY(onnx::inline_functions(model, limits));
    onnx::for_each_tensor(model.graph, [&](const std::string& name, const SourceTensor& tensor) {
      if (tensor.dtype == DType::none) {
        Problem problem;
        problem.code = "unusable_tensor";
        problem.message = "its element type is not one that forebay has";
        problem.file = model.file_name;
        problem.tensor = name;
        catalog_->unusable_.emplace(name, std::move(problem));
        return;
      }
      SourceTensor copy = tensor;
      copy.name = name;
      insert(std::move(copy));
    });
    return {};
  }

  Status add_safetensors(const std::string& path) {
    FB_ASSIGN(SafetensorsFile file, read_safetensors(*fs_, path, SafetensorsLimits{}));
    take(std::move(file));
    return {};
  }
  void take(SafetensorsFile file) {
    for (Problem& problem : file.unusable) {
      const std::string name = problem.tensor;
      catalog_->unusable_.emplace(name, std::move(problem));
    }
    for (SourceTensor& tensor : file.tensors) insert(std::move(tensor));
  }

  Status add_index(const std::string& path) {
    FB_ASSIGN(const SafetensorsIndex index, read_safetensors_index(*fs_, path, SafetensorsLimits{}));
    const std::string folder = folder_of(path);
    std::vector<std::string> names;
    for (const auto& [tensor, name] : index.weight_map) names.push_back(name);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    std::uint64_t bytes = 0;
    std::size_t unlisted = 0;
    std::map<std::string, std::string> places;  // tensor -> the file it is really in; a second one is told by insert()
    for (const std::string& name : names) {
      auto file = read_safetensors_beneath(*fs_, folder, name, SafetensorsLimits{});
      if (!file.ok())
        return std::move(file)
            .status()
            .with_context("opening a shard that " + printable(file_name_of(path)) + " names")
            .with_file(name);
      for (const SourceTensor& tensor : file->tensors) {
        bytes += tensor.stored_bytes;
        if (!index.weight_map.contains(tensor.name)) ++unlisted;
        places.emplace(tensor.name, name);
      }
      for (const Problem& problem : file->unusable) places.emplace(problem.tensor, name);
      take(std::move(*file));
    }
    check_index(index, places, file_name_of(path));
    if (unlisted != 0)
      logger_->log(LogLevel::warning, "index=" + printable(file_name_of(path)) +
                                          " tensors_not_in_weight_map=" + std::to_string(unlisted) + " (used all the same)");
    if (index.has_total_size && index.total_size != bytes)
      logger_->log(LogLevel::warning, "index=" + printable(file_name_of(path)) + " stated_total_bytes=" + std::to_string(index.total_size) +
                                          " found_bytes=" + std::to_string(bytes) + " (only a remark: some writers count headers too)");
    return {};
  }
  // Every tensor must lie in the very file that the map names.
  void check_index(const SafetensorsIndex& index, const std::map<std::string, std::string>& places, const std::string& index_name) {
    for (const auto& [tensor, name] : index.weight_map) {
      const auto found = places.find(tensor);
      if (found != places.end() && (found->second == name || twice_.contains(tensor))) continue;
      Problem problem;
      problem.code = "index_mismatch";
      problem.message = "the index " + printable(index_name) + " says that the tensor is in " + printable(name) + ", " +
                        (found != places.end() ? "it is in " + printable(found->second) : std::string("which does not hold it"));
      problem.file = name;
      problem.tensor = tensor;
      problem.hint = "the index and its shards do not belong together: fetch both again";
      catalog_->problems_.push_back(std::move(problem));
    }
  }

  FileSystem* fs_;
  Logger* logger_;
  std::shared_ptr<Catalog> catalog_;
  std::map<const File*, std::optional<FileIdentity>> identities_;
  std::set<std::string> twice_;
};

Result<std::shared_ptr<const Catalog>> Catalog::open(FileSystem& fs, std::span<const std::string> sources, Logger& logger) {
  CatalogBuilder builder(&fs, &logger);
  std::vector<Problem> problems;
  Status first;
  for (const std::string& source : sources) {
    Status status = builder.add(source);
    if (status.ok()) continue;
    for (const Problem& problem : status.problems()) problems.push_back(problem);
    if (first.ok()) first = std::move(status);
  }
  if (first.ok()) return builder.finish();
  if (problems.size() == 1) return std::move(first).with_context("opening the weights");
  const Code code = first.code();
  std::string message = "opening the weights: " + std::to_string(problems.size()) + " problems, the first: " + first.message();
  return Status(code, std::move(message), std::move(problems));
}

std::shared_ptr<const Catalog> Catalog::from_memory(std::vector<SourceTensor> tensors) {
  CatalogBuilder builder(nullptr, nullptr);
  for (SourceTensor& tensor : tensors) builder.insert(std::move(tensor));
  return builder.finish();
}

const SourceTensor* Catalog::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

const Problem* Catalog::unusable(const std::string& name) const {
  const auto at = unusable_.find(name);
  return at == unusable_.end() ? nullptr : &at->second;
}

std::vector<std::string> Catalog::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size() + unusable_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  for (const auto& [name, problem] : unusable_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace forebay::refit
