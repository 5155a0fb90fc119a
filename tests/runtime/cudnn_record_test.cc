// What a plan records of cuDNN's engines, which convolutions are given to it, and a build without its header. Needs no GPU.
#include <gtest/gtest.h>

#include "runtime/cuda/cudnn_conv.h"

namespace forebay::cuda {
namespace {

TEST(CudnnRecord, OnlyThisVersionsConfigsHaveAWorkspace) {
  EXPECT_EQ(cudnn_workspace("91002", "v91002 engine=12 k2=3 k17=1 workspace=4096"), std::uint64_t{4096});
  EXPECT_EQ(cudnn_workspace("91002", "v91002 engine=0 workspace=0"), std::uint64_t{0});
  for (const char* config :
       {"", "nonsense", "v91002", "v91002 engine=12", "v91002 engine=12 workspace=", "v91002 engine=12 workspace=-1",
        "v91002 engine=12 workspace=12 k2=3", "v91002 engine=12 workspace=1x", "v9100 engine=12 workspace=12",
        "v910020 engine=12 workspace=12", "v91002 engine=12 workspace=99999999999999999999999", "v91002 engine=12 workspace=67108865"})
    EXPECT_EQ(cudnn_workspace("91002", config), std::nullopt) << config;
  EXPECT_EQ(cudnn_workspace("91002", "v91002 engine=12 workspace=67108864"), kMostCudnnWorkspace);
}

TEST(CudnnRecord, WithoutTheLibraryNothingIsServed) {
  EXPECT_EQ(cudnn_version(), "");
  EXPECT_EQ(cudnn_workspace(cudnn_version(), "v engine=12 workspace=0"), std::nullopt);
  CudnnShape shape;
  shape.channels = shape.filters = 64;
  CudaState state;
  EXPECT_TRUE(cudnn_configs(shape, state).empty());
  EXPECT_EQ(make_cudnn_conv(shape, nullptr, "v91002 engine=12 workspace=0"), nullptr);
}

// The same with and without the library: a problem's name hangs on it.
TEST(CudnnRecord, ActivationsAndChannelsDecideWhatHasAGraph) {
  CudnnShape shape;
  shape.groups = 1;
  shape.channels = shape.filters = 64;
  for (const Activation has : {Activation::none, Activation::relu, Activation::clip, Activation::swish, Activation::gelu}) {
    shape.activation = has;
    EXPECT_TRUE(cudnn_describes(shape)) << static_cast<int>(has);
  }
  for (const Activation none : {Activation::hard_swish, Activation::hard_sigmoid, Activation::mish}) {
    shape.activation = none;
    EXPECT_FALSE(cudnn_describes(shape)) << static_cast<int>(none);
  }
  shape.activation = Activation::none;
  for (const auto& [groups, channels, filters, served] :
       {std::tuple{1, 4, 64, true}, std::tuple{2, 4, 64, false}, std::tuple{1, 3, 64, false}, std::tuple{1, 12, 64, false},
        std::tuple{1, 64, 10, false}, std::tuple{4, 16, 32, true}}) {
    shape.groups = groups;
    shape.channels = channels;
    shape.filters = filters;
    EXPECT_EQ(cudnn_describes(shape), served) << groups << " " << channels << " " << filters;
  }
}

}  // namespace
}  // namespace forebay::cuda
