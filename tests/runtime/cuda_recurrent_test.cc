// LSTM, GRU, RNN and mixtures of experts on the CUDA device, beside the CPU's kernels.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

using Attributes = std::vector<plan::Attribute>;

plan::AttributeValue text(const char* value) {
  return plan::AttributeValue(std::string(value));
}
plan::AttributeValue number_of(std::int64_t value) {
  return plan::AttributeValue(value);
}

class CudaRecurrent : public CudaKernels {
 protected:
  // Everything that a node may have; `plain` leaves out what is optional.
  void compare_cell(const std::string& op, DType type, std::int64_t batch, std::int64_t layout, const char* direction, bool plain,
                    Attributes attributes, const std::string& what) {
    const std::int64_t steps = 6, inputs = 20, hidden = 37, gates = op == "LSTM" ? 4 : op == "GRU" ? 3 : 1;
    const std::int64_t d = std::string_view(direction) == "bidirectional" ? 2 : 1;
    const HostTensor x = random_tensor(random_, type, layout != 0 ? Shape{batch, steps, inputs} : Shape{steps, batch, inputs});
    const HostTensor w = random_tensor(random_, type, Shape{d, gates * hidden, inputs}),
                     bias = random_tensor(random_, type, Shape{d, 2 * gates * hidden}),
                     peepholes = random_tensor(random_, type, Shape{d, 3 * hidden});
    HostTensor r = random_tensor(random_, type, Shape{d, gates * hidden, hidden});
    const Shape state = layout != 0 ? Shape{batch, d, hidden} : Shape{d, batch, hidden};
    const HostTensor h = random_tensor(random_, type, state), c = random_tensor(random_, type, state);
    HostTensor lengths(DType::i32, Shape{batch});
    for (std::int64_t b = 0; b < batch; ++b)
      lengths.as<std::int32_t>()[static_cast<std::size_t>(b)] = static_cast<std::int32_t>((b * 5 + 4) % (steps + 1));
    attributes.push_back({"hidden_size", number_of(hidden)});
    attributes.push_back({"layout", number_of(layout)});
    attributes.push_back({"direction", text(direction)});
    NodeRun run{"", op, 14, attributes, {&x, &w, &r}, op == "LSTM" ? 3u : 2u, plan::kNone, {}};
    if (!plain) {
      run.inputs.insert(run.inputs.end(), {&bias, &lengths, &h});
      if (op == "LSTM") run.inputs.insert(run.inputs.end(), {&c, &peepholes});
    }
    compare(run, 20 * tolerance_of(type), op + " " + std::string(dtype_name(type)) + " " + direction + " " + what);
  }
};

TEST_F(CudaRecurrent, CellsAreClose) {
  for (const char* op : {"LSTM", "GRU", "RNN"}) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const char* direction : {"forward", "reverse", "bidirectional"}) {
        for (const std::int64_t batch : {1, 5, 19}) {
          compare_cell(op, type, batch, 0, direction, true, {}, "plain");
          compare_cell(op, type, batch, 1, direction, false, {}, "whole");
        }
      }
    }
    compare_cell(op, DType::f32, 3, 0, "reverse", false, {{"clip", plan::AttributeValue(0.3f)}}, "clipped");
  }
  compare_cell("GRU", DType::f32, 4, 0, "bidirectional", false, {{"linear_before_reset", number_of(1)}}, "linear before reset");
  compare_cell("GRU", DType::f16, 1, 0, "forward", true, {{"linear_before_reset", number_of(1)}}, "linear before reset");
  compare_cell("LSTM", DType::f32, 4, 0, "forward", false, {{"input_forget", number_of(1)}}, "input and forget");
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.recurrent"}));
}

TEST_F(CudaRecurrent, EveryActivationIsClose) {
  for (const char* name : {"Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"}) {
    const Attributes attributes = {{"activations", plan::AttributeValue(std::vector<std::string>{name})},
                                   {"activation_alpha", plan::AttributeValue(std::vector<float>{0.4f})},
                                   {"activation_beta", plan::AttributeValue(std::vector<float>{0.3f})}};
    compare_cell("RNN", DType::f32, 3, 0, "forward", true, attributes, name);
  }
}

// A length that no step has makes its own row not-a-numbers; the CPU refuses the pass.
TEST_F(CudaRecurrent, ALengthThatCannotBeSpoilsItsRowAlone) {
  const HostTensor x = random_tensor(random_, DType::f32, Shape{4, 2, 8}), w = random_tensor(random_, DType::f32, Shape{1, 5, 8}),
                   r = random_tensor(random_, DType::f32, Shape{1, 5, 5});
  HostTensor lengths(DType::i32, Shape{2});
  lengths.as<std::int32_t>()[0] = 9;
  lengths.as<std::int32_t>()[1] = 3;
  const auto made = on_device({"", "RNN", 14, {{"hidden_size", number_of(5)}}, {&x, &w, &r, nullptr, &lengths}, 2, plan::kNone, {}});
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  for (std::int64_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(std::isnan(number((*made)[1], i)));
    EXPECT_FALSE(std::isnan(number((*made)[1], 5 + i)));
  }
}

