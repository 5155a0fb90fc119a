// A counter-based generator of our own, for the random operators and Dropout: word i of a node is mix(mix(seed) + i * 0x9e3779b97f4a7c15),
// mix being two rounds of xor-shift and multiply and a last xor-shift. So a value depends on the seed and its position only: same bits on
// every machine, with any number of threads, in every pass. The seed is the attribute's bits, or where there is none a hash of the node's
// name. Uniform: the top 24 bits as a fraction (53 for f64). Normal: Box-Muller in double over words 2i and 2i + 1, its cosine branch.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "runtime/op.h"

namespace forebay::ops {

inline std::uint64_t random_mix(std::uint64_t x) {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  x = (x ^ (x >> 29)) * 0xa0761d6478bd642fu;
  return x ^ (x >> 32);
}

class Generator {
 public:
  explicit Generator(std::uint64_t seed = 0) : key_(random_mix(seed + 0x2545f4914f6cdd1du)) {}
  std::uint64_t word(std::int64_t i) const { return random_mix(key_ + static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u); }
  double unit24(std::int64_t i) const { return static_cast<double>(word(i) >> 40) * 0x1p-24; }  // [0, 1)
  double unit53(std::int64_t i) const { return static_cast<double>(word(i) >> 11) * 0x1p-53; }
  double normal(std::int64_t i) const {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - unit53(2 * i)));
    return radius * std::cos(6.283185307179586477 * unit53(2 * i + 1));
  }

 private:
  std::uint64_t key_;
};

inline Generator generator_of(const NodeView& node) {
  if (node.has("seed")) return Generator(std::bit_cast<std::uint32_t>(node.real("seed", 0.0f)));
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : node.name()) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return Generator(hash);
}

}  // namespace forebay::ops
