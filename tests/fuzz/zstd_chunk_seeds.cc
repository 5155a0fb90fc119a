#include <cstring>
#include <random>

#include "base/check.h"
#include "codec/chunk_codec.h"
#include "fuzz_seeds.h"

std::vector<std::string> forebay_fuzz_seeds() {
  using namespace forebay;
  std::vector<std::string> seeds;
  codec::ChunkCodec codec;
  std::mt19937_64 random(1);
  for (const std::uint32_t size : {0u, 1u, 100u, 300u, 5'000u, 70'000u, 300'000u}) {
    for (const unsigned values : {1u, 4u, 256u}) {
      std::vector<std::byte> raw(size), stored;
      for (std::byte& b : raw) b = static_cast<std::byte>(random() % values);
      if (size > 50'000 && values == 256) continue;
      FB_CHECK(codec.encode(codec::kZstd, raw, 3, stored).ok());
      std::string seed(4 + stored.size(), '\0');
      std::memcpy(seed.data(), &size, 4);
      std::memcpy(seed.data() + 4, stored.data(), stored.size());
      seeds.push_back(std::move(seed));
    }
  }
  return seeds;
}
