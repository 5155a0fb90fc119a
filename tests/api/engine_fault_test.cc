// Files that change under a running engine, and few descriptors: an error that names the file, never a wrong
// answer, and service afterwards.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>

#include "api/engine_world.h"

namespace forebay {
namespace {

using namespace test;

constexpr int kLayers = 12;

// Over the file's own bytes, as a careless copy would: the same inode.
void write_over(const std::string& path, std::string_view bytes) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0) << path;
  EXPECT_EQ(::pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(bytes.size())), 0);
  EXPECT_EQ(::close(fd), 0);
}

struct Container {
  std::string kind;  // safetensors, plan, shards
  std::string io, direct;
};
void PrintTo(const Container& c, std::ostream* out) { *out << c.kind << " " << c.io << " direct " << c.direct; }

class EngineFileTest : public testing::TestWithParam<Container> {
 protected:
  void SetUp() override {
    weights_ = layer_weights(kLayers, kWidth, 1);
    auto plan = build_plan(make_layers(weights_, kWidth), folder_, "layers");
    ASSERT_OK(plan);
    plan_ = std::make_unique<Plan>(std::move(*plan));
    inputs_ = only("x", random_tensor(DType::f32, Shape{2, kWidth}, 5));
    file_ = folder_ / "layers.plan";
    if (GetParam().kind != "plan") {
      file_ = folder_ / "weights.safetensors";
      write_file(file_, safetensors_of(weights_));
      sources_.paths = {file_};
    }
    if (GetParam().kind == "shards") {
      ASSERT_OK(Refitter(*plan_, {}).pack(sources_, folder_ / "shards", "zstd"));
      sources_.paths = {folder_ / "shards"};
      std::uint64_t largest = 0;
      for (const auto& entry : std::filesystem::directory_iterator(folder_ / "shards")) {
        if (entry.file_size() < largest) continue;
        largest = entry.file_size();
        file_ = entry.path().string();
      }
    }
    bytes_ = read_file(file_);
    options_ = with_budget(Budget::of_percent(100));
    ASSERT_VALUE(Engine full, Engine::create(*plan_, sources_, options_));
    ASSERT_VALUE(want_, run_once(full, inputs_));
    ASSERT_VALUE(const auto sizes, full.sizes_for_shapes(shapes_of(inputs_)));
    options_ = with_budget(Budget::of_bytes(sizes.min_budget));
    options_.io = GetParam().io;
    options_.direct = GetParam().direct;
  }

  std::string name() const { return std::filesystem::path(file_).filename().string(); }

  // A bit in every 512 bytes of the second half turned: no weight there survives.
  std::string damaged() const {
    std::string bytes = bytes_;
    for (std::size_t i = bytes.size() / 2; i < bytes.size(); i += 512) bytes[i] = static_cast<char>(bytes[i] ^ 0x40);
    return bytes;
  }

  // Ok with the right bits, or an error of the file that names it. Returns whether it was ok.
  bool right_or_refused(ExecutionContext& context) {
    auto got = run_once(context, inputs_);
    if (got.ok()) {
      EXPECT_TRUE(same_bits(*got, want_)) << "a wrong answer";
      return true;
    }
    const Code code = got.status().code();
    EXPECT_TRUE(code == Code::corruption || code == Code::io_error) << got.status().to_string();
    EXPECT_NE(got.status().to_string().find(name()), std::string::npos) << got.status().to_string();
    return false;
  }

  // The bytes are back. Digests tell so by themselves; a file without any was changed for good and must be loaded again, as the error says.
  void serves_again(Engine& engine, ExecutionContext& context) {
    if (right_or_refused(context)) return;
    if (GetParam().kind == "safetensors") {
      Status refused = run_once(context, inputs_).status();
      EXPECT_NE(refused.to_string().find("load the weights again"), std::string::npos) << refused.to_string();
      EXPECT_OK(engine.refit(sources_, nullptr));
    }
    for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(right_or_refused(context)) << "serves again once the bytes are back";
  }

  TempFolder folder_;
  Tensors weights_, inputs_;
  std::unique_ptr<Plan> plan_;
  WeightSources sources_;
  EngineOptions options_;
  std::string file_, bytes_;
  HostTensor want_;
};

TEST_P(EngineFileTest, TruncatedThenRestored) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, sources_, options_));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_TRUE(right_or_refused(context));
  ASSERT_GT(context.profile().disk_bytes, 0u);
  for (const std::size_t part : {2u, 4u, 1000u}) {
    ASSERT_EQ(::truncate(file_.c_str(), static_cast<off_t>(bytes_.size() / part)), 0);
    // What was read ahead is still right; a second pass must meet the end of the file.
    const bool first = right_or_refused(context), second = right_or_refused(context);
    EXPECT_FALSE(first && second) << "the file is a " << part << "th";
    write_over(file_, bytes_);
    serves_again(engine, context);
  }
}

TEST_P(EngineFileTest, OverwrittenInPlaceThenRestored) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, sources_, options_));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_TRUE(right_or_refused(context));
  write_over(file_, damaged());
  const bool first = right_or_refused(context), second = right_or_refused(context);
  EXPECT_FALSE(first && second);
  write_over(file_, bytes_);
  serves_again(engine, context);
}

TEST_P(EngineFileTest, OverwrittenBeforeTheFirstPass) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, sources_, options_));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  write_over(file_, damaged());
  const bool first = right_or_refused(context), second = right_or_refused(context);
  EXPECT_FALSE(first && second);
}

