// Seeded values for tests: the same on every machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "base/half.h"
#include "forebay/types.h"

namespace forebay::test {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : next() % bound; }
  bool chance(unsigned one_in) { return below(one_in) == 0; }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(next() >> 40) * 0x1p-24f; }
  void fill(std::span<std::byte> out) {
    for (std::byte& byte : out) byte = static_cast<std::byte>(next() >> 56);
  }

 private:
  std::uint64_t state_;
};

// Floats in [-1, 1), bools 0 or 1, integers small; other types random bytes.
inline HostTensor random_tensor(DType dtype, const Shape& shape, std::uint64_t seed) {
  HostTensor tensor(dtype, shape);
  Random random(seed);
  switch (dtype) {
    case DType::f32:
      for (float& value : tensor.as<float>()) value = random.uniform(-1, 1);
      break;
    case DType::f64:
      for (double& value : tensor.as<double>()) value = static_cast<double>(random.uniform(-1, 1));
      break;
    case DType::f16:
      for (std::uint16_t& value : tensor.as<std::uint16_t>()) value = f32_to_f16(random.uniform(-1, 1));
      break;
    case DType::bf16:
      for (std::uint16_t& value : tensor.as<std::uint16_t>()) value = f32_to_bf16(random.uniform(-1, 1));
      break;
    case DType::boolean:
      for (std::uint8_t& value : tensor.as<std::uint8_t>()) value = static_cast<std::uint8_t>(random.below(2));
      break;
    case DType::i32:
      for (std::int32_t& value : tensor.as<std::int32_t>()) value = static_cast<std::int32_t>(random.below(200)) - 100;
      break;
    case DType::i64:
      for (std::int64_t& value : tensor.as<std::int64_t>()) value = static_cast<std::int64_t>(random.below(200)) - 100;
      break;
    default: random.fill({tensor.data(), static_cast<std::size_t>(tensor.bytes())});
  }
  return tensor;
}

}  // namespace forebay::test
