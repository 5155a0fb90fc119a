// Any bytes as the external-data entries of a tensor. Input: lines "key=value", then after an empty line the bytes of the dimensions.
// Invariant: whatever the entries say, no byte from outside of the model's folder is ever read.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <sys/stat.h>
#include <unistd.h>

#include "onnx/onnx_model.h"
#include "support/memory_fs.h"
#include "support/onnx_maker.h"

namespace {

using namespace forebay;

void require(bool holds) {
  if (!holds) std::abort();
}

// A real folder with every kind of trap in it; outside of it lies a file of 'S' bytes.
class Playground {
 public:
  Playground() {
    const char* const base = std::getenv("TMPDIR");
    root_ = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/forebay_fuzz_XXXXXX";
    require(::mkdtemp(root_.data()) != nullptr);
    std::filesystem::create_directories(root_ + "/model/sub");
    std::ofstream(root_ + "/secret") << std::string(4096, 'S');
    std::ofstream(root_ + "/model/w") << std::string(4096, 'w');
    std::ofstream(root_ + "/model/sub/v") << std::string(100, 'v');
    require(::symlink("../secret", (root_ + "/model/l").c_str()) == 0 && ::symlink("..", (root_ + "/model/u").c_str()) == 0);
    require(::link((root_ + "/secret").c_str(), (root_ + "/model/h").c_str()) == 0 && ::mkfifo((root_ + "/model/p").c_str(), 0600) == 0);
  }
  ~Playground() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  std::string folder() const { return root_ + "/model"; }

 private:
  std::string root_;
};

// The model from memory, what it names from the playground.
class MixedFs final : public FileSystem {
 public:
  test::MemoryFs memory;
  std::string folder;
  Result<std::unique_ptr<File>> open_read(const std::string& path, DirectIo direct) override { return memory.open_read(path, direct); }
  Result<std::unique_ptr<File>> open_beneath(const std::string&, const std::string& name, DirectIo direct) override {
    return posix_file_system().open_beneath(folder, name, direct);
  }
  Result<std::unique_ptr<File>> create_new(const std::string& path) override { return memory.create_new(path); }
  Status rename(const std::string& from, const std::string& to) override { return memory.rename(from, to); }
  Status remove(const std::string& path) override { return memory.remove(path); }
  Status sync_folder(const std::string& path) override { return memory.sync_folder(path); }
  Status make_folder(const std::string& path) override { return memory.make_folder(path); }
  Result<std::vector<std::string>> list(const std::string& path) override { return memory.list(path); }
  Result<bool> is_folder(const std::string& path) override { return memory.is_folder(path); }
  Result<std::uint64_t> free_bytes(const std::string& path) override { return memory.free_bytes(path); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Playground playground;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<std::pair<std::string, std::string>> keys;
  while (!text.empty() && text.front() != '\n' && keys.size() < 16) {
    const std::string_view line = text.substr(0, text.find('\n'));
    const std::size_t equals = std::min(line.find('='), line.size());
    keys.emplace_back(line.substr(0, equals), line.substr(std::min(equals + 1, line.size())));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
  std::vector<std::int64_t> dims;
  for (const char c : text.substr(0, 4)) dims.push_back(static_cast<signed char>(c));
  test::OnnxMaker maker;
  maker.graph().initializer_external("t", DType::u8, dims, keys);
  MixedFs fs;
  fs.folder = playground.folder();
  fs.memory.put("/m/m.onnx", maker.bytes());
  const auto model = onnx::read_model(fs, "/m/m.onnx", onnx::Limits{});
  if (!model.ok()) return 0;
  const auto loaded = load_source_tensor(model->graph.initializers.at(0), 1 << 20);
  require(loaded.ok());
  for (std::uint64_t i = 0; i < loaded->bytes(); ++i) require(loaded->data()[i] != std::byte{'S'});
  return 0;
}
