#include "runtime/cuda/lt_product.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <list>
#include <mutex>
#include <optional>
#include <utility>

#include "runtime/cuda/kernel_loading.h"

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
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algo_get = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) algo_check = nullptr;
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
    const bool all =
        find(library, "cublasLtCreate", &c.create) && find(library, "cublasLtGetVersion", &c.version) &&
        find(library, "cublasLtMatmul", &c.matmul) && find(library, "cublasLtMatmulDescCreate", &c.desc_create) &&
        find(library, "cublasLtMatmulDescDestroy", &c.desc_destroy) && find(library, "cublasLtMatmulDescSetAttribute", &c.desc_set) &&
        find(library, "cublasLtMatrixLayoutCreate", &c.layout_create) && find(library, "cublasLtMatrixLayoutDestroy", &c.layout_destroy) &&
        find(library, "cublasLtMatrixLayoutSetAttribute", &c.layout_set) &&
        find(library, "cublasLtMatmulPreferenceCreate", &c.preference_create) &&
        find(library, "cublasLtMatmulPreferenceDestroy", &c.preference_destroy) &&
        find(library, "cublasLtMatmulPreferenceSetAttribute", &c.preference_set) &&
        find(library, "cublasLtMatmulAlgoGetHeuristic", &c.heuristic) &&
        find(library, "cublasLtMatmulAlgoConfigGetAttribute", &c.algo_get) && find(library, "cublasLtMatmulAlgoCheck", &c.algo_check);
    return all ? &c : nullptr;
  }();
  return calls;
}

// Made when first wanted: it starts the device. Holds no device memory; thread-safe. Null when it cannot be.
cublasLtHandle_t lt_handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    return lt()->create(&made) == CUBLAS_STATUS_SUCCESS ? made : nullptr;
  }();
  return handle;
}

cudaDataType_t cuda_type(DType type) {
  return type == DType::f32 ? CUDA_R_32F : type == DType::f16 ? CUDA_R_16F : CUDA_R_16BF;
}

// The library says that an algorithm may be written down as it is and read again by the same version; id and settings are for people.
constexpr std::size_t kAlgoWords = sizeof(cublasLtMatmulAlgo_t::data) / sizeof(std::uint64_t);

std::string config_text(const cublasLtMatmulAlgo_t& algorithm) {
  static constexpr std::pair<const char*, cublasLtMatmulAlgoConfigAttributes_t> kShown[] = {
      {" algo=", CUBLASLT_ALGO_CONFIG_ID},
      {" tile=", CUBLASLT_ALGO_CONFIG_TILE_ID},
      {" stages=", CUBLASLT_ALGO_CONFIG_STAGES_ID},
      {" swizzle=", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING}};
  std::string text = "v" + std::to_string(lt()->version());
  for (const auto& [name, attribute] : kShown) {
    std::int32_t value = 0;
    std::size_t written = 0;
    if (lt()->algo_get(&algorithm, attribute, &value, sizeof value, &written) == CUBLAS_STATUS_SUCCESS)
      text += name + std::to_string(value);
  }
  text += " word=";
  for (std::size_t i = 0; i < kAlgoWords; ++i) {
    std::array<char, 20> word{};
    const auto end = std::to_chars(word.data(), word.data() + word.size(), algorithm.data[i], 16);
    text += (i > 0 ? "." : "") + std::string(word.data(), end.ptr);
  }
  return text;
}

}  // namespace

struct LtLists {
  struct Listed {  // in the order of the heuristics
    LtShape shape;
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    std::vector<std::string> configs;
  };
  struct Made {
    LtShape shape;
    std::optional<LtShape> whole;
    std::string config;
    std::shared_ptr<const LtProduct> product;
  };
  std::mutex mutex;  // guards the rest; the last used first
  std::list<Listed> listed;
  std::list<Made> made;
};
std::shared_ptr<LtLists> make_lt_lists() { return std::make_shared<LtLists>(); }

namespace {

constexpr std::size_t kKept = 128;  // of each list

template <typename Entry, typename Is>
Entry* find_used(std::list<Entry>& all, const Is& is) {
  const auto found = std::find_if(all.begin(), all.end(), is);
  if (found == all.end()) return nullptr;
  all.splice(all.begin(), all, found);
  return &all.front();
}
template <typename Entry>
Entry& keep(std::list<Entry>& all, Entry entry) {
  if (all.size() == kKept) all.pop_back();
  return all.emplace_front(std::move(entry));
}

// Row-major D = A * B is column-major D^T = B^T * A^T: the library's first matrix is B.
class Product final : public LtProduct {
 public:
  // The state keeps it, and outlives it.
  Product(const LtShape& shape, CudaState& state) : shape_(shape), state_(state) {}
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

  std::string config() const override { return config_text(algorithm_); }

  // The heuristics' first, or what `config` names, if they list it: a config comes from a file, and the library would run whatever it says.
  bool choose(std::string_view config, const LtShape* whole) {
    if (!describe()) return false;
    if (pick(listed(), config)) return true;
    if (whole == nullptr || config.empty()) return false;
    Product larger(*whole, state_);
    cublasLtMatmulHeuristicResult_t checked{};
    return larger.describe() && pick(larger.listed(), config) &&
           lt()->algo_check(lt_handle(), desc_, b_, a_, d_, d_, &algorithm_, &checked) == CUBLAS_STATUS_SUCCESS &&
           checked.state == CUBLAS_STATUS_SUCCESS && checked.workspaceSize == 0;
  }
  LtLists::Listed listed() const {
    LtLists& lists = *state_.lists;
    const std::lock_guard lock(lists.mutex);
    if (const auto* known = find_used(lists.listed, [&](const LtLists::Listed& one) { return one.shape == shape_; })) return *known;
    LtLists::Listed made{shape_, heuristics(), {}};
    for (const cublasLtMatmulAlgo_t& algorithm : made.algorithms) made.configs.push_back(config_text(algorithm));
    return keep(lists.listed, std::move(made));
  }

