#include "runtime/cuda/cudnn_conv.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <mutex>

#include "runtime/cuda/cudnn_graph_parts.h"
#include "runtime/cuda/kernel_loading.h"

namespace forebay::cuda {
namespace {

constexpr std::size_t kMostKnown = 512;                  // shapes; each keeps its graph and engines in host memory
constexpr std::size_t kMostKnobs = 64, kMostNotes = 32;  // of an engine; later versions may know more kinds than the header

template <typename F>
bool find(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  return *function != nullptr;
}

// libcudnn.so loads its parts when they are first wanted, and ends the process where one is missing: all must lie beside it.
bool complete(void* library) {
  struct link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr) return false;
  const std::string path = map->l_name, folder = path.substr(0, path.rfind('/') + 1);
  constexpr const char* kParts[] = {"graph", "ops", "cnn", "heuristic", "engines_precompiled", "engines_runtime_compiled"};
  return std::all_of(std::begin(kParts), std::end(kParts), [&](const char* part) {
    return access((folder + "libcudnn_" + part + ".so." + std::to_string(CUDNN_MAJOR)).c_str(), R_OK) == 0;
  });
}

// What the operands are called in a graph.
enum : std::int64_t { kX = 1, kW, kBias, kSum, kY, kBetween };

struct Graph {
  std::deque<CudnnPart> parts;  // tensors and operations
  std::vector<cudnnBackendDescriptor_t> operations;
  CudnnPart whole{CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR};
};

struct Engine {
  std::string settings;  // a config but for its workspace
  CudnnPart choice;
  bool tried = false, loaded = false;
  std::uint64_t workspace = 0;
  std::shared_ptr<const CudnnPart> plan;  // null: it cannot be had here
};

struct Listed {
  CudnnShape shape;
  Graph graph;
  std::vector<Engine> engines;
};

// One of the process, never given up: cuDNN may have ended before it would be. The handle is made when first wanted: that starts the
// device.
struct Library {
  std::mutex mutex;  // guards the rest, and the handle's stream until what is given to it has been launched
  cudnnHandle_t handle = nullptr;
  void* nowhere = nullptr;  // device memory that nothing reads or writes
  std::deque<Listed> known;
};
Library& library() {
  static Library& one = *std::make_unique<Library>().release();
  return one;
}

bool same(const CudnnShape& a, const CudnnShape& b) {
  const auto numbers = [](const CudnnShape& s) {
    return std::array{static_cast<int>(s.type),      s.batch, s.groups, s.channels, s.filters, s.biased ? 1 : 0, s.added ? 1 : 0,
                      static_cast<int>(s.activation)};
  };
  return numbers(a) == numbers(b) && std::memcmp(&a.window, &b.window, sizeof a.window) == 0 && a.alpha == b.alpha && a.beta == b.beta;
}

// The graph of a shape, put together part by part; what is refused makes it not ok.
class Sketch {
 public:
  Sketch(const CudnnShape& shape, cudnnHandle_t handle, Graph* graph)
      : s_(shape), type_(shape.type == DType::f16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16), handle_(handle), graph_(*graph) {}

