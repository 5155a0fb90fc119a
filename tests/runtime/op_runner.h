// Runs one operator on the host for tests: build the node, give the inputs, take the outputs.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/half.h"
#include "runtime/op.h"

namespace forebay {

template <typename T>
constexpr DType dtype_of_type() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::i8;
  if constexpr (std::is_same_v<T, std::int16_t>) return DType::i16;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return DType::u16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return DType::u32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return DType::u64;
  return DType::none;
}

template <typename T>
HostTensor tensor_as(DType dtype, std::initializer_list<std::int64_t> dims, const std::vector<T>& values) {
  HostTensor tensor(dtype, Shape(dims));
  EXPECT_EQ(tensor.bytes(), values.size() * sizeof(T));
  std::copy(values.begin(), values.end(), tensor.as<T>().begin());
  return tensor;
}
template <typename T>
HostTensor tensor(std::initializer_list<std::int64_t> dims, const std::vector<T>& values) {
  return tensor_as<T>(dtype_of_type<T>(), dims, values);
}
inline HostTensor bools(std::initializer_list<std::int64_t> dims, const std::vector<std::uint8_t>& values) {
  return tensor_as(DType::boolean, dims, values);
}
inline HostTensor halves(DType dtype, std::initializer_list<std::int64_t> dims, const std::vector<float>& values) {
  std::vector<std::uint16_t> bits;
  for (const float value : values) bits.push_back(dtype == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value));
  return tensor_as(dtype, dims, bits);
}
inline HostTensor ints(const std::vector<std::int64_t>& values) {
  return tensor<std::int64_t>({static_cast<std::int64_t>(values.size())}, values);
}

template <typename T>
std::vector<T> values_of(const HostTensor& tensor) {
  const auto span = tensor.as<T>();
  return {span.begin(), span.end()};
}
inline std::vector<float> half_values(const HostTensor& tensor) {
  std::vector<float> out;
  for (const std::uint16_t bits : tensor.as<std::uint16_t>())
    out.push_back(tensor.dtype() == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits));
  return out;
}
inline std::vector<std::int64_t> dims_of(const HostTensor& tensor) {
  return {tensor.shape().dims().begin(), tensor.shape().dims().end()};
}

class OpRunner {
 public:
  explicit OpRunner(std::string op, std::int32_t version = 18, int threads = 2) : op_(std::move(op)), version_(version), pool_(threads) {}
  OpRunner& domain(std::string domain) {
    domain_ = std::move(domain);
    return *this;
  }
  OpRunner& attr(std::string name, plan::AttributeValue value) {
    attributes_.push_back({std::move(name), std::move(value)});
    return *this;
  }
  OpRunner& attr(std::string name, const char* text) { return attr(std::move(name), plan::AttributeValue(std::string(text))); }
  OpRunner& attr(std::string name, std::int64_t value) { return attr(std::move(name), plan::AttributeValue(value)); }
  OpRunner& attr(std::string name, int value) { return attr(std::move(name), plan::AttributeValue(std::int64_t{value})); }
  OpRunner& attr(std::string name, float value) { return attr(std::move(name), plan::AttributeValue(value)); }
  OpRunner& attr_tensor(std::string name, const HostTensor& value) {
    plan::Constant constant;
    constant.dtype = value.dtype();
    constant.shape = value.shape();
    constant.data.assign(value.data(), value.data() + value.bytes());
    plan_.constants.push_back(std::move(constant));
    return attr(std::move(name), plan::AttributeValue(plan::TensorRef{static_cast<std::uint32_t>(plan_.constants.size() - 1)}));
  }
  OpRunner& in(HostTensor tensor) {
    inputs_.push_back(std::make_unique<HostTensor>(std::move(tensor)));
    return *this;
  }
  OpRunner& absent() {
    inputs_.push_back(nullptr);
    return *this;
  }
  OpRunner& outputs(std::size_t count) {
    outputs_ = count;
    return *this;
  }
  NodeView view() const { return NodeView("node", domain_, op_, version_, attributes_, plan_, inputs_.size(), outputs_); }

  Result<std::vector<HostTensor>> try_run() {
    std::vector<const HostTensor*> inputs;
    for (const auto& input : inputs_) inputs.push_back(input.get());
    return evaluate_node(view(), inputs, pool_);
  }
  std::vector<HostTensor> run_all() {
    auto result = try_run();
    if (!result.ok()) {
      ADD_FAILURE() << result.status().to_string();
      return std::vector<HostTensor>(outputs_);
    }
    return std::move(*result);
  }
  HostTensor run() { return std::move(run_all()[0]); }
  Code code() { return try_run().status().code(); }
  // What infer says when dims may be unknown and no value is.
  std::vector<std::int64_t> infer_dims(std::vector<TypeShape> types) {
    const OpSpec* spec = OpRegistry::builtin().find("", op_, version_);
    if (spec == nullptr) return {-99};
    std::vector<const HostTensor*> values(types.size(), nullptr);
    std::vector<TypeShape> out(outputs_);
    const NodeView node("node", "", op_, version_, attributes_, plan_, types.size(), outputs_);
    InferContext context(node, types, values, out);
    const Status status = spec->infer(context);
    EXPECT_TRUE(status.ok()) << status.to_string();
    if (!out[0].has_rank) return {-98};
    return out[0].dims;
  }

 private:
  std::string op_, domain_;
  std::int32_t version_;
  ThreadPool pool_;
  plan::Plan plan_;
  std::vector<plan::Attribute> attributes_;
  std::vector<std::unique_ptr<HostTensor>> inputs_;
  std::size_t outputs_ = 1;
};

}  // namespace forebay