// Routes of equal scores, rows of every expert and of none; matrices whole and in slabs of experts.
TEST_F(CudaRecurrent, ExpertsAreClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t rows : {1, 3, 200}) {
      const std::int64_t experts = 7, k = 3, in = rows == 3 ? 50 : 72, out = 50;
      HostTensor scores = random_tensor(random_, type, Shape{rows, experts});
      const HostTensor given = random_tensor(random_, type, Shape{rows, experts});
      for (const std::int64_t normalize : {0, 1}) {
        const Attributes attributes = {{"k", number_of(k)}, {"normalize", number_of(normalize)}};
        compare({"forebay", "ExpertRoute", 1, attributes, {&scores}, 2, plan::kNone, {}}, 4 * tolerance_of(DType::f32), "route");
      }
      compare({"forebay", "ExpertRoute", 1, {{"k", number_of(k)}}, {&scores, &given}, 2, plan::kNone, {}}, 4 * tolerance_of(DType::f32),
              "given");
      const HostTensor x = random_tensor(random_, type, Shape{rows, in}), pairs = random_tensor(random_, type, Shape{rows, k, in}),
                       w = random_tensor(random_, type, Shape{experts, out, in}), bias = random_tensor(random_, type, Shape{experts, out});
      HostTensor indices(DType::i32, Shape{rows, k});
      for (auto& index : indices.as<std::int32_t>()) index = static_cast<std::int32_t>(random_() % 9) - 1;
      for (const HostTensor* from : {&x, &pairs}) {
        NodeRun run{"forebay", "ExpertLinear", 1, {}, {from, &w, &indices, &bias}, 1, plan::kNone, {}};
        compare(run, 20 * tolerance_of(type), "product");
        run.sliced = 1;
        run.slab_rows = {3, 3, 1};
        compare(run, 20 * tolerance_of(type), "product in slabs");
      }
      for (const std::int64_t form : {0, 1, 2}) {
        const Attributes attributes = {{"form", number_of(form)},
                                       {"alpha", plan::AttributeValue(1.7f)},
                                       {"beta", plan::AttributeValue(1.0f)},
                                       {"limit", plan::AttributeValue(0.8f)}};
        NodeRun run{"forebay", "SwiGlu", 1, attributes, {&pairs}, 1, plan::kNone, {}};
        if (form == 0) run.inputs.push_back(&pairs);
        compare(run, 4 * tolerance_of(type), "gate");
      }
      const HostTensor made = random_tensor(random_, type, Shape{rows, k, out}),
                       weights = random_tensor(random_, DType::f32, Shape{rows, k}), like = random_tensor(random_, type, Shape{rows, out});
      compare({"forebay", "ExpertCombine", 1, {}, {&made, &weights, &like}, 1, plan::kNone, {}}, 4 * tolerance_of(type), "sum");
    }
  }
  EXPECT_EQ(ids_,
            (std::set<std::string>{"cuda.expert_route", "cuda.expert_linear", "cuda.expert_mma", "cuda.swiglu", "cuda.expert_combine"}));
}

// Codes of every width, a scale a row or a block, zero points or none.
void shrink(HostTensor& t, float by) {
  for (std::int64_t i = 0; i < t.shape().elements(); ++i) {
    const float v = static_cast<float>(number(t, i)) * by;
    const auto at = static_cast<std::size_t>(i);
    if (t.dtype() == DType::f32) {
      t.as<float>()[at] = v;
    } else {
      t.as<std::uint16_t>()[at] = t.dtype() == DType::f16 ? f32_to_f16(v) : f32_to_bf16(v);
    }
  }
}

TEST_F(CudaRecurrent, PackedExpertsAreClose) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t bits : {2, 4, 8}) {
      for (const std::int64_t block : {0, 16}) {
        for (const bool shifted : {false, true}) {
          const std::int64_t rows = shifted ? 13 : 90, experts = 5, k = 2, in = 96, out = 134;
          const auto codes = [&](const Shape& shape) {
            HostTensor t(DType::u8, shape);
            for (std::size_t i = 0; i < t.bytes(); ++i) t.data()[i] = static_cast<std::byte>(random_());
            return t;
          };
          HostTensor scale = random_tensor(random_, type, block == 0 ? Shape{experts, out} : Shape{experts, out, in / block});
          shrink(scale, std::ldexp(1.0f, static_cast<int>(2 - bits)));  // weights of one size, however wide their codes
          const HostTensor x = random_tensor(random_, type, Shape{rows, in}), w = codes(Shape{experts, out, in * bits / 8}),
                           zero =
                               codes(block == 0 ? Shape{experts, (out * bits + 7) / 8} : Shape{experts, out, (in / block * bits + 7) / 8}),
                           bias = random_tensor(random_, type, Shape{experts, out});
          HostTensor indices(DType::i32, Shape{rows, k});
          for (auto& index : indices.as<std::int32_t>()) index = static_cast<std::int32_t>(random_() % experts);
          NodeRun run{"forebay",
                      "ExpertQuantLinear",
                      1,
                      {{"bits", number_of(bits)}, {"block_size", number_of(block)}},
                      {&x, &w, &scale, shifted ? &zero : nullptr, &indices, &bias},
                      1,
                      plan::kNone,
                      {}};
          const std::string what = std::string(dtype_name(type)) + " bits " + std::to_string(bits) + " block " + std::to_string(block);
          compare(run, 20 * tolerance_of(type), what);
          run.sliced = 1;
          run.slab_rows = {2, 2, 1};
          compare(run, 20 * tolerance_of(type), what + " in slabs");
        }
      }
    }
  }
  EXPECT_EQ(ids_, (std::set<std::string>{"cuda.expert_packed", "cuda.expert_packed_mma"}));
}

}  // namespace
}  // namespace forebay::testing