  bool draw() {
    const NhwcWindow& w = s_.window;
    const std::int64_t channels = std::int64_t{s_.channels} * s_.groups, n = s_.batch, k = s_.filters;
    const std::array<std::int64_t, 4> image{n, k, w.out[0], w.out[1]};
    const auto x = tensor(kX, {n, channels, w.in[0], w.in[1]}, true),
               filters = tensor(kW, {k, s_.channels, w.kernel[0], w.kernel[1]}, true);
    left_ = 1 + (s_.added ? 1 : 0) + (s_.biased ? 1 : 0) + (s_.activation != Activation::none ? 1 : 0);
    cudnnBackendDescriptor_t last = next(image);
    convolve(x, filters, last);
    if (s_.added) last = pointwise(CUDNN_POINTWISE_ADD, last, tensor(kSum, image, true), image);
    if (s_.biased) last = pointwise(CUDNN_POINTWISE_ADD, last, tensor(kBias, {1, k, 1, 1}, true), image);
    if (s_.activation != Activation::none) pointwise(mode(), last, nullptr, image);
    CudnnPart& whole = graph_.whole;
    ok_ = ok_ && whole.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle_) &&
          whole.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, std::span<const cudnnBackendDescriptor_t>(graph_.operations)) && whole.finalize();
    return ok_;
  }

 private:
  CudnnPart& part(cudnnBackendDescriptorType_t kind) { return graph_.parts.emplace_back(kind); }
  void end(CudnnPart& made) { ok_ = ok_ && made.finalize(); }

  // Dims as [N,C,H,W], channels together in memory. What only the graph sees is f32.
  cudnnBackendDescriptor_t tensor(std::int64_t id, const std::array<std::int64_t, 4>& dims, bool real) {
    const std::array<std::int64_t, 4> strides{dims[1] * dims[2] * dims[3], 1, dims[1] * dims[3], dims[1]};
    CudnnPart& made = part(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    ok_ = ok_ && made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, real ? type_ : CUDNN_DATA_FLOAT) &&
          made.set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(dims)) &&
          made.set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides)) && made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id) &&
          made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16}) && made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, !real);
    end(made);
    return made.raw();
  }
  // The next operation's output: y behind the last.
  cudnnBackendDescriptor_t next(const std::array<std::int64_t, 4>& image) {
    --left_;
    return left_ == 0 ? tensor(kY, image, true) : tensor(kBetween + left_, image, false);
  }
  void convolve(cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w, cudnnBackendDescriptor_t y) {
    const NhwcWindow& window = s_.window;
    const auto pair = [](const int(&two)[2]) { return std::array<std::int64_t, 2>{two[0], two[1]}; };
    const auto set = [](CudnnPart& to, cudnnBackendAttributeName_t name, const std::array<std::int64_t, 2>& two) {
      return to.set(name, std::span<const std::int64_t>(two));
    };
    CudnnPart& how = part(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    ok_ = ok_ && how.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT) &&
          how.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_CROSS_CORRELATION) &&
          how.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{2}) &&
          set(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, pair(window.dilation)) &&
          set(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, pair(window.stride)) &&
          set(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, pair(window.pad)) &&
          set(how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, pair(window.pad_end));
    end(how);
    CudnnPart& operation = part(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    ok_ = ok_ && operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, how) &&
          operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x) && operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w) &&
          operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y) &&
          operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0f) &&
          operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, 0.0f);
    end(operation);
    graph_.operations.push_back(operation.raw());
  }
  // Of `x` and `b`, or of `x` alone; gives the output.
  cudnnBackendDescriptor_t pointwise(cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b,
                                     const std::array<std::int64_t, 4>& image) {
    CudnnPart& how = part(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    ok_ = ok_ && how.set(CUDNN_ATTR_POINTWISE_MODE, mode) && how.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
    if (b == nullptr) set_numbers(how);
    end(how);
    const cudnnBackendDescriptor_t y = next(image);
    CudnnPart& operation = part(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    ok_ =
        ok_ && operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how) && operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x) &&
        (b == nullptr || operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b)) && operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    end(operation);
    graph_.operations.push_back(operation.raw());
    return y;
  }
  cudnnPointwiseMode_t mode() const {
    switch (s_.activation) {
      case Activation::sigmoid:
        return CUDNN_POINTWISE_SIGMOID_FWD;
      case Activation::tanh:
        return CUDNN_POINTWISE_TANH_FWD;
      case Activation::swish:
        return CUDNN_POINTWISE_SWISH_FWD;
      case Activation::gelu:
        return CUDNN_POINTWISE_GELU_FWD;
      case Activation::gelu_tanh:
        return CUDNN_POINTWISE_GELU_APPROX_TANH_FWD;
      default:
        return CUDNN_POINTWISE_RELU_FWD;  // leaky_relu and clip by its numbers
    }
  }
  void set_numbers(CudnnPart& how) {
    const bool relu = s_.activation == Activation::relu, leaky = s_.activation == Activation::leaky_relu,
               clip = s_.activation == Activation::clip;
    if (relu || leaky || clip) ok_ = ok_ && how.set(CUDNN_ATTR_POINTWISE_NAN_PROPAGATION, CUDNN_PROPAGATE_NAN);
    if (leaky) ok_ = ok_ && how.set(CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP_SLOPE, static_cast<double>(s_.alpha));
    if (clip) {
      ok_ = ok_ && how.set(CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP, static_cast<double>(s_.alpha)) &&
            how.set(CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, static_cast<double>(s_.beta));
    }
    if (s_.activation == Activation::swish) ok_ = ok_ && how.set(CUDNN_ATTR_POINTWISE_SWISH_BETA, static_cast<double>(s_.alpha));
  }

  const CudnnShape& s_;
  const cudnnDataType_t type_;
  const cudnnHandle_t handle_;
  Graph& graph_;
  int left_ = 0;  // operations
  bool ok_ = true;
};

template <typename T>
bool among(const std::vector<T>& values, std::initializer_list<T> wanted) {
  return std::any_of(wanted.begin(), wanted.end(), [&](T one) { return std::find(values.begin(), values.end(), one) != values.end(); });
}

