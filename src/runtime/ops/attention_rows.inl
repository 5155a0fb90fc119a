// Included once for each instruction set, with FB_LANES floats in a vector. Every sum has one fixed order for an instruction set.
constexpr int kLanes = FB_LANES;
typedef float Vec __attribute__((vector_size(FB_LANES * 4)));
typedef std::int32_t Index __attribute__((vector_size(FB_LANES * 4)));

FB_ATTENTION_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
FB_ATTENTION_INLINE Vec load_part(const float* p, std::int64_t count) {
  Vec v = {};
  __builtin_memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(float));
  return v;
}
FB_ATTENTION_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

// Lanes with bit D set come from b, the others from a; each plus its partner D lanes away.
template <int D>
FB_ATTENTION_INLINE Vec pair_sum(Vec a, Vec b) {
  Index straight, crossed;
  for (int i = 0; i < kLanes; ++i) {
    const int from = (i & D) != 0 ? kLanes : 0;
    straight[i] = from + i;
    crossed[i] = from + (i ^ D);
  }
  return __builtin_shuffle(a, b, straight) + __builtin_shuffle(a, b, crossed);
}

// Lane i of the result is the sum of all lanes of sums[i].
FB_ATTENTION_INLINE Vec transposed_sum(Vec* sums) {
  for (int i = 0; i < kLanes; i += 2) sums[i / 2] = pair_sum<1>(sums[i], sums[i + 1]);
  for (int i = 0; i < kLanes / 2; i += 2) sums[i / 2] = pair_sum<2>(sums[i], sums[i + 1]);
#if FB_LANES >= 8
  for (int i = 0; i < kLanes / 4; i += 2) sums[i / 2] = pair_sum<4>(sums[i], sums[i + 1]);
#endif
#if FB_LANES >= 16
  for (int i = 0; i < kLanes / 8; i += 2) sums[i / 2] = pair_sum<8>(sums[i], sums[i + 1]);
#endif
  return sums[0];
}

// kLanes keys at a time: each has a vector of partial sums. Beyond the last key the last one is read again.
inline void scores(const AttentionRows& task) {
  for (std::int64_t j = 0; j < task.count; j += kLanes) {
    const float* keys[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const std::int64_t at = j + i < task.count ? j + i : task.count - 1;
      keys[i] = task.right + at * task.right_stride;
    }
    for (std::int64_t r = 0; r < task.rows; ++r) {
      const float* q = task.left + r * task.left_stride;
      Vec sums[kLanes] = {};
      std::int64_t e = 0;
      for (; e + kLanes <= task.width; e += kLanes) {
        const Vec x = load(q + e);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) sums[i] += x * load(keys[i] + e);
      }
      if (e < task.width) {
        const Vec x = load_part(q + e, task.width - e);
        for (int i = 0; i < kLanes; ++i) sums[i] += x * load_part(keys[i] + e, task.width - e);
      }
      const Vec total = transposed_sum(sums);
      float* out = task.out + r * task.out_stride + j;
      if (j + kLanes <= task.count) {
        store(out, total);
      } else {
        __builtin_memcpy(out, &total, static_cast<std::size_t>(task.count - j) * sizeof(float));
      }
    }
  }
}

// `kVectors` vectors of kRows output rows stay in registers over all values.
template <int kRows, int kVectors>
FB_ATTENTION_INLINE void mix_block(const AttentionRows& task, std::int64_t row, std::int64_t e) {
  Vec sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) sums[r][i] = load(task.out + (row + r) * task.out_stride + e + i * kLanes);
  }
  const float* weights = task.left + row * task.left_stride;
  for (std::int64_t j = 0; j < task.count; ++j) {
    const float* value = task.right + j * task.right_stride + e;
    for (int i = 0; i < kVectors; ++i) {
      const Vec v = load(value + i * kLanes);
      for (int r = 0; r < kRows; ++r) sums[r][i] += weights[r * task.left_stride + j] * v;
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) store(task.out + (row + r) * task.out_stride + e + i * kLanes, sums[r][i]);
  }
}

template <int kRows>
FB_ATTENTION_INLINE void mix_rows(const AttentionRows& task, std::int64_t row) {
  std::int64_t e = 0;
  for (; e + 4 * kLanes <= task.width; e += 4 * kLanes) mix_block<kRows, 4>(task, row, e);
  for (; e + kLanes <= task.width; e += kLanes) mix_block<kRows, 1>(task, row, e);
  for (; e < task.width; ++e) {
    for (int r = 0; r < kRows; ++r) {
      float sum = task.out[(row + r) * task.out_stride + e];
      const float* weights = task.left + (row + r) * task.left_stride;
      for (std::int64_t j = 0; j < task.count; ++j) sum += weights[j] * task.right[j * task.right_stride + e];
      task.out[(row + r) * task.out_stride + e] = sum;
    }
  }
}

inline void mix(const AttentionRows& task) {
  std::int64_t row = 0;
  for (; row + 2 <= task.rows; row += 2) mix_rows<2>(task, row);
  if (row < task.rows) mix_rows<1>(task, row);
}

inline float bias(float* x, const float* added, float scale, std::int64_t count) {
  Vec most;
  for (int i = 0; i < kLanes; ++i) most[i] = -__builtin_inff();
  std::int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    Vec value = load(x + j) * scale;
    if (added != nullptr) value += load(added + j);
    store(x + j, value);
    most = value > most ? value : most;
  }
  float largest = -__builtin_inff();
  for (int i = 0; i < kLanes; ++i) largest = most[i] > largest ? most[i] : largest;
  for (; j < count; ++j) {
    x[j] = x[j] * scale + (added != nullptr ? added[j] : 0.0f);
    largest = x[j] > largest ? x[j] : largest;
  }
  return largest;
}

constexpr AttentionLoops kLoops = {scores, mix, bias};
