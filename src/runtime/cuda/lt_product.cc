#include "runtime/cuda/lt_product.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <array>
#include <utility>

namespace forebay::cuda {
namespace {

struct LtCalls {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  cublasLtHandle_t handle = nullptr;  // holds no device memory; thread-safe
};

template <typename F>
bool find(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  return *function != nullptr;
}

// Null where the library is not there or lacks something.
const LtCalls* lt() {
  static const LtCalls* const calls = []() -> const LtCalls* {
    static LtCalls c;
    const std::array<std::string, 2> names{
        "libcublasLt.so." + std::to_string(CUDART_VERSION / 1000),
        "/usr/local/cuda/lib64/libcublasLt.so"};
    void* library = nullptr;
    for (const std::string& name : names) {
      if (library == nullptr) library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    if (library == nullptr) return nullptr;
    const bool all = find(library, "cublasLtCreate", &c.create) &&
                     find(library, "cublasLtGetVersion", &c.version) &&
                     find(library, "cublasLtMatmul", &c.matmul) &&
                     find(library, "cublasLtMatmulDescCreate", &c.desc_create) &&
                     find(library, "cublasLtMatmulDescDestroy", &c.desc_destroy) &&
                     find(library, "cublasLtMatmulDescSetAttribute", &c.desc_set) &&
                     find(library, "cublasLtMatrixLayoutCreate", &c.layout_create) &&
                     find(library, "cublasLtMatrixLayoutDestroy", &c.layout_destroy) &&
                     find(library, "cublasLtMatmulPreferenceCreate", &c.preference_create) &&
                     find(library, "cublasLtMatmulPreferenceDestroy", &c.preference_destroy) &&
                     find(library, "cublasLtMatmulPreferenceSetAttribute", &c.preference_set) &&
                     find(library, "cublasLtMatmulAlgoGetHeuristic", &c.heuristic);
    return all && c.create(&c.handle) == CUBLAS_STATUS_SUCCESS ? &c : nullptr;
  }();
  return calls;
}

cudaDataType_t cuda_type(DType type) {
  return type == DType::f32 ? CUDA_R_32F : type == DType::f16 ? CUDA_R_16F : CUDA_R_16BF;
}

// Row-major D = A * B is column-major D^T = B^T * A^T: the library's first matrix is B.
class Product final : public LtProduct {
 public:
  Product(const LtShape& shape, std::shared_ptr<CudaState> state)
      : shape_(shape), state_(std::move(state)) {}
  ~Product() override {
    const LtCalls& c = *lt();
    if (desc_ != nullptr) c.desc_destroy(desc_);
    for (cublasLtMatrixLayout_t layout : {b_, a_, d_}) {
      if (layout != nullptr) c.layout_destroy(layout);
    }
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  const LtShape& shape() const override { return shape_; }

  bool choose() {
    const LtCalls& c = *lt();
    const auto n = static_cast<std::uint64_t>(shape_.n), m = static_cast<std::uint64_t>(shape_.m),
               k = static_cast<std::uint64_t>(shape_.k);
    const cudaDataType_t type = cuda_type(shape_.type);
    bool ok = c.desc_create(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    const cublasOperation_t turn = shape_.b_rows ? CUBLAS_OP_T : CUBLAS_OP_N;
    ok = ok && c.desc_set(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn) ==
                   CUBLAS_STATUS_SUCCESS;
    ok = ok && c.layout_create(&b_, type, shape_.b_rows ? k : n, shape_.b_rows ? n : k,
                               shape_.b_rows ? shape_.k : shape_.n) == CUBLAS_STATUS_SUCCESS;
    ok = ok && c.layout_create(&a_, type, k, m, shape_.a_row) == CUBLAS_STATUS_SUCCESS;
    ok = ok && c.layout_create(&d_, cuda_type(shape_.d_type), n, m, shape_.d_row) ==
                   CUBLAS_STATUS_SUCCESS;
    return ok && choose_algorithm();
  }

  Status run(const void* a, const void* b, void* d, float alpha,
             cudaStream_t stream) const override {
    const float beta = shape_.add ? 1.0f : 0.0f;
    const cublasStatus_t status = lt()->matmul(lt()->handle, desc_, &alpha, b, b_, a, a_, &beta, d,
                                               d_, d, d_, &algorithm_, nullptr, 0, stream);
    if (status == CUBLAS_STATUS_SUCCESS) return {};
    return state_->errors.check(
        cudaErrorUnknown,
        "cuBLASLt refused a product (status " + std::to_string(static_cast<int>(status)) + ")");
  }

 private:
  bool choose_algorithm() {
    const LtCalls& c = *lt();
    cublasLtMatmulPreference_t preference = nullptr;
    if (c.preference_create(&preference) != CUBLAS_STATUS_SUCCESS) return false;
    const std::uint64_t workspace = 0;
    const std::uint32_t no_scheme = CUBLASLT_REDUCTION_SCHEME_NONE, operands = 16;
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
      return c.preference_set(preference, what, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
    };
    bool ok = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace) &&
              set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, no_scheme) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, operands) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, operands) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape_.d_alignment) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape_.d_alignment);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    ok = ok &&
         c.heuristic(c.handle, desc_, b_, a_, d_, d_, preference, 1, &found, &count) ==
             CUBLAS_STATUS_SUCCESS &&
         count == 1 && found.state == CUBLAS_STATUS_SUCCESS;
    c.preference_destroy(preference);
    algorithm_ = found.algo;
    return ok;
  }

  const LtShape shape_;
  const std::shared_ptr<CudaState> state_;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t b_ = nullptr, a_ = nullptr, d_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

}  // namespace

std::string lt_version() {
  return lt() == nullptr ? std::string() : std::to_string(lt()->version());
}

std::unique_ptr<LtProduct> make_lt_product(const LtShape& shape,
                                           const std::shared_ptr<CudaState>& state) {
  if (lt() == nullptr) return nullptr;
  // Operands must be aligned as promised to the library.
  const std::int64_t size = dtype_bits(shape.type) / 8;
  if (shape.a_row * size % 16 != 0 || (shape.b_rows ? shape.k : shape.n) * size % 16 != 0)
    return nullptr;
  auto product = std::make_unique<Product>(shape, state);
  return product->choose() ? std::move(product) : nullptr;
}

}  // namespace forebay::cuda
