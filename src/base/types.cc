#include "forebay/types.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/checked.h"

namespace forebay {
namespace {

struct DTypeFacts {
  std::string_view name;
  int bits;
  char kind;  // f float, i integer, b boolean, - none
};
constexpr DTypeFacts kFacts[kDTypeCount] = {
    {"none", 0, '-'},      {"f32", 32, 'f'},        {"f16", 16, 'f'},    {"bf16", 16, 'f'},       {"f64", 64, 'f'},
    {"i8", 8, 'i'},        {"i16", 16, 'i'},        {"i32", 32, 'i'},    {"i64", 64, 'i'},        {"u8", 8, 'i'},
    {"u16", 16, 'i'},      {"u32", 32, 'i'},        {"u64", 64, 'i'},    {"bool", 8, 'b'},        {"f8e4m3fn", 8, 'f'},
    {"f8e4m3fnuz", 8, 'f'}, {"f8e5m2", 8, 'f'},     {"f8e5m2fnuz", 8, 'f'}, {"i4", 4, 'i'},       {"u4", 4, 'i'},
    {"f4e2m1", 4, 'f'},    {"f8e8m0", 8, 'f'},      {"i2", 2, 'i'},      {"u2", 2, 'i'},
};
const DTypeFacts& facts(DType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  FB_CHECK(index < kDTypeCount);
  return kFacts[index];
}

}  // namespace

std::string_view dtype_name(DType dtype) { return facts(dtype).name; }
int dtype_bits(DType dtype) { return facts(dtype).bits; }
bool dtype_is_float(DType dtype) { return facts(dtype).kind == 'f'; }
bool dtype_is_integer(DType dtype) { return facts(dtype).kind == 'i'; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (int i = 1; i < kDTypeCount; ++i) {
    if (kFacts[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

Shape::Shape(std::span<const std::int64_t> dims) {
  for (const std::int64_t dim : dims) push_back(dim);
}

void Shape::push_back(std::int64_t dim) {
  FB_CHECK(rank_ < kMaxRank);
  dims_[rank_++] = dim;
}

std::int64_t Shape::elements() const { return elements(0, rank_); }

std::int64_t Shape::elements(int from, int to) const {
  std::int64_t product = 1;
  for (int i = from; i < to; ++i) product *= dims_[static_cast<std::size_t>(i)];
  return product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ",";
    text += std::to_string(dims_[static_cast<std::size_t>(i)]);
  }
  return text + "]";
}

std::optional<std::uint64_t> dtype_bytes(DType dtype, std::int64_t elements) {
  if (elements < 0) return std::nullopt;
  const auto bits = checked_mul(static_cast<std::uint64_t>(elements), static_cast<std::uint64_t>(dtype_bits(dtype)));
  if (!bits || *bits > UINT64_MAX - 7) return std::nullopt;
  return (*bits + 7) / 8;
}

std::optional<std::uint64_t> checked_bytes(DType dtype, std::span<const std::int64_t> dims) {
  if (dims.size() > static_cast<std::size_t>(kMaxRank)) return std::nullopt;
  std::uint64_t count = 1;
  bool zero = false;
  for (const std::int64_t dim : dims) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) {
      zero = true;
      continue;
    }
    const auto next = checked_mul(count, static_cast<std::uint64_t>(dim));
    if (!next || *next > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
    count = *next;
  }
  return dtype_bytes(dtype, zero ? 0 : static_cast<std::int64_t>(count));
}

void HostTensor::Free::operator()(std::byte* p) const noexcept { std::free(p); }

HostTensor::HostTensor(DType dtype, Shape shape) : dtype_(dtype), shape_(shape) {
  const auto bytes = checked_bytes(dtype, shape.dims());
  FB_CHECK(bytes.has_value());
  bytes_ = *bytes;
  const std::uint64_t allocated = align_up(bytes_ == 0 ? 1 : bytes_, 64);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, allocated));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0, allocated);
  data_.reset(memory);
}

HostTensor HostTensor::clone() const {
  if (dtype_ == DType::none) return {};
  HostTensor copy(dtype_, shape_);
  std::memcpy(copy.data(), data(), bytes_);
  return copy;
}

void HostTensor::reshape(Shape shape) {
  FB_CHECK(shape.elements() == shape_.elements());
  shape_ = shape;
}

}  // namespace forebay
