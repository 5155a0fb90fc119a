// Reading of index tensors (i32 or i64, negative counts from the end) and the errors they give.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "runtime/op.h"

namespace forebay::ops {

class IndexReader {
 public:
  explicit IndexReader(const ConstTensorView& view) : data_(view.data), wide_(view.dtype == DType::i64) {}
  std::int64_t operator[](std::int64_t i) const {
    return wide_ ? reinterpret_cast<const std::int64_t*>(data_)[i] : reinterpret_cast<const std::int32_t*>(data_)[i];
  }
  // Normalised to [0, dim), which the check before has made sure of.
  std::int64_t at(std::int64_t i, std::int64_t dim) const {
    const std::int64_t index = (*this)[i];
    return index < 0 ? index + dim : index;
  }

 private:
  const std::byte* data_;
  bool wide_;
};

// The error of an index outside of an axis. Kernels keep `who` ("Gather 'node'") from prepare.
Status index_error(const std::string& who, std::int64_t position, std::int64_t index, std::int64_t dim);
// Every index lies in [-dim, dim).
Status check_indices(const std::string& who, const IndexReader& indices, std::int64_t count, std::int64_t dim);
std::string node_label(const NodeView& node);

// Where the elements that GatherElements and ScatterElements name lie: the place of index i in data, its axis replaced by what the index says.
class ElementsAxis {
 public:
  Status prepare(const PrepareContext& context);  // data is input 0, indices are input 1; attribute axis
  Status check(const KernelCall& call) const;     // every index lies in its axis
  std::int64_t offset(const IndexReader& indices, const Shape& shape, std::int64_t i) const;

 private:
  std::size_t axis_ = 0;
  std::int64_t dim_ = 0;
  std::array<std::int64_t, kMaxRank> strides_{};
  std::string label_;
};

}  // namespace forebay::ops
