#include "refit/value_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/half.h"

namespace forebay::refit {
namespace {

// A float is not finite when all its exponent bits are set. Adding the lowest exponent bit to the masked lanes of a word carries into the
// sign place of exactly those lanes, so that four (or two) values are looked at by one operation.
struct Lanes {
  std::uint64_t mask, low, carry;
  std::size_t element;
};

bool lane_rules(DType dtype, Lanes& lanes) {
  switch (dtype) {
    case DType::f16: lanes = {0x7c007c007c007c00u, 0x0400040004000400u, 0x8000800080008000u, 2}; return true;
    case DType::bf16: lanes = {0x7f807f807f807f80u, 0x0080008000800080u, 0x8000800080008000u, 2}; return true;
    case DType::f32: lanes = {0x7f8000007f800000u, 0x0080000000800000u, 0x8000000080000000u, 4}; return true;
    case DType::f64: lanes = {0x7ff0000000000000u, 0x0010000000000000u, 0x8000000000000000u, 8}; return true;
    case DType::f8e5m2: lanes = {0x7c7c7c7c7c7c7c7cu, 0x0404040404040404u, 0x8080808080808080u, 1}; return true;
    case DType::f8e4m3fn: lanes = {0x7f7f7f7f7f7f7f7fu, 0x0101010101010101u, 0x8080808080808080u, 1}; return true;  // NaN only
    default: return false;
  }
}

Found count_equal(std::span<const std::byte> bytes, std::uint8_t value) {
  Found found;
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (static_cast<std::uint8_t>(bytes[i]) == value) found.add({1, i}, 0);
  return found;
}

std::uint64_t hits_in(const std::byte* at, std::size_t bytes, const Lanes& lanes) {
  std::uint64_t word = 0;
  std::memcpy(&word, at, bytes);
  return ((word & lanes.mask) + lanes.low) & lanes.carry;
}

template <typename T>
T load(const std::byte* data, std::size_t i) {
  T value;
  std::memcpy(&value, data + i * sizeof(T), sizeof(T));
  return value;
}

// A long double holds every value of every type that can be cast, 64-bit integers included.
long double value_at(const ConstTensorView& view, std::size_t i) {
  const std::byte* d = view.data;
  switch (view.dtype) {
    case DType::f32: return load<float>(d, i);
    case DType::f64: return load<double>(d, i);
    case DType::f16: return f16_to_f32(load<std::uint16_t>(d, i));
    case DType::bf16: return bf16_to_f32(load<std::uint16_t>(d, i));
    case DType::i8: return load<std::int8_t>(d, i);
    case DType::i16: return load<std::int16_t>(d, i);
    case DType::i32: return load<std::int32_t>(d, i);
    case DType::i64: return static_cast<long double>(load<std::int64_t>(d, i));
    case DType::u8: return load<std::uint8_t>(d, i);
    case DType::u16: return load<std::uint16_t>(d, i);
    case DType::u32: return load<std::uint32_t>(d, i);
    case DType::u64: return static_cast<long double>(load<std::uint64_t>(d, i));
    case DType::f8e4m3fn:
    case DType::f8e4m3fnuz:
    case DType::f8e5m2:
    case DType::f8e5m2fnuz: return f8_to_f32(float8_of(view.dtype), load<std::uint8_t>(d, i));
    default: return 0;
  }
}

bool comparable(DType dtype) { return dtype != DType::boolean && dtype_bits(dtype) >= 8 && dtype != DType::f8e8m0; }

void note(CastLoss& loss, std::size_t i, long double from, long double to, bool float_target) {
  if (!std::isfinite(from)) return;
  if (float_target) {
    // A type that saturates clips instead of giving infinity; rounding alone never loses an eighth of a normal value.
    const bool clipped = std::fabs(to) < std::fabs(from) * 0.8L && std::fabs(from) > 1.0L;
    if (!std::isfinite(to) || clipped) loss.overflow.add({1, i}, 0);
    else if (from != 0 && to == 0) loss.flush.add({1, i}, 0);
  } else if (std::trunc(from) != to) {
    loss.overflow.add({1, i}, 0);
  }
}

// The common casts of floats, without the detour.
template <typename FromBits, typename FromFloat, typename ToFloat>
void scan_halves(CastLoss& loss, const ConstTensorView& from, const ConstTensorView& to, std::size_t count, FromFloat from_float,
                 ToFloat to_float) {
  for (std::size_t i = 0; i < count; ++i) {
    const float a = from_float(load<FromBits>(from.data, i));
    const float b = to_float(load<std::uint16_t>(to.data, i));
    if (std::isfinite(a) && (!std::isfinite(b) || (b == 0.0f && a != 0.0f))) note(loss, i, a, b, true);
  }
}

}  // namespace

Found count_non_finite(DType dtype, std::span<const std::byte> bytes) {
  if (dtype == DType::f8e4m3fnuz || dtype == DType::f8e5m2fnuz) return count_equal(bytes, 0x80);
  if (dtype == DType::f8e8m0) return count_equal(bytes, 0xff);
  Lanes lanes{};
  Found found;
  if (!lane_rules(dtype, lanes)) return found;
  constexpr std::size_t kBlock = 4096;
  for (std::size_t begin = 0; begin < bytes.size(); begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, bytes.size());
    std::uint64_t any = 0;
    std::size_t at = begin;
    for (; at + 8 <= end; at += 8) any |= hits_in(bytes.data() + at, 8, lanes);
    if (at < end) any |= hits_in(bytes.data() + at, end - at, lanes);
    if (any == 0) continue;
    for (at = begin; at + lanes.element <= end; at += lanes.element)
      if ((hits_in(bytes.data() + at, lanes.element, lanes) & (lanes.carry >> (64 - 8 * lanes.element))) != 0)
        found.add({1, at / lanes.element}, 0);
  }
  return found;
}

