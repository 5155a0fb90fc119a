#include "synth/weight_law.h"

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/half.h"

namespace forebay::tools {
namespace {

constexpr double kRowSpread = 0.30, kColumnSpread = 0.15, kScale = 0.02, kGainSpread = 0.3;
constexpr std::uint64_t kOutlierOneIn = 500;   // 0.2 % of the inputs
constexpr float kOutlierFactor = 6;
constexpr std::uint64_t kOutlierLayerOneIn = 4;
constexpr std::uint64_t kUnusedOneIn = 200;    // 0.5 % of the embedding rows
constexpr std::uint64_t kRowSalt = 0x726f77, kColumnSalt = 0x636f6c, kUnusedSalt = 0x756e75, kOutlierSalt = 0x6f7574;

// P(T <= t) for 8 degrees of freedom is a polynomial of s = t / sqrt(8 + t^2).
double student_cdf(double s) {
  const double c = 1.0 - s * s;
  return 0.5 + 0.5 * s * (1.0 + c * (0.5 + c * (0.375 + c * 0.3125)));
}

double student_quantile(double p) {  // p < 1/2
  double low = -1.0, high = 0.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    (student_cdf(middle) < p ? low : high) = middle;
  }
  const double s = 0.5 * (low + high);
  return s * std::sqrt(8.0 / (1.0 - s * s));
}

}  // namespace