TEST_P(EngineFileTest, DeletedServesOnAndReloadsCleanly) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, sources_, options_));
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  ASSERT_TRUE(right_or_refused(context));
  ASSERT_TRUE(std::filesystem::remove(file_));
  for (int pass = 0; pass < 3; ++pass) EXPECT_TRUE(right_or_refused(context)) << pass;
  if (!sources_.empty()) {
    Status refused = engine.refit(sources_, nullptr).status();
    EXPECT_FALSE(refused.ok());
    EXPECT_NE(refused.to_string().find(name()), std::string::npos) << refused.to_string();
  }
  EXPECT_FALSE(Engine::create(*plan_, sources_, options_).ok());
  EXPECT_TRUE(right_or_refused(context));
  EXPECT_EQ(engine.generation(), 1u);
  // A good source heals it whatever became of the files.
  ASSERT_OK(engine.refit(in_memory(weights_), nullptr));
  EXPECT_TRUE(right_or_refused(context));
}

TEST_P(EngineFileTest, DamagedAndRestoredWhilePassesRun) {
  ASSERT_VALUE(Engine engine, Engine::create(*plan_, sources_, options_));
  {
    ASSERT_VALUE(ExecutionContext context, engine.create_context());
    ASSERT_TRUE(right_or_refused(context));
  }
  std::atomic<bool> stop{false};
  std::atomic<int> passes{0};
  std::thread caller([&] {
    auto context = engine.create_context();
    ASSERT_OK(context);
    while (!stop) {
      right_or_refused(*context);
      ++passes;
    }
  });
  const std::string bad = damaged();
  for (int i = 0; i < 20; ++i) {
    const int until = passes + 1;
    if (i % 2 == 0) {
      write_over(file_, bad);
    } else {
      EXPECT_EQ(::truncate(file_.c_str(), static_cast<off_t>(bytes_.size() / 3)), 0);
    }
    while (passes < until) std::this_thread::yield();
    write_over(file_, bytes_);
  }
  stop = true;
  caller.join();
  ASSERT_VALUE(ExecutionContext context, engine.create_context());
  serves_again(engine, context);
}

INSTANTIATE_TEST_SUITE_P(Containers, EngineFileTest,
                         testing::Values(Container{"safetensors", "threads", "off"}, Container{"safetensors", "auto", "auto"},
                                         Container{"plan", "threads", "auto"},
                                         Container{"plan", "auto", "off"}, Container{"shards", "auto", "auto"}),
                         [](const testing::TestParamInfo<Container>& c) { return c.param.kind + "_" + c.param.io + "_" + c.param.direct; });

class DescriptorLimit {
 public:
  DescriptorLimit() { EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &old_), 0); }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;
  ~DescriptorLimit() { lift(); }
  void set(std::uint64_t count) {
    rlimit limit = old_;
    limit.rlim_cur = count;
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  void lift() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &old_), 0); }

 private:
  rlimit old_{};
};

std::size_t open_descriptors() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) count += entry.is_symlink() ? 1 : 0;
  return count;
}

TEST(Descriptors, TooFewRefuseCleanly) {
  TempFolder folder;
  const Tensors weights = layer_weights(4, kWidth, 1);
  ASSERT_VALUE(Plan plan, build_plan(make_layers(weights, kWidth), folder, "layers"));
  write_file(folder / "weights.safetensors", safetensors_of(weights));
  WeightSources sources;
  sources.paths = {folder / "weights.safetensors"};
  const Tensors inputs = only("x", random_tensor(DType::f32, Shape{2, kWidth}, 5));
  HostTensor want;
  EngineOptions options = with_budget(Budget::of_percent(100));
  {
    ASSERT_VALUE(Engine full, Engine::create(plan, sources, options));
    ASSERT_VALUE(want, run_once(full, inputs));
    ASSERT_VALUE(const auto sizes, full.sizes_for_shapes(shapes_of(inputs)));
    options.budget = Budget::of_bytes(sizes.min_budget);
  }
  const std::size_t before = open_descriptors();
  int refused = 0, served = 0;
  for (const std::string io : {"threads", "auto"}) {
    options.io = io;
    for (std::uint64_t limit = 3; limit < 48; ++limit) {
      DescriptorLimit few;
      few.set(limit);
      auto loaded = Plan::load(folder / "layers.plan");
      auto engine = Engine::create(plan, sources, options);
      Result<HostTensor> got = engine.ok() ? run_once(*engine, inputs) : Result<HostTensor>(engine.status());
      few.lift();
      if (!loaded.ok()) {
        const Code code = loaded.status().code();
        EXPECT_TRUE(code == Code::io_error || code == Code::resource_exhausted) << loaded.status().to_string();
        EXPECT_NE(loaded.status().to_string().find("layers.plan"), std::string::npos) << loaded.status().to_string();
      }
      if (got.ok()) {
        ++served;
        EXPECT_TRUE(same_bits(*got, want)) << limit;
      } else {
        ++refused;
        const Code code = got.status().code();
        EXPECT_TRUE(code == Code::io_error || code == Code::resource_exhausted || code == Code::unavailable)
            << limit << ": " << got.status().to_string();
      }
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(served, 0);
  EXPECT_EQ(open_descriptors(), before) << "descriptors leaked";
  ASSERT_VALUE(Engine again, Engine::create(plan, sources, options));
  ASSERT_VALUE(const HostTensor got, run_once(again, inputs));
  EXPECT_TRUE(same_bits(got, want));
}

}  // namespace
}  // namespace forebay
