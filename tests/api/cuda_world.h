// What the tests of the CUDA device share: a model that streams, and the device's memory as the driver tells it.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "api/engine_world.h"
#include "runtime/device_library.h"

namespace forebay::test {

// Skips, and says why, where the device is not there.
class CudaEngine : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = load_device("cuda");
    if (!opened.ok()) GTEST_SKIP() << opened.status().to_string();
    device = std::move(opened).value();
  }
  std::uint64_t free_bytes() { return device->free_bytes().value(); }
  std::unique_ptr<Device> device;
};

inline EngineOptions on_cuda(const Budget& budget, int concurrent = 1) {
  EngineOptions options = with_budget(budget, concurrent);
  options.device = "cuda";
  return options;
}

// 24 layers of 512 x 512 f32 in slabs of 256 KiB: 25 MB, so that many budgets stream.
struct LayersWorld {
  static constexpr int kLayers = 24;
  static constexpr std::int64_t kLayerWidth = 512;
  TempFolder folder;
  Tensors weights = layer_weights(kLayers, kLayerWidth, 1);
  Tensors inputs = only("x", random_tensor(DType::f32, Shape{1, kLayerWidth}, 7));

  Result<Plan> plan(bool strip = true, const std::string& name = "layers") {
    BuildOptions options;
    options.strip = strip;
    options.slab_bytes = 256 << 10;
    return build_plan(make_layers(weights, kLayerWidth), folder, name, options);
  }
  WeightSources model(const std::string& name = "layers") const {
    WeightSources sources;
    sources.paths = {folder / (name + ".onnx")};
    return sources;
  }
};

}  // namespace forebay::test
