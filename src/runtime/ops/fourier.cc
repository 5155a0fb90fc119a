#include "runtime/ops/fourier.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace forebay::ops {

void Fourier::prepare(std::int64_t length) {
  length_ = length;
  power_ = length > 0 && (length & (length - 1)) == 0;
  cos_.resize(static_cast<std::size_t>(length));
  sin_.resize(static_cast<std::size_t>(length));
  for (std::int64_t i = 0; i < length; ++i) {
    const double angle = 2.0 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(length);
    cos_[static_cast<std::size_t>(i)] = std::cos(angle);
    sin_[static_cast<std::size_t>(i)] = std::sin(angle);
  }
}

void Fourier::run(double* values, bool inverse, double* scratch) const {
  const double sign = inverse ? 1.0 : -1.0;
  if (!power_) {
    for (std::int64_t k = 0; k < length_; ++k) {
      double real = 0, imaginary = 0;
      for (std::int64_t n = 0, at = 0; n < length_; ++n, at = (at + k) % length_) {
        const double c = cos_[static_cast<std::size_t>(at)], s = sign * sin_[static_cast<std::size_t>(at)];
        real += values[2 * n] * c - values[2 * n + 1] * s;
        imaginary += values[2 * n] * s + values[2 * n + 1] * c;
      }
      scratch[2 * k] = real;
      scratch[2 * k + 1] = imaginary;
    }
    std::copy(scratch, scratch + 2 * length_, values);
    return;
  }
  for (std::int64_t i = 1, j = 0; i < length_; ++i) {  // bit reversal
    std::int64_t bit = length_ >> 1;
    for (; (j & bit) != 0; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      std::swap(values[2 * i], values[2 * j]);
      std::swap(values[2 * i + 1], values[2 * j + 1]);
    }
  }
  for (std::int64_t size = 2; size <= length_; size *= 2) {
    const std::int64_t half = size / 2, step = length_ / size;
    for (std::int64_t base = 0; base < length_; base += size) {
      for (std::int64_t k = 0; k < half; ++k) {
        const double c = cos_[static_cast<std::size_t>(k * step)], s = sign * sin_[static_cast<std::size_t>(k * step)];
        double *a = values + 2 * (base + k), *b = values + 2 * (base + k + half);
        const double real = b[0] * c - b[1] * s, imaginary = b[0] * s + b[1] * c;
        b[0] = a[0] - real;
        b[1] = a[1] - imaginary;
        a[0] += real;
        a[1] += imaginary;
      }
    }
  }
}

}  // namespace forebay::ops
