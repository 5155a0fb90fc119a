// Choosing kernels without a device: a fake one whose products have three ways, and a prober that tells the times it was told.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"
#include "builder/model_maker.h"
#include "builder/wrapped_device.h"
#include "plan/plan_io.h"
#include "runtime/kernel_choice.h"
#include "runtime/merged_kernel.h"
#include "runtime/prepared_pass.h"
#include "runtime/run_timer.h"
#include "support/temp_folder.h"

namespace forebay::builder::test {
namespace {

// The CPU's kernel under another name; what it computes is the same by every way.
class FakeProduct final : public Kernel, public ChoosingKernel {
 public:
  explicit FakeProduct(std::unique_ptr<Kernel> kernel) : kernel_(std::move(kernel)) {}
  Status prepare(const PrepareContext& context) override {
    problem_ = "product";
    for (const std::int64_t dim : context.outputs[0].dims) problem_ += " " + std::to_string(dim);
    return kernel_->prepare(context);
  }
  std::uint64_t workspace_bytes() const override { return kernel_->workspace_bytes(); }
  Status run(const KernelCall& call) override { return kernel_->run(call); }
  std::string_view id() const override { return way_.kernel; }
  std::string problem() const override { return problem_; }
  std::vector<KernelWay> ways() const override {
    ++asked;
    return {std::begin(kWays), std::end(kWays)};
  }
  Status take(const KernelWay& way) override {
    if (std::find(std::begin(kWays), std::end(kWays), way) == std::end(kWays)) return Status(Code::unsupported, "no such way");
    way_ = way;
    return {};
  }
  const KernelWay& way() const { return way_; }
  static inline int asked = 0;  // for ways

 private:
  static inline const KernelWay kWays[] = {{"fake.library", "a"}, {"fake.library", "b"}, {"fake.own", ""}};
  std::unique_ptr<Kernel> kernel_;
  std::string problem_;
  KernelWay way_{"fake.library", "a"};
};

class FakeDevice : public WrappedDevice {
 public:
  FakeDevice() {
    info_.kind = "fake";
    info_.name = "Fake 1";
    info_.numerics = {{"library", "7"}};
  }
  Result<std::unique_ptr<Kernel>> create_kernel(const NodeView& node, std::span<const TypeShape> inputs,
                                                std::span<const TypeShape> outputs) override {
    if (node.op() != "MatMul") return std::unique_ptr<Kernel>();
    auto kernel = OpRegistry::builtin().find("", "MatMul", node.version())->create(node, inputs, outputs);
    if (!kernel.ok()) return kernel.status();
    return std::unique_ptr<Kernel>(std::make_unique<FakeProduct>(std::move(kernel).value()));
  }
};

class FakeProber final : public KernelProber {
 public:
  explicit FakeProber(std::map<std::string, Result<double>> times) : times_(std::move(times)) {}
  Result<double> microseconds(PreparedStep& step) override {
    ++probes;
    const auto& way = dynamic_cast<FakeProduct&>(*step.kernel).way();
    return times_.at(way.kernel + way.config);
  }
  int probes = 0;

