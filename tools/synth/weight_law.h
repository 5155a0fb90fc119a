// The law of synthetic weights: w = 0.02 * t(8) * exp(N(0, 0.30)) per output * exp(N(0, 0.15)) per input, with outlier inputs in some layers.
// Tables come from IEEE additions, multiplications, divisions and square roots in a fixed order; elements from an integer hash, one table
// load and two multiplications: the same bytes on every machine. Any element can be made again from (seed, name, index).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "synth/decoder_shape.h"

namespace forebay::tools {

std::uint64_t mix64(std::uint64_t value);
std::uint64_t tensor_seed(std::uint64_t model_seed, std::string_view name);
double exponential(double x);                 // |x| <= 8, our own series
double normal_draw(std::uint64_t seed);       // sum of twelve uniforms, less six

// Quantiles of Student's t with 8 degrees of freedom.
class StudentTable {
 public:
  StudentTable();
  // `index`: 16 random bits; `hash` gives more bits in the tails.
  float draw(std::uint32_t index, std::uint64_t hash) const {
    if (((index + kTail) & 0xffffu) < 2 * kTail) [[unlikely]] return tail(index, hash);
    return body_[index];
  }

 private:
  static constexpr std::uint32_t kTail = 64, kFine = 256;  // each of the outermost 64 steps on either side is cut in 256
  float tail(std::uint32_t index, std::uint64_t hash) const;
  std::vector<float> body_, lower_;
};

// One tensor's scales; rows() writes elements.
class WeightMaker {
 public:
  WeightMaker(const StudentTable& table, const DecoderShape& shape, const DecoderTensor& tensor, std::uint64_t model_seed);
  // Rows [first, first + count) in the tensor's dtype. Thread-safe.
  void rows(std::int64_t first, std::int64_t count, std::span<std::byte> out) const;

 private:
  template <typename Store>
  void fill(std::int64_t first, std::int64_t count, Store store) const;
  void vector(std::span<std::byte> out) const;
  const StudentTable& table_;
  DecoderShape shape_;
  DecoderTensor tensor_;
  std::uint64_t seed_ = 0;
  std::vector<float> row_scale_, column_scale_;
  std::vector<std::int64_t> source_row_;  // embedding: rows of unused tokens repeat one row; empty otherwise
};

}  // namespace forebay::tools