  bool describe() {
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
    return ok && (shape_.batches == 1 || (batch(b_, shape_.b_batch) && batch(a_, shape_.a_batch) && batch(d_, shape_.d_batch)));
  }

  Status run(const void* a, const void* b, void* d, float alpha,
             cudaStream_t stream) const override {
    const cublasStatus_t status = launch(a, b, d, alpha, stream);
    if (status == CUBLAS_STATUS_SUCCESS) return {};
    return state_.errors.check(cudaErrorUnknown, "cuBLASLt refused a product (status " + std::to_string(static_cast<int>(status)) + ")");
  }
  void load() const override {
    if (loaded_.load() || !state_.start().ok()) return;
    const auto give = [&](cudaStream_t stream) { return launch(nowhere(1), nowhere(2), nowhere(3), 1.0f, stream) == CUBLAS_STATUS_SUCCESS; };
    if (load_by_recording(give, nullptr)) loaded_.store(true);
  }

 private:
  cublasStatus_t launch(const void* a, const void* b, void* d, float alpha, cudaStream_t stream) const {
    const float beta = shape_.add ? 1.0f : 0.0f;
    return lt()->matmul(lt_handle(), desc_, &alpha, b, b_, a, a_, &beta, d, d_, d, d_, &algorithm_, nullptr, 0, stream);
  }
  bool pick(const LtLists::Listed& from, std::string_view config) {
    for (std::size_t i = 0; i < from.configs.size(); ++i) {
      if (!config.empty() && from.configs[i] != config) continue;
      algorithm_ = from.algorithms[i];
      return true;
    }
    return false;
  }
  bool batch(cublasLtMatrixLayout_t layout, std::int64_t step) const {
    const auto count = static_cast<std::int32_t>(shape_.batches);
    return lt()->layout_set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count) == CUBLAS_STATUS_SUCCESS &&
           lt()->layout_set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step) == CUBLAS_STATUS_SUCCESS;
  }

  std::vector<cublasLtMatmulAlgo_t> heuristics() const {
    const LtCalls& c = *lt();
    if (!state_.start().ok() || lt_handle() == nullptr) return {};
    cublasLtMatmulPreference_t preference = nullptr;
    if (c.preference_create(&preference) != CUBLAS_STATUS_SUCCESS) return {};
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
    std::array<cublasLtMatmulHeuristicResult_t, kMostAlgorithms> found{};
    int count = 0;
    ok = ok && c.heuristic(lt_handle(), desc_, b_, a_, d_, d_, preference, static_cast<int>(kMostAlgorithms), found.data(), &count) == CUBLAS_STATUS_SUCCESS;
    c.preference_destroy(preference);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; ok && i < count; ++i) {
      if (found[static_cast<std::size_t>(i)].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(found[static_cast<std::size_t>(i)].algo);
    }
    return algorithms;
  }

  const LtShape shape_;
  CudaState& state_;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t b_ = nullptr, a_ = nullptr, d_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  mutable std::atomic<bool> loaded_ = false;
};

}  // namespace

std::string lt_version() {
  return lt() == nullptr ? std::string() : std::to_string(lt()->version());
}

namespace {
// Operands must be aligned as promised to the library.
bool lt_serves(const LtShape& shape) {
  const std::int64_t size = dtype_bits(shape.type) / 8;
  return lt() != nullptr && shape.a_row * size % 16 == 0 && (shape.b_rows ? shape.k : shape.n) * size % 16 == 0 &&
         shape.a_batch * size % 16 == 0 && shape.b_batch * size % 16 == 0;
}
}  // namespace

bool lt_may_serve(const LtShape& shape, std::string_view config) {
  return lt_serves(shape) && (config.empty() || config.starts_with("v" + lt_version() + " "));
}

std::shared_ptr<const LtProduct> make_lt_product(const LtShape& shape, const std::shared_ptr<CudaState>& state, std::string_view config,
                                                 const LtShape* whole) {
  if (!lt_serves(shape)) return nullptr;
  LtLists& lists = *state->lists;
  const auto asked = whole != nullptr ? std::optional(*whole) : std::nullopt;
  {
    const std::lock_guard lock(lists.mutex);
    const auto is = [&](const LtLists::Made& one) { return one.shape == shape && one.config == config && one.whole == asked; };
    if (const auto* known = find_used(lists.made, is)) return known->product;
  }
  std::shared_ptr<const LtProduct> product;
  if (auto made = std::make_shared<Product>(shape, *state); made->choose(config, whole)) product = std::move(made);
  const std::lock_guard lock(lists.mutex);
  return keep(lists.made, {shape, asked, std::string(config), std::move(product)}).product;
}

std::vector<std::string> lt_configs(const LtShape& shape, const std::shared_ptr<CudaState>& state, std::size_t most) {
  if (!lt_serves(shape)) return {};
  const auto first = [&](const std::vector<std::string>& all) {
    return std::vector<std::string>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(most, all.size())));
  };
  {
    const std::lock_guard lock(state->lists->mutex);
    const auto is = [&](const LtLists::Listed& one) { return one.shape == shape; };
    if (const auto* known = find_used(state->lists->listed, is)) return first(known->configs);
  }
  Product product(shape, *state);
  return product.describe() ? first(product.listed().configs) : std::vector<std::string>();
}

}  // namespace forebay::cuda