CastLoss cast_loss(const ConstTensorView& from, const ConstTensorView& to) {
  CastLoss loss;
  if (!comparable(from.dtype) || !comparable(to.dtype)) return loss;
  const auto count = static_cast<std::size_t>(from.shape.elements());
  const auto plain = [](float v) { return v; };
  if (from.dtype == DType::f32 && to.dtype == DType::bf16) {
    scan_halves<float>(loss, from, to, count, plain, bf16_to_f32);
  } else if (from.dtype == DType::f32 && to.dtype == DType::f16) {
    scan_halves<float>(loss, from, to, count, plain, f16_to_f32);
  } else if (from.dtype == DType::bf16 && to.dtype == DType::f16) {
    scan_halves<std::uint16_t>(loss, from, to, count, bf16_to_f32, f16_to_f32);
  } else if (to.dtype != DType::f64 && !((from.dtype == DType::bf16 || from.dtype == DType::f16) && to.dtype == DType::f32)) {
    const bool float_target = dtype_is_float(to.dtype);
    for (std::size_t i = 0; i < count; ++i) note(loss, i, value_at(from, i), value_at(to, i), float_target);
  }
  return loss;
}

std::vector<FiniteScan::Hit> FiniteScan::scan(plan::ChunkId chunk, std::span<const std::byte> raw) const {
  std::vector<Hit> hits;
  const plan::Chunk& c = plan_->chunks[chunk];
  for (std::uint32_t p = c.first_part; p < c.first_part + c.part_count; ++p) {
    const plan::Part& part = plan_->parts[plan_->chunk_parts[p]];
    const DType dtype = plan_->weights[part.weight].dtype;
    if (!dtype_is_float(dtype) || dtype_bits(dtype) < 8) continue;
    Found found =
        count_non_finite(dtype, raw.subspan(static_cast<std::size_t>(part.offset_in_chunk), static_cast<std::size_t>(part.bytes)));
    if (found.count == 0) continue;
    found.first += part.offset_in_weight / static_cast<std::uint64_t>(dtype_bits(dtype) / 8);
    hits.push_back({part.weight, found});
  }
  return hits;
}

void FiniteScan::add(const std::vector<Hit>& hits) {
  for (const Hit& hit : hits) found_[hit.weight].add(hit.found, 0);
}

std::vector<Problem> FiniteScan::problems() const {
  std::vector<Problem> problems;
  for (const auto& [weight, found] : found_) {
    Problem problem;
    problem.code = "non_finite";
    problem.tensor = plan_->weights[weight].name;
    problem.message = std::to_string(found.count) + " values are infinite or NaN, the first at element " + std::to_string(found.first);
    problem.hint = "look at how these weights were made; without --finite this is a warning only";
    problems.push_back(std::move(problem));
  }
  return problems;
}

}  // namespace forebay::refit