 private:
  std::map<std::string, Result<double>> times_;
};
const std::map<std::string, Result<double>> kTimes = {{"fake.librarya", 30.0}, {"fake.libraryb", 12.34567}, {"fake.own", 20.0}};

// Two products of one problem, one of another, and a sum.
plan::Plan small_plan(const std::string& excluded = "") {
  GraphMaker graph;
  graph.input("x", DType::f32, {"N", "8"})
      .initializer("w1", floats({8, 8}, 1))
      .initializer("w2", floats({8, 8}, 2))
      .initializer("w3", floats({8, 4}, 3));
  graph.node("MatMul", {"x", "w1"}, {"a"})
      .node("MatMul", {"a", "w2"}, {"b"})
      .node("MatMul", {"b", "w3"}, {"c"})
      .node("Abs", {"c"}, {"y"})
      .output("y");
  Options options;
  options.fuse = false;
  options.input_shapes["x"] = {{2, 8}, {16, 8}, {32, 8}};
  auto built = build_model(graph.model(), options);
  EXPECT_TRUE(built.ok()) << built.status().to_string();
  plan::Plan plan = std::move(built).value().plan;
  if (!excluded.empty()) plan.numerics.emplace_back(std::string(kExcludeKey), excluded);
  return plan;
}

struct Chosen {
  plan::Plan plan;
  ChoiceOutcome outcome;
};
Chosen choose(plan::Plan plan, KernelProber* prober, TimingCache* cache, double seconds = 0) {
  FakeDevice device;
  ThreadPool pool(1);
  ChoiceRequest request;
  request.compiled = compile_plan(std::make_shared<const plan::Plan>(plan)).value();
  request.shapes = declared_shapes(plan);
  request.pool = &pool;
  request.device = &device;
  request.prober = prober;
  request.cache = cache;
  request.seconds = seconds;
  auto outcome = choose_kernels(request);
  EXPECT_TRUE(outcome.ok()) << outcome.status().to_string();
  Chosen chosen{*with_kernels(plan, outcome->section), std::move(outcome).value()};
  return chosen;
}

// Ids of the kernels that a pass of `rows` rows runs.
std::vector<std::string> kernels_of(const plan::Plan& plan, std::int64_t rows) {
  FakeDevice device;
  ThreadPool pool(1);
  const auto pass =
      prepare_pass(compile_plan(std::make_shared<const plan::Plan>(plan)).value(), {{"x", Shape{rows, 8}}}, pool, {}, &device);
  EXPECT_TRUE(pass.ok()) << pass.status().to_string();
  std::vector<std::string> ids;
  for (const PreparedStep& step : (*pass)->main.steps) {
    if (auto* product = dynamic_cast<FakeProduct*>(step.kernel.get())) ids.push_back(product->way().kernel + product->way().config);
  }
  return ids;
}

TEST(KernelChoice, TheFastestWayIsRecordedAndTakenAgain) {
  FakeProber prober(kTimes);
  TimingCache cache;
  const Chosen chosen = choose(small_plan(), &prober, &cache);
  EXPECT_EQ(chosen.outcome.problems, 6u);  // two for each of three sets of shapes
  EXPECT_EQ(chosen.outcome.timed, 18u);
  EXPECT_EQ(prober.probes, 18);
  EXPECT_EQ(chosen.outcome.section.made_by, "timed on Fake 1; library=7");
  ASSERT_EQ(chosen.outcome.section.entries.size(), 4u);
  EXPECT_EQ(chosen.outcome.section.entries[0].kernel, "fake.library");
  EXPECT_TRUE(chosen.outcome.section.entries[0].parameters.starts_with(
      "product 16 8\nproduct 16 8 | fake.library | a | 30.000\nproduct 16 8 | fake.library | b | 12.346\n"));
  EXPECT_EQ(chosen.outcome.section.entries[1].parameters, "product 16 8");  // its times are the first node's
  EXPECT_EQ(chosen.outcome.section.entries[3].parameters, "");
  for (const std::int64_t rows : {2, 16, 32})
    EXPECT_EQ(kernels_of(chosen.plan, rows), (std::vector<std::string>(3, "fake.libraryb"))) << rows;
  EXPECT_EQ(kernels_of(chosen.plan, 17), (std::vector<std::string>(3, "fake.librarya")));  // not timed: the heuristics' choice
}

// A launch by itself is not quite one in a pass.
TEST(KernelChoice, TheHeuristicsChoiceGivesWayToWhatIsClearlyFaster) {
  for (const auto& [time, taken] : {std::pair(29.5, "fake.librarya"), std::pair(28.5, "fake.own")}) {
    const std::map<std::string, Result<double>> times = {{"fake.librarya", 30.0}, {"fake.libraryb", 31.0}, {"fake.own", time}};
    FakeProber prober(times);
    TimingCache cache;
    const Chosen fresh = choose(small_plan(), &prober, &cache), known = choose(small_plan(), nullptr, &cache);
    EXPECT_EQ(kernels_of(fresh.plan, 16), (std::vector<std::string>(3, taken)));
    EXPECT_EQ(kernels_of(known.plan, 16), (std::vector<std::string>(3, taken)));
  }
}

TEST(KernelChoice, APlanKeepsItsTimesInItsFile) {
  FakeProber prober(kTimes);
  TimingCache cache;
  Chosen chosen = choose(small_plan(), &prober, &cache);
  forebay::test::TempFolder folder;
  ASSERT_TRUE(plan::write_stripped_plan(posix_file_system(), folder / "p.plan", chosen.plan, {}).ok());
  const auto back = plan::read_plan(posix_file_system(), folder / "p.plan", nullptr);
  ASSERT_TRUE(back.ok()) << back.status().to_string();
  EXPECT_EQ(kernels_of(**back, 16), (std::vector<std::string>(3, "fake.libraryb")));
}

TEST(KernelChoice, TheCacheSavesTimingAndGivesTheSamePlan) {
  forebay::test::TempFolder folder;
  FakeProber prober(kTimes), idle({});
  TimingCache cache;
  Chosen first = choose(small_plan(), &prober, &cache);
  ASSERT_TRUE(cache.write(posix_file_system(), folder / "times").ok());
  auto read = TimingCache::read(posix_file_system(), folder / "times");
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->text(), cache.text());
  Chosen second = choose(small_plan(), &idle, &*read);
  EXPECT_EQ(second.outcome.timed, 0u);
  EXPECT_EQ(second.outcome.cached, 18u);
  EXPECT_EQ(idle.probes, 0);
  EXPECT_EQ(plan::serialize_plan(first.plan, {}).value(), plan::serialize_plan(second.plan, {}).value());
}

// Asking a device what it can do may start it, which takes longer than the rest of a build.
TEST(KernelChoice, TheDeviceIsNotAskedForWhatTheCacheHasWhole) {
  FakeProber prober(kTimes);
  TimingCache cache;
  choose(small_plan(), &prober, &cache);
  FakeProduct::asked = 0;
  choose(small_plan(), nullptr, &cache);
  EXPECT_EQ(FakeProduct::asked, 0);
  std::string text = cache.text();
  const std::size_t at = text.find(" | fake.own |");
  text.erase(text.rfind('\n', at) + 1, text.find('\n', at) - text.rfind('\n', at));
  auto edited = TimingCache::parse(text, "edited");
  ASSERT_TRUE(edited.ok()) << edited.status().to_string();
  choose(small_plan(), nullptr, &*edited);
  EXPECT_EQ(FakeProduct::asked, 1);
}

TEST(KernelChoice, AKnownWayThatIsRefusedHereGivesWayToTheNext) {
  FakeProber prober(kTimes);
  TimingCache cache;
  choose(small_plan(), &prober, &cache);
  std::string text = cache.text();
  for (std::size_t at = text.find("| b | 12"); at != std::string::npos; at = text.find("| b | 12")) text.replace(at, 8, "| x | 12");
  auto edited = TimingCache::parse(text, "edited");
  ASSERT_TRUE(edited.ok()) << edited.status().to_string();
  const Chosen chosen = choose(small_plan(), nullptr, &*edited);
  EXPECT_EQ(kernels_of(chosen.plan, 16), (std::vector<std::string>(3, "fake.own")));
  EXPECT_EQ(chosen.outcome.failed, 0u);
}

TEST(KernelChoice, AnEditedCacheDecides) {
  FakeProber prober(kTimes);
  TimingCache cache;
  choose(small_plan(), &prober, &cache);
  std::string text = cache.text();
  for (std::size_t at = text.find("| 12.346"); at != std::string::npos; at = text.find("| 12.346")) text.replace(at, 8, "| failed");
  auto edited = TimingCache::parse(text, "edited");
  ASSERT_TRUE(edited.ok()) << edited.status().to_string();
  const Chosen chosen = choose(small_plan(), nullptr, &*edited);
  EXPECT_EQ(kernels_of(chosen.plan, 16), (std::vector<std::string>(3, "fake.own")));
}

TEST(KernelChoice, ALineTakenOutIsTimedAgain) {
  FakeProber prober(kTimes), again(kTimes);
  TimingCache cache;
  choose(small_plan(), &prober, &cache);
  std::string text = cache.text();
  const std::size_t at = text.find("Fake 1; library=7 | product 16 8 | fake.library | a");
  ASSERT_NE(at, std::string::npos);
  text.erase(at, text.find('\n', at) + 1 - at);
  auto edited = TimingCache::parse(text, "edited");
  ASSERT_TRUE(edited.ok());
  EXPECT_EQ(choose(small_plan(), &again, &*edited).outcome.timed, 1u);
  EXPECT_EQ(edited->text(), cache.text());
}

TEST(KernelChoice, AFailedProbeDropsThatWayAlone) {
  auto times = kTimes;
  times.at("fake.libraryb") = Status(Code::internal, "it broke");
  FakeProber prober(times);
  TimingCache cache;
  const Chosen chosen = choose(small_plan(), &prober, &cache);
  EXPECT_EQ(chosen.outcome.failed, 6u);
  EXPECT_EQ(kernels_of(chosen.plan, 16), (std::vector<std::string>(3, "fake.own")));
}

TEST(KernelChoice, WhatDoesNotFitTheBudgetIsLeftToHeuristics) {
  auto times = kTimes;
  for (auto& [way, time] : times) time = Status(Code::resource_exhausted, "too large");
  FakeProber prober(times);
  TimingCache cache;
  const Chosen chosen = choose(small_plan(), &prober, &cache);
  EXPECT_EQ(chosen.outcome.section.made_by, "heuristic on Fake 1; library=7");
  EXPECT_EQ(cache.size(), 0u);  // another budget may serve
  EXPECT_EQ(kernels_of(chosen.plan, 16), (std::vector<std::string>(3, "fake.librarya")));
}

TEST(KernelChoice, ExcludedKernelsAreNeitherTimedNorUsed) {
  for (const char* name : {"library", "fake.library"}) {
    FakeProber prober(kTimes);
    TimingCache cache;
    const plan::Plan plan = small_plan(name);
    EXPECT_EQ(kernels_of(plan, 16), (std::vector<std::string>(3, "fake.own")));  // without times too
    const Chosen chosen = choose(plan, &prober, &cache);
    EXPECT_EQ(chosen.outcome.timed, 6u);
    EXPECT_EQ(kernels_of(chosen.plan, 16), (std::vector<std::string>(3, "fake.own")));
    EXPECT_EQ(chosen.outcome.section.entries[0].parameters.find("fake.library"), std::string::npos);
  }
  // Nothing is left: the host's kernel runs.
  EXPECT_TRUE(kernels_of(small_plan("fake.library,fake.own"), 16).empty());
}

TEST(KernelChoice, ARecordedWayThatIsRefusedHereIsChosenAgain) {
  plan::Plan plan = small_plan();
  plan.kernels.push_back(
      {"fake", "timed on another", {{0, 0, "fake.library", "product 16 8\nproduct 16 8 | fake.library | of another version | 1.000"}}});
  EXPECT_EQ(kernels_of(plan, 16), (std::vector<std::string>(3, "fake.librarya")));
}

TEST(KernelChoice, IdentityIsTheChoiceNotItsTimes) {
  const auto identity = [](const char* parameters) { return choice_identity({0, 0, "fake.library", parameters}); };
  EXPECT_EQ(identity("p\np | a | x | 1.000\np | b |  | 2.000"), identity("p\np | a | x | 1.500\np | b |  | 9.000"));
  EXPECT_NE(identity("p\np | a | x | 1.000\np | b |  | 2.000"), identity("p\np | a | x | 3.000\np | b |  | 2.000"));
  EXPECT_EQ(identity("p\np | a | x | failed"), identity("p"));
}

TEST(TimingCache, WhatIsNoLineOfItIsRefusedByNumber) {
  for (const char* line :
       {"nonsense", "d | p | k | c", "d | p | k | c | ", "d | p | k | c | -1", "d | p | k | c | 1 us", "d | p | k | c | nan",
        "d | p | k | c | 1e99", "d | p | k | c | 1 | 2", " | p | k | c | 1", "d |  | k | c | 1", "\x01\xff"}) {
    const auto cache = TimingCache::parse("# times\n\n" + std::string(line) + "\n", "times.txt");
    ASSERT_FALSE(cache.ok()) << line;
    EXPECT_EQ(cache.status().code(), Code::invalid_argument);
    EXPECT_NE(cache.status().to_string().find("times.txt, line 3"), std::string::npos) << cache.status().to_string();
  }
  const auto good = TimingCache::parse("d | p | k |  | 1.5\r\nd | p | l | c | failed", "times.txt");
  ASSERT_TRUE(good.ok()) << good.status().to_string();
  EXPECT_EQ(good->find("d", "p", {"k", ""}), 1.5);
  EXPECT_EQ(good->find("d", "p", {"l", "c"}), -1.0);
  EXPECT_FALSE(good->find("e", "p", {"k", ""}));
  const auto none = TimingCache::read(posix_file_system(), "/nonexistent/folder/times");
  EXPECT_TRUE(none.ok() && none->size() == 0);
}

// The CPU's product, slab by slab; its calls may share launches.
class SharedProduct final : public MergedKernel {
 public:
  SharedProduct(std::unique_ptr<Kernel> kernel, bool merges) : kernel_(std::move(kernel)), merges_(merges) {}
  Status prepare(const PrepareContext& context) override { return kernel_->prepare(context); }
  std::uint64_t workspace_bytes() const override { return kernel_->workspace_bytes(); }
  std::string_view id() const override { return "fake.shared"; }
  bool merges() const override { return merges_; }
  Status run(const KernelCall& call) override {
    ++runs;
    weights.insert(call.inputs[1].data);
    return kernel_->run(call);
  }
  Status run_merged(std::span<const KernelCall> calls) override {
    for (const KernelCall& call : calls) FB_TRY(run(call));
    return {};
  }
  std::size_t runs = 0;
  std::set<const std::byte*> weights;  // where they were