std::uint64_t mix64(std::uint64_t value) {  // the finaliser of SplitMix64
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

std::uint64_t tensor_seed(std::uint64_t model_seed, std::string_view name) {
  std::uint64_t hash = mix64(model_seed);
  for (const char c : name) hash = mix64(hash ^ static_cast<unsigned char>(c));
  return hash;
}

double exponential(double x) {
  const double small = x / 64.0;
  double sum = 1.0;
  for (int i = 14; i >= 1; --i) sum = 1.0 + small / i * sum;
  for (int i = 0; i < 6; ++i) sum = sum * sum;
  return sum;
}

double normal_draw(std::uint64_t seed) {
  double sum = 0;
  for (std::uint64_t i = 0; i < 12; ++i) sum += static_cast<double>(mix64(seed * 12 + i) >> 11) * 0x1p-53;
  return sum - 6.0;
}

StudentTable::StudentTable() : body_(65536), lower_(kTail * kFine) {
  for (std::uint32_t i = 0; i < 32768; ++i) {
    const float value = static_cast<float>(student_quantile((i + 0.5) / 65536.0));
    body_[i] = value;
    body_[65535 - i] = -value;
  }
  for (std::uint32_t i = 0; i < kTail * kFine; ++i) lower_[i] = static_cast<float>(student_quantile((i + 0.5) / (65536.0 * kFine)));
}

float StudentTable::tail(std::uint32_t index, std::uint64_t hash) const {
  const std::uint32_t fine = static_cast<std::uint32_t>(mix64(hash ^ index) & (kFine - 1));
  if (index < kTail) return lower_[index * kFine + fine];
  return -lower_[(65535 - index) * kFine + fine];
}

WeightMaker::WeightMaker(const StudentTable& table, const DecoderShape& shape, const DecoderTensor& tensor, std::uint64_t model_seed)
    : table_(table), shape_(shape), tensor_(tensor), seed_(tensor_seed(model_seed, tensor.name)) {
  if (tensor.role == TensorRole::norm_gain || tensor.role == TensorRole::rope) return;
  FB_CHECK(tensor.columns % 4 == 0);
  const auto scales = [&](std::int64_t count, double spread, std::uint64_t salt) {
    std::vector<float> out(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(exponential(spread * normal_draw(mix64(seed_ ^ salt) + i)));
    return out;
  };
  // Outputs spread by 0.30, inputs by 0.15; stored [K,N] the axes are swapped.
  row_scale_ = scales(tensor.rows, tensor.input_major ? kColumnSpread : kRowSpread, kRowSalt);
  column_scale_ = scales(tensor.columns, tensor.input_major ? kRowSpread : kColumnSpread, kColumnSalt);
  double scale = kScale;
  if (tensor.role == TensorRole::residual_projection) scale /= std::sqrt(2.0 * static_cast<double>(shape.layers));
  const std::uint64_t layer_seed = mix64(mix64(model_seed ^ kOutlierSalt) + static_cast<std::uint64_t>(tensor.layer));
  if (tensor.layer >= 0 && layer_seed % kOutlierLayerOneIn == 0) {
    std::vector<float>& inputs = tensor.input_major ? row_scale_ : column_scale_;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (mix64(layer_seed + i) % kOutlierOneIn == 0) inputs[i] *= kOutlierFactor;
    }
  }
  for (float& row : row_scale_) row = static_cast<float>(scale * static_cast<double>(row));
  if (tensor.role != TensorRole::embedding) return;
  source_row_.resize(row_scale_.size());
  for (std::size_t i = 0; i < row_scale_.size(); ++i) {
    source_row_[i] = static_cast<std::int64_t>(i);
    const std::uint64_t draw = mix64(mix64(seed_ ^ kUnusedSalt) + i);
    if (draw % kUnusedOneIn != 0) continue;
    if ((draw >> 32) % 2 == 0) {  // an unused token that equals the others
      source_row_[i] = 0;
      row_scale_[i] = row_scale_[0];
    } else {  // one that is near zero
      row_scale_[i] *= 1.0f / 1024;
    }
  }
}

template <typename Store>
void WeightMaker::fill(std::int64_t first, std::int64_t count, Store store) const {
  const std::size_t columns = static_cast<std::size_t>(tensor_.columns);
  std::size_t at = 0;
  for (std::int64_t row = first; row < first + count; ++row) {
    const std::size_t r = static_cast<std::size_t>(row);
    const std::uint64_t source = source_row_.empty() ? r : static_cast<std::uint64_t>(source_row_[r]);
    const float scale = row_scale_[r];
    std::uint64_t position = seed_ + source * (columns / 4);
    for (std::size_t j = 0; j < columns; j += 4) {
      const std::uint64_t hash = mix64(position++);
      for (std::uint32_t k = 0; k < 4; ++k) {
        const float value = table_.draw(static_cast<std::uint32_t>(hash >> (16 * k)) & 0xffffu, hash);
        store(at++, value * column_scale_[j + k] * scale);
      }
    }
  }
}

void WeightMaker::vector(std::span<std::byte> out) const {
  for (std::int64_t i = 0; i < tensor_.columns; ++i) {
    float value = 0;
    if (tensor_.role == TensorRole::rope) {  // 500000^(-2i / head), with ln 500000 as a constant
      constexpr double kLogBase = 13.122363377404328;
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(shape_.head_dim) * kLogBase;
      const double half = exponential(exponent / 2);
      value = static_cast<float>(half * half);
    } else {
      value = static_cast<float>(1.0 + kGainSpread * normal_draw(seed_ + static_cast<std::uint64_t>(i)));
    }
    const std::size_t at = static_cast<std::size_t>(i);
    if (tensor_.dtype == DType::f32) {
      std::memcpy(out.data() + at * 4, &value, 4);
    } else {
      const std::uint16_t bits = tensor_.dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
      std::memcpy(out.data() + at * 2, &bits, 2);
    }
  }
}

void WeightMaker::rows(std::int64_t first, std::int64_t count, std::span<std::byte> out) const {
  if (tensor_.role == TensorRole::norm_gain || tensor_.role == TensorRole::rope) return vector(out);
  if (tensor_.dtype == DType::f32) {
    float* to = reinterpret_cast<float*>(out.data());
    fill(first, count, [to](std::size_t i, float value) { to[i] = value; });
  } else if (tensor_.dtype == DType::bf16) {
    std::uint16_t* to = reinterpret_cast<std::uint16_t*>(out.data());
    fill(first, count, [to](std::size_t i, float value) {  // finite: no test for NaN
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
      to[i] = static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    });
  } else {
    std::uint16_t* to = reinterpret_cast<std::uint16_t*>(out.data());
    fill(first, count, [to](std::size_t i, float value) { to[i] = f32_to_f16(value); });
  }
}

}  // namespace forebay::tools