// The same bits each time, sums in f32 of the numbers as they are, and machine code in the library: compiling takes half a second a shape
// whenever a plan is opened.
bool trusted(const CudnnPart& engine) {
  const auto notes = engine.get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, kMostNotes);
  const auto habits = engine.get<cudnnBackendBehaviorNote_t>(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, kMostNotes);
  return !among(notes, {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
                        CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, CUDNN_NUMERICAL_NOTE_FFT, CUDNN_NUMERICAL_NOTE_WINOGRAD,
                        CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4, CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6,
                        CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13}) &&
         !among(habits, {CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION, CUDNN_BEHAVIOR_NOTE_REQUIRES_FILTER_INT8x32_REORDER,
                         CUDNN_BEHAVIOR_NOTE_REQUIRES_BIAS_INT8x32_REORDER});
}

// "" for an engine that is not to be used.
std::string settings_text(const CudnnPart& choice) {
  const auto engines = choice.parts(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
  if (engines.empty() || !trusted(engines[0])) return {};
  const auto index = engines[0].get<std::int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 1);
  if (index.empty()) return {};
  std::string text = "v" + cudnn_version() + " engine=" + std::to_string(index[0]);
  for (const CudnnPart& knob : choice.parts(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, kMostKnobs)) {
    const auto kind = knob.get<cudnnBackendKnobType_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, 1);
    const auto value = knob.get<std::int64_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, 1);
    if (kind.empty() || value.empty()) return {};
    text += " k" + std::to_string(static_cast<int>(kind[0])) + "=" + std::to_string(value[0]);
  }
  return text;
}

std::vector<Engine> list_engines(const Graph& graph) {
  std::vector<Engine> engines;
  CudnnPart heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  if (!heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.whole) ||
      !heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A) || !heuristics.finalize())
    return engines;
  constexpr std::size_t kAsked = 4 * kMostCudnnEngines;  // some of them are not to be used
  for (CudnnPart& choice : heuristics.parts(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, kAsked)) {
    std::string text = settings_text(choice);
    if (!text.empty() && engines.size() < kMostCudnnEngines)
      engines.push_back({std::move(text), std::move(choice), false, false, 0, nullptr});
  }
  return engines;
}

// Of the shape; with the library's mutex.
Listed* listed(Library& lib, const CudnnShape& shape, CudaState& state) {
  if (cudnn_calls() == nullptr || !cudnn_describes(shape) || !state.start().ok()) return nullptr;
  for (Listed& one : lib.known) {
    if (same(one.shape, shape)) return &one;
  }
  if (lib.nowhere == nullptr && cudaMalloc(&lib.nowhere, 4096) != cudaSuccess) return nullptr;
  if (lib.handle == nullptr && cudnn_calls()->create_handle(&lib.handle) != CUDNN_STATUS_SUCCESS) return nullptr;
  if (lib.known.size() == kMostKnown) lib.known.pop_front();  // what was made of it stays
  Listed& made = lib.known.emplace_back();
  made.shape = shape;
  if (Sketch(shape, lib.handle, &made.graph).draw()) made.engines = list_engines(made.graph);
  return &made;
}

// Made ready once: an engine may be compiled for that.
bool ready(Engine& engine, cudnnHandle_t handle) {
  if (engine.tried) return engine.plan != nullptr;
  engine.tried = true;
  auto plan = std::make_shared<CudnnPart>(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  if (!plan->set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle) || !plan->set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine.choice) ||
      !plan->finalize())
    return false;
  const auto bytes = plan->get<std::int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 1);
  if (bytes.empty() || bytes[0] < 0 || static_cast<std::uint64_t>(bytes[0]) > kMostCudnnWorkspace) return false;
  engine.workspace = static_cast<std::uint64_t>(bytes[0]);
  engine.plan = std::move(plan);
  return true;
}

std::string config_text(const Engine& engine) {
  return engine.settings + " workspace=" + std::to_string(engine.workspace);
}

class Conv final : public CudnnConv {
 public:
  Conv(std::shared_ptr<const CudnnPart> plan, std::shared_ptr<CudaState> state) : plan_(std::move(plan)), state_(std::move(state)) {}

  Status run(const CudnnOperands& operands, cudaStream_t stream) const override {
    Library& lib = library();
    const std::lock_guard lock(lib.mutex);
    const cudnnStatus_t status = launch(operands, stream);
    if (status == CUDNN_STATUS_SUCCESS) return {};
    return state_->errors.check(cudaErrorUnknown, "cuDNN refused a convolution (status " + std::to_string(static_cast<int>(status)) + ")");
  }
  // With the library's mutex.
  cudnnStatus_t launch(const CudnnOperands& operands, cudaStream_t stream) const {
    std::vector<std::int64_t> ids;
    std::vector<void*> places;
    const std::pair<std::int64_t, const void*> all[] = {
        {kX, operands.x}, {kW, operands.w}, {kBias, operands.bias}, {kSum, operands.sum}, {kY, operands.y}};
    for (const auto& [id, place] : all) {
      if (place == nullptr) continue;
      ids.push_back(id);
      places.push_back(const_cast<void*>(place));
    }
    CudnnPart pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    const bool ok = pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(ids)) &&
                    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<void* const>(places), CUDNN_TYPE_VOID_PTR) &&
                    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, std::span<void* const>(&operands.workspace, 1), CUDNN_TYPE_VOID_PTR) &&
                    pack.finalize();
    const cudnnHandle_t handle = library().handle;
    const cudnnStatus_t status = ok ? cudnn_calls()->set_stream(handle, stream) : CUDNN_STATUS_BAD_PARAM;
    return status == CUDNN_STATUS_SUCCESS ? cudnn_calls()->execute(handle, plan_->raw(), pack.raw()) : status;
  }

 private:
  const std::shared_ptr<const CudnnPart> plan_;
  const std::shared_ptr<CudaState> state_;
};

