// Discrete Fourier transforms of any length in double: radix 2 where the length is a power of two, the direct sum otherwise.
#pragma once

#include <cstdint>
#include <vector>

namespace forebay::ops {

class Fourier {
 public:
  void prepare(std::int64_t length);
  std::int64_t length() const { return length_; }
  // Doubles of scratch for one transform.
  std::int64_t scratch() const { return 2 * length_; }
  // In place on interleaved complex values; the inverse is not divided by the length.
  void run(double* values, bool inverse, double* scratch) const;

 private:
  std::int64_t length_ = 0;
  bool power_ = false;
  std::vector<double> cos_, sin_;
};

}  // namespace forebay::ops
