// A node on the CUDA device beside the CPU's kernel. Skips where there is no GPU, and says so.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/cuda_runner.h"

namespace forebay::testing {

class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    runner_ = CudaRunner::create(&why);
    if (runner_ == nullptr) GTEST_SKIP() << why;
  }

  // As run_node, on the device. unsupported when the device has no kernel for it.
  Result<std::vector<HostTensor>> on_device(const NodeRun& run) {
    runner_->unwanted = unwanted_;
    runner_->knows_inputs = run.op == "Gather";
    auto made = runner_->run(run, {}, merge_);
    if (made.ok()) ids_.insert(runner_->id);
    merged_ += made.ok() && runner_->merged ? 1 : 0;
    return made;
  }

  // `tolerance` 0: the same bytes.
  void compare(const NodeRun& run, double tolerance, const std::string& what) {
    auto cpu = run_node(run, pool_);
    ASSERT_TRUE(cpu.ok()) << what << ": " << cpu.status().to_string();
    auto cuda = on_device(run);
    ASSERT_TRUE(cuda.ok()) << what << ": " << cuda.status().to_string();
    for (std::size_t o = 0; o < cpu->size(); ++o) {
      if (std::find(unwanted_.begin(), unwanted_.end(), o) != unwanted_.end()) continue;
      const HostTensor &a = (*cpu)[o], &b = (*cuda)[o];
      ASSERT_EQ(a.shape(), b.shape()) << what;
      if (tolerance == 0) {
        EXPECT_TRUE(same_bytes(a, b)) << what << ", output " << o;
        continue;
      }
      double worst = 0;
      for (std::int64_t i = 0; i < a.shape().elements(); ++i) {
        if (number(a, i) == number(b, i) || (std::isnan(number(a, i)) && std::isnan(number(b, i)))) continue;
        const double error = std::abs(number(a, i) - number(b, i)) / std::max(1.0, std::abs(number(a, i)));
        if (!(error <= worst)) worst = error;
      }
      EXPECT_LE(worst, tolerance) << what << ", output " << o;
    }
  }

  std::unique_ptr<CudaRunner> runner_;
  ThreadPool pool_{2};
  bool merge_ = false;
  int merged_ = 0;
  std::vector<std::size_t> unwanted_;  // outputs nobody reads
  std::set<std::string> ids_;
  std::mt19937_64 random_{20261121};
};

inline double tolerance_of(DType type) {
  return type == DType::f32 ? 2e-6 : type == DType::f16 ? 1e-3 : 8e-3;
}

inline HostTensor integers(std::vector<std::int64_t> values) {
  HostTensor t(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.as<std::int64_t>().begin());
  return t;
}

}  // namespace forebay::testing
