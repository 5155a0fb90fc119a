#include "base/digest.h"

#include <openssl/evp.h>
#include <xxhash.h>
#ifdef FOREBAY_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>  // the widest instructions of this machine: over twice the bytes a second
#endif

#include <new>

#include "base/check.h"

namespace forebay {
namespace {

Xxh128 from_library(XXH128_hash_t hash) { return {.low = hash.low64, .high = hash.high64}; }

void append_hex(std::string& text, std::uint8_t byte) {
  static constexpr char kDigits[] = "0123456789abcdef";
  text += kDigits[byte >> 4];
  text += kDigits[byte & 15];
}

}  // namespace

Xxh128 xxh128(std::span<const std::byte> bytes) { return from_library(XXH3_128bits(bytes.data(), bytes.size())); }

Sha256 sha256(std::span<const std::byte> bytes) {
  Sha256Stream stream;
  stream.update(bytes);
  return stream.finish();
}

std::string to_hex(const Sha256& digest) {
  std::string text;
  for (const std::uint8_t byte : digest) append_hex(text, byte);
  return text;
}

// Most significant byte first: the form xxhsum prints.
std::string to_hex(const Xxh128& digest) {
  std::string text;
  for (const std::uint64_t half : {digest.high, digest.low}) {
    for (int shift = 56; shift >= 0; shift -= 8) append_hex(text, static_cast<std::uint8_t>(half >> shift));
  }
  return text;
}

struct Xxh128Stream::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() {
    FB_CHECK(xxh != nullptr);
    XXH3_128bits_reset(xxh);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { XXH3_freeState(xxh); }
};

Xxh128Stream::Xxh128Stream() : state_(std::make_unique<State>()) {}
Xxh128Stream::~Xxh128Stream() = default;
void Xxh128Stream::update(std::span<const std::byte> bytes) { XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size()); }
Xxh128 Xxh128Stream::finish() {
  const Xxh128 digest = from_library(XXH3_128bits_digest(state_->xxh));
  XXH3_128bits_reset(state_->xxh);
  return digest;
}

struct Sha256Stream::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  State() {
    if (context == nullptr) throw std::bad_alloc();
    start();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { EVP_MD_CTX_free(context); }
  // It fails for lack of memory only.
  void start() const {
    if (EVP_DigestInit_ex(context, EVP_sha256(), nullptr) != 1) throw std::bad_alloc();
  }
};

Sha256Stream::Sha256Stream() : state_(std::make_unique<State>()) {}
Sha256Stream::~Sha256Stream() = default;
void Sha256Stream::update(std::span<const std::byte> bytes) {
  FB_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}
Sha256 Sha256Stream::finish() {
  Sha256 digest{};
  unsigned size = 0;
  FB_CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), &size) == 1 && size == digest.size());
  state_->start();
  return digest;
}

}  // namespace forebay