 private:
  std::unique_ptr<Kernel> kernel_;
  const bool merges_;
};

// A launch takes two microseconds.
class TimedDevice final : public FakeDevice, public RunTimer {
 public:
  static constexpr int kCalls = 5;
  explicit TimedDevice(bool merges) : merges_(merges) {}
  Result<double> time_calls(const std::function<Status()>& enqueue) override {
    for (int i = 0; i < kCalls; ++i) FB_TRY(enqueue());
    return 2.0;
  }
  Result<std::unique_ptr<Kernel>> create_kernel(const NodeView& node, std::span<const TypeShape> inputs,
                                                std::span<const TypeShape> outputs) override {
    auto kernel = OpRegistry::builtin().find("", "MatMul", node.version())->create(node, inputs, outputs);
    if (!kernel.ok()) return kernel.status();
    return std::unique_ptr<Kernel>(std::make_unique<SharedProduct>(std::move(kernel).value(), merges_));
  }

 private:
  const bool merges_;
};

TEST(KernelChoice, LaunchesAreTimedAsTheyAreSharedWithWeightsOfTheirOwn) {
  GraphMaker graph;
  graph.input("x", DType::f32, {"4", "64"}).initializer("w", floats({64, 64}, 1));
  graph.node("MatMul", {"x", "w"}, {"y"}).output("y");
  Options options;
  options.fuse = false;
  options.slab_bytes = 4096;
  auto built = build_model(graph.model(), options);
  ASSERT_TRUE(built.ok()) << built.status().to_string();
  const auto compiled = compile_plan(std::make_shared<const plan::Plan>(std::move(built).value().plan)).value();
  for (const bool merges : {false, true}) {
    TimedDevice device(merges);
    ThreadPool pool(1);
    auto pass = prepare_pass(compiled, {{"x", Shape{4, 64}}}, pool, {}, &device);
    ASSERT_TRUE(pass.ok()) << pass.status().to_string();
    auto prober = create_prober(device, 1 << 20);
    ASSERT_TRUE(prober.ok()) << prober.status().to_string();
    std::size_t probed = 0;
    for (PreparedStep& step : (*pass)->main.steps) {
      auto* const product = dynamic_cast<SharedProduct*>(step.kernel.get());
      if (product == nullptr) continue;
      const std::size_t slabs = step.kernel_calls.size();
      ASSERT_EQ(slabs, 4u);
      const auto time = (*prober)->microseconds(step);
      ASSERT_TRUE(time.ok()) << time.status().to_string();
      EXPECT_EQ(*time, merges ? 2.0 : 8.0);
      const std::size_t calls = TimedDevice::kCalls * (merges ? slabs : 1u);
      EXPECT_EQ(product->runs, calls);
      EXPECT_EQ(product->weights.size(), calls);
      ++probed;
    }
    EXPECT_EQ(probed, 1u);
  }
}

}  // namespace
}  // namespace forebay::builder::test
