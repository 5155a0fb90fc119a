// Where a loop's values lie: what its iterations collect shares no memory with what they compute, also on a device that replays launches,
// where small values stay longer.
#include <gtest/gtest.h>

#include "base/check.h"
#include "builder/model_maker.h"
#include "builder/wrapped_device.h"
#include "runtime/prepared_pass.h"
#include "runtime/stretch.h"

namespace forebay::builder::test {
namespace {

// The CPU's device, said to replay.
class Replaying final : public WrappedDevice, public ReplayDevice {
 public:
  std::unique_ptr<Recording> record(Queue::HostFunction, void*, std::unique_ptr<Recording>) override { return nullptr; }
  Status replay(Recording&) override { return Status(Code::internal, "nothing is recorded"); }
};

TEST(LoopPlaces, WhatIterationsCollectIsNotWrittenOver) {
  GraphMaker body;
  body.input("i", DType::i64, {}).input("go", DType::boolean, {}).input("acc", DType::f32, {"4"});
  std::string value = "acc";
  for (int step = 0; step < 24; ++step) {  // more than small values stay
    const std::string next = "v" + std::to_string(step);
    body.node("Neg", {value}, {next});
    value = next;
  }
  body.node("Abs", {value}, {"next"}).node("Sin", {"next"}, {"slice"});
  body.output("go").output("next").output("slice");
  GraphMaker graph;
  graph.input("x", DType::f32, {"4"}).constant("trips", integers({3}, true));
  graph.node("Loop", {"trips", "", "x"}, {"last", "all"}).named("loop").with_body("body", body);
  graph.node("Abs", {"all"}, {"y"}).node("Abs", {"last"}, {"z"}).output("y", DType::f32).output("z", DType::f32);
  const auto built = build_model(graph.model());
  ASSERT_TRUE(built.ok()) << built.status().to_string();

  Replaying replaying;
  const auto cpu = create_cpu_device();
  ThreadPool pool(1);
  for (Device* const device : {cpu->get(), static_cast<Device*>(&replaying)}) {
    const auto pass =
        prepare_pass(compile_plan(std::make_shared<const plan::Plan>(built->plan)).value(), {{"x", Shape{4}}}, pool, {}, device);
    ASSERT_TRUE(pass.ok()) << pass.status().to_string();
    const auto place_of = [&](plan::ValueId id) { return (*pass)->places[(*pass)->places[id].root]; };
    std::vector<plan::ValueId> kept;  // the loop's outputs: read behind it, written in it
    for (const plan::Node& node : built->plan.graphs[0].nodes) {
      if (node.op == "Loop") kept = node.outputs;
    }
    ASSERT_EQ(kept.size(), 2u);
    const ValuePlace all = place_of(kept[1]);
    ASSERT_EQ(all.shape.elements(), 12);
    std::size_t seen = 0;
    for (const plan::Node& node : built->plan.graphs[1].nodes) {
      const ValuePlace inner = place_of(node.outputs[0]);
      if (!inner.stored || inner.home != ValuePlace::Home::activations) continue;
      ++seen;
      EXPECT_TRUE(inner.offset + 16 <= all.offset || all.offset + 48 <= inner.offset)
          << node.name << " at " << inner.offset << ", what is collected at " << all.offset;
    }
    EXPECT_GE(seen, 24u);
  }
}

}  // namespace
}  // namespace forebay::builder::test
