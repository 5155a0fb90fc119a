// Whole passes of a model and comparisons of their outputs, for the tests that use real or exported models.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/half.h"
#include "forebay/forebay.h"

namespace forebay::test {

struct Tolerance {
  double rtol = 1e-3, atol = 1e-5;
  double of_scale = 0;  // when set: a share of the output's largest magnitude
};

struct Named {
  std::string name;
  HostTensor tensor;
};

inline double value_at(const HostTensor& t, std::int64_t i) {
  const auto k = static_cast<std::size_t>(i);
  switch (t.dtype()) {
    case DType::f32: return static_cast<double>(t.as<float>()[k]);
    case DType::f64: return t.as<double>()[k];
    case DType::f16: return static_cast<double>(f16_to_f32(t.as<std::uint16_t>()[k]));
    case DType::bf16: return static_cast<double>(bf16_to_f32(t.as<std::uint16_t>()[k]));
    case DType::i64: return static_cast<double>(t.as<std::int64_t>()[k]);
    case DType::i8: return static_cast<double>(t.as<std::int8_t>()[k]);
    case DType::u8:
    case DType::boolean: return static_cast<double>(t.as<std::uint8_t>()[k]);
    case DType::i32: return static_cast<double>(t.as<std::int32_t>()[k]);
    default: ADD_FAILURE() << "an output of type " << dtype_name(t.dtype()); return 0;
  }
}

inline void expect_close(const HostTensor& got, const HostTensor& want, const Tolerance& tolerance, const std::string& name) {
  ASSERT_EQ(got.shape().to_string(), want.shape().to_string()) << name;
  double scale = 0, worst = 0;
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
    const double magnitude = std::abs(value_at(want, i));
    if (std::isfinite(magnitude)) scale = std::max(scale, magnitude);
  }
  for (std::int64_t i = 0; i < want.shape().elements(); ++i) {
    const double a = value_at(got, i), b = value_at(want, i);
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;  // infinities too
    const double limit = tolerance.of_scale > 0 ? tolerance.of_scale * scale : tolerance.atol + tolerance.rtol * std::abs(b);
    const double difference = std::abs(a - b);
    worst = std::max(worst, difference);
    if (!(difference <= limit)) ++wrong;
  }
  EXPECT_EQ(wrong, 0) << name << ": worst difference " << worst << ", largest value " << scale;
}

// Type of the input as the plan has it: references of bf16 graphs are fp32.
inline HostTensor as_type(const HostTensor& t, DType dtype) {
  if (t.dtype() == dtype) return t.clone();
  EXPECT_EQ(dtype, DType::bf16);
  HostTensor out(dtype, t.shape());
  for (std::size_t i = 0; i < out.as<std::uint16_t>().size(); ++i) out.as<std::uint16_t>()[i] = f32_to_bf16(t.as<float>()[i]);
  return out;
}

struct Pass {
  std::vector<HostTensor> outputs;
  std::uint64_t streamed = 0;
};

inline Result<Pass> run_passes(Engine& engine, const std::vector<Named>& inputs, const std::vector<TensorInfo>& infos, int passes) {
  auto context = engine.create_context();
  if (!context.ok()) return std::move(context).status();
  for (const TensorInfo& info : infos) {
    for (const Named& input : inputs) {
      if (input.name != info.name) continue;
      const HostTensor typed = as_type(input.tensor, info.dtype);
      Status status = context->set_input(info.name, typed);
      if (!status.ok()) return status;
    }
  }
  Pass pass;
  for (int i = 0; i < passes; ++i) {
    Status status = context->execute();
    if (!status.ok()) return status;
    pass.streamed = context->profile().disk_bytes + context->profile().link_bytes;
  }
  for (const TensorInfo& output : engine.plan().outputs()) {
    auto tensor = context->output(output.name);
    if (!tensor.ok()) return std::move(tensor).status();
    pass.outputs.push_back(std::move(*tensor));
  }
  return pass;
}

inline bool same_bits(const std::vector<HostTensor>& a, const std::vector<HostTensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].dtype() != b[i].dtype() || !(a[i].shape() == b[i].shape()) || std::memcmp(a[i].data(), b[i].data(), a[i].bytes()) != 0) return false;
  }
  return true;
}

}  // namespace forebay::test
