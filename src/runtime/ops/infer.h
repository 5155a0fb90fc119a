// What infer functions of every family share: sets of dtypes, checks that name the input, sizes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "runtime/op.h"

namespace forebay::ops {

using DTypeSet = std::uint32_t;
template <typename... D>
constexpr DTypeSet dtypes(D... d) {
  return ((DTypeSet{1} << static_cast<int>(d)) | ...);
}
constexpr bool in_set(DTypeSet set, DType dtype) { return ((set >> static_cast<int>(dtype)) & 1u) != 0; }

inline constexpr DTypeSet kFloats = dtypes(DType::f32, DType::f16, DType::bf16, DType::f64);
inline constexpr DTypeSet kSigned = dtypes(DType::i8, DType::i16, DType::i32, DType::i64);
inline constexpr DTypeSet kUnsigned = dtypes(DType::u8, DType::u16, DType::u32, DType::u64);
inline constexpr DTypeSet kIntegers = kSigned | kUnsigned;
inline constexpr DTypeSet kNumbers = kFloats | kIntegers;
inline constexpr DTypeSet kBool = dtypes(DType::boolean);
inline constexpr DTypeSet kNarrow = dtypes(DType::f8e4m3fn, DType::f8e4m3fnuz, DType::f8e5m2, DType::f8e5m2fnuz, DType::f8e8m0, DType::i4,
                                           DType::u4, DType::f4e2m1, DType::i2, DType::u2);
inline constexpr DTypeSet kAny = kNumbers | kBool | kNarrow;
inline constexpr DTypeSet kIndices = dtypes(DType::i32, DType::i64);

// The input is there and its dtype is in the set.
Status need_input(const InferContext& ctx, std::size_t i, DTypeSet set);
// Present only if wanted: as need_input when there.
Status allow_input(const InferContext& ctx, std::size_t i, DTypeSet set);
// At least `min` and at most `max` inputs.
Status need_arity(const InferContext& ctx, std::size_t min, std::size_t max);
// Inputs a and b have one dtype.
Status same_dtype(const InferContext& ctx, std::size_t a, std::size_t b);
// Output `out` is like input `in`.
void set_like(InferContext& ctx, std::size_t out, std::size_t in, DType dtype);
// Product of the dims; -1 when one is unknown; invalid_model on overflow.
Result<std::int64_t> element_count(const NodeView& node, std::span<const std::int64_t> dims);
// Axes of an attribute or list: normalised, no doubles.
Result<std::vector<int>> normalize_axes(const NodeView& node, std::span<const std::int64_t> axes, int rank);
// The dtype of a number of ONNX's TensorProto.DataType, as attributes hold it; none for those not served (strings, complex).
DType onnx_dtype(std::int64_t number);
// i32 or i64 contents of a small tensor on the host (prepare: host inputs are always there).
std::vector<std::int64_t> host_integers(const HostTensor& tensor);

// Kernels whose id is made at creation.
class NamedKernel : public Kernel {
 public:
  explicit NamedKernel(std::string id) : id_(std::move(id)) {}
  std::string_view id() const override { return id_; }

 private:
  std::string id_;
};

}  // namespace forebay::ops
