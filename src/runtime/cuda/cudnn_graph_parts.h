// cuDNN's graph interface: the library's functions, and descriptors that own themselves.
#pragma once

#include <cudnn_graph.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace forebay::cuda {

struct CudnnCalls {
  decltype(&cudnnGetVersion) version = nullptr;
  decltype(&cudnnCreate) create_handle = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy = nullptr;
  decltype(&cudnnBackendSetAttribute) set = nullptr;
  decltype(&cudnnBackendGetAttribute) get = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;
};
const CudnnCalls* cudnn_calls();  // null where the library is not there, lacks something, or is not of the header's major version

template <typename T>
constexpr cudnnBackendAttributeType_t attribute_type() {
  if constexpr (std::is_same_v<T, std::int64_t>)
    return CUDNN_TYPE_INT64;
  else if constexpr (std::is_same_v<T, bool>)
    return CUDNN_TYPE_BOOLEAN;
  else if constexpr (std::is_same_v<T, float>)
    return CUDNN_TYPE_FLOAT;
  else if constexpr (std::is_same_v<T, double>)
    return CUDNN_TYPE_DOUBLE;
  else if constexpr (std::is_same_v<T, cudnnHandle_t>)
    return CUDNN_TYPE_HANDLE;
  else if constexpr (std::is_same_v<T, cudnnDataType_t>)
    return CUDNN_TYPE_DATA_TYPE;
  else if constexpr (std::is_same_v<T, cudnnConvolutionMode_t>)
    return CUDNN_TYPE_CONVOLUTION_MODE;
  else if constexpr (std::is_same_v<T, cudnnPointwiseMode_t>)
    return CUDNN_TYPE_POINTWISE_MODE;
  else if constexpr (std::is_same_v<T, cudnnNanPropagation_t>)
    return CUDNN_TYPE_NAN_PROPOGATION;
  else if constexpr (std::is_same_v<T, cudnnBackendHeurMode_t>)
    return CUDNN_TYPE_HEUR_MODE;
  else if constexpr (std::is_same_v<T, cudnnBackendNumericalNote_t>)
    return CUDNN_TYPE_NUMERICAL_NOTE;
  else if constexpr (std::is_same_v<T, cudnnBackendBehaviorNote_t>)
    return CUDNN_TYPE_BEHAVIOR_NOTE;
  else if constexpr (std::is_same_v<T, cudnnBackendKnobType_t>)
    return CUDNN_TYPE_KNOB_TYPE;
  else {
    static_assert(std::is_same_v<T, cudnnBackendDescriptor_t>);  // an address: what is no descriptor says so itself
    return CUDNN_TYPE_BACKEND_DESCRIPTOR;
  }
}

class CudnnPart {  // a descriptor
 public:
  explicit CudnnPart(cudnnBackendDescriptorType_t kind) {
    if (cudnn_calls()->create(kind, &raw_) != CUDNN_STATUS_SUCCESS) raw_ = nullptr;
  }
  CudnnPart(CudnnPart&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  CudnnPart& operator=(CudnnPart&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  ~CudnnPart() {
    if (raw_ != nullptr) static_cast<void>(cudnn_calls()->destroy(raw_));
  }
  cudnnBackendDescriptor_t raw() const { return raw_; }

  // False where the library refuses.
  template <typename T>
  bool set(cudnnBackendAttributeName_t name, std::span<const T> values, cudnnBackendAttributeType_t type = attribute_type<T>()) {
    return raw_ != nullptr &&
           cudnn_calls()->set(raw_, name, type, static_cast<std::int64_t>(values.size()), values.data()) == CUDNN_STATUS_SUCCESS;
  }
  template <typename T>
  bool set(cudnnBackendAttributeName_t name, const T& value) {
    return set(name, std::span<const T>(&value, 1));
  }
  bool set(cudnnBackendAttributeName_t name, const CudnnPart& part) { return set(name, part.raw_); }
  bool finalize() { return raw_ != nullptr && cudnn_calls()->finalize(raw_) == CUDNN_STATUS_SUCCESS; }

  // As many as there are, at most `most`.
  template <typename T>
  std::vector<T> get(cudnnBackendAttributeName_t name, std::size_t most) const {
    std::vector<T> values(most);
    std::int64_t count = 0;
    const bool got = raw_ != nullptr && cudnn_calls()->get(raw_, name, attribute_type<T>(), static_cast<std::int64_t>(most), &count,
                                                           values.data()) == CUDNN_STATUS_SUCCESS;
    values.resize(got ? std::min(most, static_cast<std::size_t>(count)) : 0);
    return values;
  }
  // Descriptors are made before they are asked for.
  std::vector<CudnnPart> parts(cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t kind, std::size_t most) const {
    std::vector<CudnnPart> made;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (std::size_t i = 0; i < most; ++i) raw.push_back(made.emplace_back(kind).raw());
    std::int64_t count = 0;
    const bool got = raw_ != nullptr && cudnn_calls()->get(raw_, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<std::int64_t>(most),
                                                           &count, raw.data()) == CUDNN_STATUS_SUCCESS;
    made.erase(made.begin() + static_cast<std::ptrdiff_t>(got ? std::min(most, static_cast<std::size_t>(count)) : 0), made.end());
    return made;
  }

 private:
  cudnnBackendDescriptor_t raw_ = nullptr;
};

}  // namespace forebay::cuda