// A recording that holds all it needs: what a copy would be made from when it is replayed may be gone by then.
bool holds_all(cudaGraph_t graph) {
  std::array<cudaGraphNode_t, 16> nodes{};
  std::size_t count = nodes.size();
  if (cudaGraphGetNodes(graph, nodes.data(), &count) != cudaSuccess || count > nodes.size()) return false;
  return std::all_of(nodes.begin(), nodes.begin() + static_cast<std::ptrdiff_t>(count), [](cudaGraphNode_t node) {
    cudaGraphNodeType type = cudaGraphNodeTypeCount;
    return cudaGraphNodeGetType(node, &type) == cudaSuccess && (type == cudaGraphNodeTypeKernel || type == cudaGraphNodeTypeMemset);
  });
}

// The operands are nowhere but for the workspace, whose address is checked.
bool loaded(const Conv& conv, const CudnnShape& shape, void* workspace) {
  const CudnnOperands operands{nowhere(1), nowhere(2), shape.biased ? nowhere(3) : nullptr, shape.added ? nowhere(4) : nullptr,
                               nowhere(5), workspace};
  return load_by_recording([&](cudaStream_t stream) { return conv.launch(operands, stream) == CUDNN_STATUS_SUCCESS; }, holds_all);
}

// Ready and loaded, each tried once: an engine that cannot be recorded is none.
bool usable(Engine& engine, const CudnnShape& shape, const Library& lib) {
  if (!ready(engine, lib.handle)) return false;
  engine.loaded = engine.loaded || loaded(Conv(engine.plan, nullptr), shape, lib.nowhere);
  if (!engine.loaded) engine.plan = nullptr;
  return engine.loaded;
}

}  // namespace

const CudnnCalls* cudnn_calls() {
  static const CudnnCalls* const calls = []() -> const CudnnCalls* {
    static CudnnCalls c;
    const std::string name = "libcudnn.so." + std::to_string(CUDNN_MAJOR);
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) library = dlopen(("/usr/local/cuda/lib64/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr || !complete(library)) return nullptr;
    const bool all = find(library, "cudnnGetVersion", &c.version) && find(library, "cudnnCreate", &c.create_handle) &&
                     find(library, "cudnnSetStream", &c.set_stream) && find(library, "cudnnBackendCreateDescriptor", &c.create) &&
                     find(library, "cudnnBackendDestroyDescriptor", &c.destroy) && find(library, "cudnnBackendSetAttribute", &c.set) &&
                     find(library, "cudnnBackendGetAttribute", &c.get) && find(library, "cudnnBackendFinalize", &c.finalize) &&
                     find(library, "cudnnBackendExecute", &c.execute);
    return all && c.version() / 10000 == CUDNN_MAJOR ? &c : nullptr;
  }();
  return calls;
}

std::string cudnn_version() {
  return cudnn_calls() == nullptr ? std::string() : std::to_string(cudnn_calls()->version());
}

std::vector<std::string> cudnn_configs(const CudnnShape& shape, CudaState& state) {
  std::vector<std::string> configs;
  Library& lib = library();
  const std::lock_guard lock(lib.mutex);
  Listed* const list = listed(lib, shape, state);
  if (list == nullptr) return configs;
  for (Engine& engine : list->engines) {
    if (usable(engine, shape, lib)) configs.push_back(config_text(engine));
  }
  return configs;
}

std::unique_ptr<CudnnConv> make_cudnn_conv(const CudnnShape& shape, const std::shared_ptr<CudaState>& state, std::string_view config) {
  Library& lib = library();
  const std::lock_guard lock(lib.mutex);
  Listed* const list = cudnn_workspace(cudnn_version(), config) ? listed(lib, shape, *state) : nullptr;
  if (list == nullptr) return nullptr;
  for (Engine& engine : list->engines) {
    if (!config.starts_with(engine.settings + " workspace=") || !usable(engine, shape, lib) || config != config_text(engine)) continue;
    return std::make_unique<Conv>(engine.plan, state);
  }
  return nullptr;
}

}  // namespace forebay::cuda
