// Element types, shapes and tensors as the public interface and every layer use them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace forebay {

// Our own stable numbers: they are written into plans and never reused.
enum class DType : std::uint8_t {
  none = 0,
  f32 = 1,
  f16 = 2,
  bf16 = 3,
  f64 = 4,
  i8 = 5,
  i16 = 6,
  i32 = 7,
  i64 = 8,
  u8 = 9,
  u16 = 10,
  u32 = 11,
  u64 = 12,
  boolean = 13,  // one byte, 0 or 1
  f8e4m3fn = 14,
  f8e4m3fnuz = 15,
  f8e5m2 = 16,
  f8e5m2fnuz = 17,
  i4 = 18,  // two a byte, the first element in the low half
  u4 = 19,
  f4e2m1 = 20,
  f8e8m0 = 21,
  i2 = 22,  // four a byte, the first element in the low bits
  u2 = 23,
};
inline constexpr int kDTypeCount = 24;

std::string_view dtype_name(DType dtype);  // "f32", "bf16", ...
std::optional<DType> dtype_from_name(std::string_view name);
int dtype_bits(DType dtype);  // 32, 16, ..., 4, 2; 0 for none
bool dtype_is_float(DType dtype);
bool dtype_is_integer(DType dtype);  // signed and unsigned, sub-byte included; not boolean

inline constexpr int kMaxRank = 8;

// A concrete shape, held in place: copying allocates nothing. Every dimension is >= 0.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims);  // rank above kMaxRank is a bug: check first
  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return dims_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return dims_[static_cast<std::size_t>(axis)]; }
  std::span<const std::int64_t> dims() const { return {dims_.data(), rank_}; }
  std::span<std::int64_t> dims() { return {dims_.data(), rank_}; }
  void push_back(std::int64_t dim);
  // Product of the dimensions; 1 for a scalar. Overflow is a bug: untrusted shapes go through checked_bytes first.
  std::int64_t elements() const;
  // Product of dims [from, to).
  std::int64_t elements(int from, int to) const;
  std::string to_string() const;  // "[1,3,224,224]"
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && a.dims_ == b.dims_;
  }

 private:
  std::array<std::int64_t, kMaxRank> dims_{};  // unused places stay 0
  std::uint8_t rank_ = 0;
};

// Bytes of `elements` packed elements; sub-byte types round up to a whole byte. Empty on overflow or a negative count.
std::optional<std::uint64_t> dtype_bytes(DType dtype, std::int64_t elements);
// Bytes of a dense tensor; empty when the product overflows, a dimension is negative or the rank is above kMaxRank.
std::optional<std::uint64_t> checked_bytes(DType dtype, std::span<const std::int64_t> dims);

// A dense row-major tensor in host memory that owns its bytes (64-byte aligned).
class HostTensor {
 public:
  HostTensor() = default;
  HostTensor(DType dtype, Shape shape);  // zero-filled; the size must have been checked
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::uint64_t bytes() const { return bytes_; }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  template <typename T>
  std::span<T> as() {
    return {reinterpret_cast<T*>(data_.get()), static_cast<std::size_t>(bytes_ / sizeof(T))};
  }
  template <typename T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(data_.get()), static_cast<std::size_t>(bytes_ / sizeof(T))};
  }
  HostTensor clone() const;
  void reshape(Shape shape);  // same number of elements, or a bug

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept;
  };
  DType dtype_ = DType::none;
  Shape shape_;
  std::uint64_t bytes_ = 0;
  std::unique_ptr<std::byte, Free> data_;
};

// A borrowed dense row-major tensor; `data` may be null only when the tensor has no bytes or is absent (dtype none).
struct TensorView {
  std::byte* data = nullptr;
  DType dtype = DType::none;
  Shape shape;
  bool present() const { return dtype != DType::none; }
};
struct ConstTensorView {
  const std::byte* data = nullptr;
  DType dtype = DType::none;
  Shape shape;
  bool present() const { return dtype != DType::none; }
  ConstTensorView() = default;
  ConstTensorView(const std::byte* d, DType t, Shape s) : data(d), dtype(t), shape(s) {}
  ConstTensorView(const TensorView& v) : data(v.data), dtype(v.dtype), shape(v.shape) {}  // NOLINT
  ConstTensorView(const HostTensor& t) : data(t.data()), dtype(t.dtype()), shape(t.shape()) {}  // NOLINT
};

}  // namespace forebay
