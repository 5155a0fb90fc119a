// What decoding of one sequence runs on the CUDA device: one row by large weights, several products of it in one launch, attention of one
// query. Beside the CPU's kernels. Skips where there is no GPU, and says so.
#include "runtime/cuda_harness.h"

namespace forebay::testing {
namespace {

NodeRun linear_of(const HostTensor& a, const HostTensor& b, const HostTensor* c) {
  NodeRun run{"", "Gemm", 13, {{"transB", plan::AttributeValue(std::int64_t{1})}}, {&a, &b}, 1, plan::kNone, {}};
  if (c != nullptr) run.inputs.push_back(c);
  return run;
}

std::vector<std::int64_t> even_cut(std::int64_t rows, std::int64_t slab) {
  std::vector<std::int64_t> cut(static_cast<std::size_t>(rows / slab), slab);
  if (rows % slab != 0) cut.push_back(rows % slab);
  return cut;
}

// Depths that are and are not whole stages and runs; more and fewer rows than warps.
TEST_F(CudaKernels, OneRowByLargeWeightsHasTheBitsOfTheCpu) {
  constexpr std::int64_t kShapes[][2] = {{1024, 1024}, {1025, 1032}, {3000, 2056}, {1111, 4096}, {1600, 1800}, {5000, 1024}, {1030, 14336}};
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const auto& [n, k] : kShapes) {
      const HostTensor a = random_tensor(random_, type, Shape{1, k}), b = random_tensor(random_, type, Shape{n, k}),
                       c = random_tensor(random_, type, Shape{n});
      NodeRun run = linear_of(a, b, n % 2 == 0 ? &c : nullptr);
      run.sliced = 1;
      const std::string what = std::string(dtype_name(type)) + " " + std::to_string(n) + "x" + std::to_string(k);
      run.slab_rows = {n};
      compare(run, 0, what);
      run.slab_rows = even_cut(n, 250 + n % 7);
      merge_ = true;
      compare(run, 0, what + ", slabs of one launch");
      merge_ = false;
    }
  }
}

// A product of its own weight beside others of the same activations.
struct Sibling {
  HostTensor weight;
  std::unique_ptr<Kernel> kernel;
  std::vector<ConstTensorView> inputs;
  std::vector<TensorView> outputs;
  KernelCall call;
};

TEST_F(CudaKernels, ProductsOfOneValueShareALaunch) {
  for (const std::int64_t k : {512, 2048}) {
    const HostTensor a = random_tensor(random_, DType::bf16, Shape{1, k});
    std::byte* const a_at = runner_->place(a.bytes());
    Queue& queue = runner_->queue();
    queue.copy(a_at, a.data(), a.bytes());
    std::vector<Sibling> siblings(3);
    std::vector<GroupedKernel::Member> members;
    const plan::Plan plan;
    for (std::size_t s = 0; s < siblings.size(); ++s) {
      Sibling& one = siblings[s];
      const std::int64_t n = s == 0 ? 1500 : 300 + static_cast<std::int64_t>(s);
      one.weight = random_tensor(random_, DType::bf16, Shape{n, k});
      const NodeRun run = linear_of(a, one.weight, nullptr);
      const NodeView node("tested", "", "Gemm", 13, run.attributes, plan, 2, 1);
      const std::vector<TypeShape> in{type_of(&a), type_of(&one.weight)}, out{TypeShape{DType::bf16, true, {1, n}}};
      one.kernel = runner_->device->create_kernel(node, in, out).value();
      ASSERT_NE(one.kernel, nullptr);
      const std::vector<const HostTensor*> known(2, nullptr);
      ASSERT_TRUE(one.kernel->prepare(PrepareContext{node, in, known, out, &pool_, plan::kNone, plan::Consumption::whole, {}}).ok());
      dynamic_cast<WeightReader&>(*one.kernel).reads_weight(1);
      std::byte* const b_at = runner_->place(one.weight.bytes());
      queue.copy(b_at, one.weight.data(), one.weight.bytes());
      one.inputs = {ConstTensorView(a_at, DType::bf16, a.shape()), ConstTensorView(b_at, DType::bf16, one.weight.shape())};
      one.outputs = {TensorView{runner_->place(static_cast<std::uint64_t>(n) * 2), DType::bf16, Shape{1, n}}};
      one.call.inputs = one.inputs;
      one.call.outputs = one.outputs;
      one.call.slab_count = 1;
      members.push_back({one.kernel.get(), {&one.call, 1}});
    }
    struct Work {
      std::span<const GroupedKernel::Member> members;
      std::size_t done = 0;
    } work{members};
    queue.launch(
        [](void* argument) -> Status {
          Work& w = *static_cast<Work*>(argument);
          FB_ASSIGN(w.done, dynamic_cast<GroupedKernel&>(*w.members[0].kernel).run_group(w.members));
          return {};
        },
        &work);
    ASSERT_TRUE(queue.synchronize().ok());
    EXPECT_EQ(work.done, siblings.size());
    for (Sibling& one : siblings) {
      const auto alone = run_node(linear_of(a, one.weight, nullptr), pool_);
      ASSERT_TRUE(alone.ok());
      HostTensor made(DType::bf16, one.outputs[0].shape);
      queue.copy(made.data(), one.outputs[0].data, made.bytes());
      ASSERT_TRUE(queue.synchronize().ok());
      EXPECT_TRUE(same_bytes(made, (*alone)[0])) << made.shape().to_string();
    }
  }
}

// Numbers of keys around those where a lane, a warp, a block or a split has one more; masks that hide all but one key of a row.
TEST_F(CudaKernels, AttentionOfOneQueryIsCloseToTheCpu) {
  struct Form {
    std::int64_t q_heads, kv_heads, head, keys;
  };
  constexpr Form kForms[] = {{4, 4, 64, 1},     {8, 2, 128, 2},   {8, 2, 128, 63},  {8, 2, 128, 64},   {8, 2, 128, 65},  {12, 4, 80, 129},
                             {32, 8, 128, 513}, {16, 1, 64, 700}, {6, 2, 256, 300}, {8, 1, 256, 2048}, {5, 1, 24, 1000}, {9, 1, 128, 2049}};
  for (const DType type : {DType::f16, DType::bf16}) {
    for (const Form& f : kForms) {
      const HostTensor q = random_tensor(random_, type, Shape{2, f.q_heads, 1, f.head}),
                       k = random_tensor(random_, type, Shape{2, f.kv_heads, f.keys, f.head}),
                       v = random_tensor(random_, type, Shape{2, f.kv_heads, f.keys, f.head}),
                       mask = random_tensor(random_, type, Shape{1, f.keys});
      NodeRun run{"", "Attention", 23, {}, {&q, &k, &v}, 1, plan::kNone, {}};
      const std::string what = std::string(dtype_name(type)) + " " + std::to_string(f.q_heads) + "/" + std::to_string(f.kv_heads) +
                               " heads of " + std::to_string(f.head) + ", " + std::to_string(f.keys) + " keys";
      compare(run, tolerance_of(type), what);
      run.inputs.push_back(&mask);
      run.attributes.push_back({"softcap", plan::AttributeValue(3.0f)});
      compare(run, tolerance_of(type), what + ", mask and cap");
      HostTensor hides(DType::boolean, Shape{1, f.keys});
      std::memset(hides.data(), 0, hides.bytes());
      hides.data()[f.keys / 2] = std::byte{1};
      run.inputs[3] = &hides;
      compare(run, tolerance_of(type), what + ", one key seen");
    }
  }
}

}  // namespace
}  // namespace forebay::testing
