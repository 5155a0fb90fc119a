// XXH3-128 (speed, per chunk) and SHA-256 (identity, through OpenSSL EVP).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace forebay {

struct Xxh128 {
  std::uint64_t low = 0, high = 0;
  friend bool operator==(const Xxh128&, const Xxh128&) = default;
};
using Sha256 = std::array<std::uint8_t, 32>;

Xxh128 xxh128(std::span<const std::byte> bytes);
Sha256 sha256(std::span<const std::byte> bytes);
std::string to_hex(const Sha256& digest);
std::string to_hex(const Xxh128& digest);

class Xxh128Stream {
 public:
  Xxh128Stream();
  ~Xxh128Stream();
  void update(std::span<const std::byte> bytes);
  Xxh128 finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  void update(std::span<const std::byte> bytes);
  Sha256 finish();  // and starts anew

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace forebay
