#include "synth/synth_llama.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <thread>

#include "base/check.h"
#include "runtime/thread_pool.h"
#include "synth/decoder_graph.h"
#include "synth/safetensors_layout.h"
#include "synth/weight_law.h"

namespace forebay::tools {
namespace {

constexpr std::uint64_t kBlock = 16ull << 20;  // made while the block before it is written

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

class Synth {
 public:
  Synth(FileSystem& fs, const std::string& folder, const SynthOptions& options)
      : fs_(fs), folder_(folder), options_(options),
        pool_(options.threads > 0 ? options.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {}

  Result<SynthReport> run() {
    const auto start = std::chrono::steady_clock::now();
    FB_ASSIGN(report_.shape, decoder_shape(options_.params));
    tensors_ = decoder_tensors(report_.shape, options_.dtype);
    layout_ = lay_out(tensors_, options_.max_shard_bytes);
    report_.tensor_bytes = layout_.tensor_bytes;
    report_.tensors = tensors_.size();
    FB_TRY(fs_.make_folder(folder_));
    Status status = write_files();
    if (!status.ok()) {
      for (const std::string& name : report_.files) {
        if (const Status removed = fs_.remove(join_path(folder_, name)); !removed.ok()) break;  // the first failure is the one to tell
      }
      return status;
    }
    report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  Status write_files() {
    for (const ShardLayout& shard : layout_.shards) FB_TRY(write_shard(shard));
    FB_TRY(write_text("model.safetensors.index.json", layout_.index_json));
    return write_text("model.onnx", decoder_model(report_.shape, options_.dtype, tensors_, layout_, options_.all_logits));
  }

  Status write_text(const std::string& name, const std::string& text) {
    FB_ASSIGN(auto file, DurableFile::create(fs_, join_path(folder_, name), text.size()));
    FB_TRY(file->append(bytes_of(text)));
    FB_TRY(file->commit());
    report_.files.push_back(name);
    return {};
  }

  Status write_shard(const ShardLayout& shard) {
    FB_ASSIGN(auto file, DurableFile::create(fs_, join_path(folder_, shard.name), shard.bytes));
    FB_TRY(file->append(bytes_of(shard.header)));
    std::vector<std::byte> making(kBlock), writing(kBlock);
    std::future<Status> write;
    Status failed;
    for (const std::size_t t : shard.tensors) {
      const DecoderTensor& tensor = tensors_[t];
      const WeightMaker maker(table_, report_.shape, tensor, options_.seed);
      const std::uint64_t row_bytes = tensor.bytes() / static_cast<std::uint64_t>(tensor.rows);
      const std::int64_t rows_per_block = std::max<std::int64_t>(1, static_cast<std::int64_t>(kBlock / row_bytes));
      for (std::int64_t row = 0; row < tensor.rows && failed.ok(); row += rows_per_block) {
        const std::int64_t count = std::min(rows_per_block, tensor.rows - row);
        const std::uint64_t bytes = static_cast<std::uint64_t>(count) * row_bytes;
        if (making.size() < bytes) making.resize(bytes);
        pool_.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
          const std::size_t from = static_cast<std::size_t>(begin) * row_bytes, size = static_cast<std::size_t>(end - begin) * row_bytes;
          maker.rows(row + begin, end - begin, std::span(making).subspan(from, size));
        });
        if (write.valid()) failed = write.get();
        std::swap(making, writing);
        if (failed.ok()) {
          write = std::async(std::launch::async, [&file, &writing, bytes] { return file->append(std::span(writing).first(bytes)); });
        }
        done_ += bytes;
        if (options_.progress && !options_.progress("weights", done_, layout_.tensor_bytes)) failed = Status(Code::cancelled, "interrupted");
      }
    }
    if (write.valid()) {
      Status last = write.get();
      if (failed.ok()) failed = std::move(last);
    }
    FB_TRY(std::move(failed));
    FB_TRY(file->commit());
    report_.files.push_back(shard.name);
    return {};
  }

  FileSystem& fs_;
  std::string folder_;
  const SynthOptions& options_;
  ThreadPool pool_;
  StudentTable table_;
  std::vector<DecoderTensor> tensors_;
  CheckpointLayout layout_;
  SynthReport report_;
  std::uint64_t done_ = 0;
};

}  // namespace

Result<SynthReport> synth_llama(FileSystem& fs, const std::string& folder, const SynthOptions& options) {
  return Synth(fs, folder, options).run();
}

}  // namespace forebay::tools
