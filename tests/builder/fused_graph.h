// Small graphs in both forms for the tests of fusions: as one node where the pass fires, and as
// written, evaluated node by node.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "base/half.h"
#include "builder/model_maker.h"
#include "runtime/op.h"

namespace forebay::builder::test {

using Feeds = std::map<std::string, HostTensor>;

// The outputs of the built plan for these inputs; weights come through their recipes, as in a
// refit.
inline std::vector<HostTensor> run_plan(const Output& built, const Feeds& feeds) {
  const plan::Plan& plan = built.plan;
  ThreadPool pool(2);
  std::map<plan::ValueId, HostTensor> values;
  for (const plan::ValueId id : plan.graphs[0].inputs)
    values[id] = feeds.at(plan.values[id].name).clone();
  for (const plan::Weight& weight : plan.weights) {
    auto made = run_recipe(built, weight);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    values[weight.value] = std::move(made).value();
  }
  for (const plan::Constant& constant : plan.constants) {
    HostTensor tensor(constant.dtype, constant.shape);
    std::copy(constant.data.begin(), constant.data.end(), tensor.data());
    if (constant.value != plan::kNone) values[constant.value] = std::move(tensor);
  }
  for (const plan::Node& node : plan.graphs[0].nodes) {
    std::vector<const HostTensor*> inputs;
    for (const plan::ValueId id : node.inputs)
      inputs.push_back(id == plan::kNone ? nullptr : &values[id]);
    auto made = evaluate_node(NodeView(node, plan), inputs, pool);
    EXPECT_TRUE(made.ok()) << node.op << ": " << made.status().to_string();
    if (!made.ok()) return {};
    for (std::size_t i = 0; i < node.outputs.size(); ++i)
      if (node.outputs[i] != plan::kNone) values[node.outputs[i]] = std::move((*made)[i]);
  }
  std::vector<HostTensor> outputs;
  for (const plan::ValueId id : plan.graphs[0].outputs) outputs.push_back(values[id].clone());
  return outputs;
}

inline double element(const HostTensor& tensor, std::size_t i) {
  if (tensor.dtype() == DType::f16)
    return static_cast<double>(f16_to_f32(tensor.as<std::uint16_t>()[i]));
  return static_cast<double>(tensor.as<float>()[i]);
}

inline HostTensor halves(const HostTensor& from) {
  HostTensor out(DType::f16, from.shape());
  for (std::size_t i = 0; i < from.as<float>().size(); ++i)
    out.as<std::uint16_t>()[i] = f32_to_f16(from.as<float>()[i]);
  return out;
}

// Builds both forms; their outputs must agree (not-a-number where the other is). Gives the
// operators of the fused plan.
inline std::vector<std::string> fused_ops(const GraphMaker& graph, const Feeds& feeds,
                                          double tolerance = 1e-5, std::int64_t opset = 17) {
  Options plain;
  plain.fuse = false;
  const auto built = build_model(graph.model(opset)),
             unfused = build_model(graph.model(opset), plain);
  EXPECT_TRUE(built.ok()) << built.status().to_string();
  EXPECT_TRUE(unfused.ok()) << unfused.status().to_string();
  if (!built.ok() || !unfused.ok()) return {};
  const std::vector<HostTensor> got = run_plan(*built, feeds), want = run_plan(*unfused, feeds);
  EXPECT_EQ(got.size(), want.size());
  for (std::size_t o = 0; o < std::min(got.size(), want.size()); ++o) {
    EXPECT_EQ(got[o].dtype(), want[o].dtype());
    EXPECT_EQ(got[o].shape().to_string(), want[o].shape().to_string());
    const auto count = static_cast<std::size_t>(want[o].shape().elements());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double a = element(got[o], i), b = element(want[o], i);
      if (std::isnan(a) != std::isnan(b) || std::abs(a - b) > tolerance * (1 + std::abs(b)))
        ++wrong;
    }
    EXPECT_EQ(wrong, 0u) << "of " << count << " elements of output " << o;
  }
  return ops_of(built->plan.graphs[0]);
}

inline std::vector<std::string> plain_ops(const GraphMaker& graph, std::int64_t opset = 17) {
  Options plain;
  plain.fuse = false;
  const auto built = build_model(graph.model(opset), plain);
  EXPECT_TRUE(built.ok()) << built.status().to_string();
  return built.ok() ? ops_of(built->plan.graphs[0]) : std::vector<std::string>();
}

}  // namespace forebay::builder::test
