// How weights are stored, and how the rows of x are laid out to meet them.
//
// fp32 and bf16 weights meet fp32 activations. Integer weights meet activations that are rounded to
// 16 bits, with one scale for a token: the products of a group of weights are then summed exactly, in
// integers, at twice the speed of floats and without turning weights into floats.
#pragma once
#include <algorithm>

#include "vec.h"

namespace zaya {

enum Format : int32_t { FP32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };
constexpr int BITS[] = {32, 16, 8, 4};

// Mirrored by `Matrix` in layout.py.
struct Matrix {
  const void* data;
  const uint16_t* scales;  // bfloat16, one per group of a row; null for FP32 and BF16
  int64_t rows;
  int64_t cols;  // a multiple of 32; for INT8 of 64
  int32_t format;
  int32_t group;  // weights that share a scale: 64 for INT8, 32 for INT4

  int64_t row_bytes() const { return cols * BITS[format] / 8; }
};

constexpr int64_t STEP = 32;        // columns of floats that a tile reads at a time
constexpr int64_t BLOCK_COLS = 64;  // and of integers

// Calls work.operator()<I>() for the pieces I of 32 columns.
template <class Work>
INLINE void each_piece(Work work) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (work.template operator()<I>(), ...);
  }(std::make_integer_sequence<int, 2 * PARTS>{});
}

// A row of W; `at<I>(k)` is piece I of the 32 weights from k on, in the order of x's layout.
struct RowFP32 {
  static constexpr int64_t COLS = STEP;
  const float* p;
  RowFP32(const Matrix& w, int64_t row) : p((const float*)w.data + row * w.cols) {}
  explicit RowFP32(const float* p) : p(p) {}
  template <int I> INLINE piece at(int64_t k) const { return load_piece(p + k + I * PIECE); }
};

// The even columns, then the odd ones: one operation each on the pairs as they lie in memory.
struct RowBF16 {
  static constexpr int64_t COLS = STEP;
  const uint16_t* p;
  RowBF16(const Matrix& w, int64_t row) : p((const uint16_t*)w.data + row * w.cols) {}
  template <int I> INLINE piece at(int64_t k) const {
    whole_piece pairs = load_piece((const int32_t*)(p + k) + I % PARTS * PIECE);
    return float_bits(I < PARTS ? pairs << 16 : pairs & int32_t(0xffff0000));
  }
};

// Registers of weights as 16-bit integers, and what the lanes of their sum are multiplied with.
constexpr int SHORTS = 2 * PIECE;
template <int K> struct Weights {
  short_piece of[K];
  piece scale;
};

struct RowINT8 {
  const int8_t* p;
  const uint16_t* scales;
  static constexpr int64_t COLS = BLOCK_COLS;
  // A block comes in so many parts, each of K registers that share their scales.
  static constexpr int PARTS = 1, K = BLOCK_COLS / SHORTS;
  static constexpr bool SHIFTED = false;
  RowINT8(const Matrix& w, int64_t row)
      : p((const int8_t*)w.data + row * w.cols), scales(w.scales + row * (w.cols / BLOCK_COLS)) {}
  template <int> INLINE Weights<K> at(int64_t block, bool) const {
    Weights<K> weights;
    weights.scale = spread_bf16(scales + block);
    UNROLL for (int k = 0; k < K; ++k)
      weights.of[k] = widen_shorts(p + block * BLOCK_COLS + k * SHORTS);
    return weights;
  }
};

// 32 weights in 16 bytes: byte j holds weight j below and weight j + 16 above, both plus 8. Registers
// of 64 bytes take 32 bytes widened, so that a short integer holds two weights; smaller ones take them
// as they are, four weights in a short integer.
struct RowINT4 {
  const uint8_t* p;
  const uint16_t* scales;
  static constexpr int64_t COLS = BLOCK_COLS;
  static constexpr int K = REGISTER_BYTES == 64 ? 2 : 4, PARTS = BLOCK_COLS / (K * SHORTS);
  static constexpr bool SHIFTED = true;
  RowINT4(const Matrix& w, int64_t row)
      : p((const uint8_t*)w.data + row * (w.cols / 2)), scales(w.scales + row * (w.cols / STEP)) {}
  // `half`: only the first 32 columns exist.
  template <int PART> INLINE Weights<K> at(int64_t block, bool half) const {
    const uint8_t* from = p + block * BLOCK_COLS / 2;
    uint8_t some[BLOCK_COLS / 2] = {};
    int32_t pair = 0;
    if (half) from = (const uint8_t*)std::memcpy(some, from, sizeof(some) / 2);
    std::memcpy(&pair, scales + 2 * block, half ? sizeof(pair) / 2 : sizeof(pair));
    Weights<K> weights;
    weights.scale = part_of_scales<PART>(pair);
    short_piece all;
    if constexpr (K == 2) all = widen_shorts(from);
    else all = load_piece((const int16_t*)from + PART * SHORTS);
    UNROLL for (int k = 0; k < K - 1; ++k) weights.of[k] = all >> 4 * k & int16_t(15);
    weights.of[K - 1] = (short_piece)((unsigned_piece)all >> 4 * (K - 1));
    return weights;
  }
  // The first scale in the first half of a block's lanes, the second in the others.
  template <int PART> INLINE static piece part_of_scales(int32_t pair) {
#if REGISTER_BYTES == 64
    const __m512i pick = _mm512_inserti64x4(
        _mm512_set1_epi32(0x0100ffff), _mm256_set1_epi32(0x0302ffff), 1);
    return (piece)_mm512_shuffle_epi8(_mm512_set1_epi32(pair), pick);
#elif defined(__AVX2__)
    const __m256i pick = _mm256_set_m128i(_mm_set1_epi32(0x0302ffff), _mm_set1_epi32(0x0100ffff));
    return (piece)_mm256_shuffle_epi8(_mm256_set1_epi32(pair), pick);
#elif REGISTER_BYTES == 32
    piece both = {};
    UNROLL for (int i = 0; i < PIECE; ++i) both[i] = widen(uint16_t(pair >> (i < PIECE / 2 ? 0 : 16)));
    return both;
#else
    return spread(widen(uint16_t(pair >> 16 * PART)));
#endif
  }
};

// The rows of x as a format wants them. A row begins with its scale, alone on a cache line.
//
// FP32: as they are, not copied. BF16: of every 32 columns the even ones, then the odd ones. INT8:
// 16-bit integers. INT4: 16-bit integers in blocks of 64 columns, in the order of the registers of
// weights, then for each block and lane of their sum what the weights' shift by 8 adds.
struct Layout {
  Format format;
  int64_t cols;

  static constexpr int64_t HEAD = 64;
  static constexpr int64_t SHIFTS = RowINT4::PARTS * PIECE;  // of a block
  int64_t blocks() const { return (cols + BLOCK_COLS - 1) / BLOCK_COLS; }
  int64_t row_bytes() const {
    if (format == FP32) return cols * sizeof(float);
    if (format == BF16) return HEAD + cols * sizeof(float);
    int64_t shifts = format == INT4 ? blocks() * SHIFTS * sizeof(int32_t) : 0;
    return HEAD + blocks() * BLOCK_COLS * sizeof(int16_t) + shifts;
  }

  void fill(const float* x, char* row) const {
    if (format == BF16) split(x, (float*)(row + HEAD));
    else round(x, row);
  }

 private:
  void split(const float* x, float* to) const {
    for (int64_t k = 0; k < cols; k += STEP) {
      v16 a = load(x + k), b = load(x + k + LANES);
      store(to + k, evens(a, b));
      store(to + k + LANES, odds(a, b));
    }
  }

  void round(const float* x, char* row) const {
    v16 tops = {}, wrong = {};
    for (int64_t k = 0; k < cols; k += LANES) {
      v16 a = load(x + k);
      tops = maximum(tops, maximum(a, -a));
      wrong += a * 0.0f;  // not zero when some number is not finite: the scale then says so
    }
    float top = largest(tops), bad = sum(wrong);
    *(float*)row = top / 32767.0f + bad;
    float inverse = top > 0 ? 32767.0f / top : 0.0f;
    auto* to = (int16_t*)(row + HEAD);
    std::fill(to, to + blocks() * BLOCK_COLS, int16_t(0));
    const v16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    for (int64_t k = 0; k < cols; k += LANES) {
      int32_t whole[LANES];
      store(whole, int_bits(load(x + k) * inverse + magic) - int_bits(magic));
      if (format == INT4) place(whole, k % BLOCK_COLS, to + k / BLOCK_COLS * BLOCK_COLS);
      else
        for (int i = 0; i < LANES; ++i) to[k + i] = int16_t(whole[i]);
    }
    if (format == INT4) add_shifts(to, (int32_t*)(to + blocks() * BLOCK_COLS));
  }
  // Sixteen columns from `col` on of a block, which meet the lower or the upper halves of bytes.
  static void place(const int32_t* whole, int64_t col, int16_t* block) {
    const int64_t byte = col / STEP * LANES, upper = col % STEP / LANES;
    if constexpr (RowINT4::K == 2) {
      int16_t* at = block + upper * SHORTS + byte;
      for (int i = 0; i < LANES; ++i) at[i] = int16_t(whole[i]);
    } else {
      constexpr int64_t BYTES = REGISTER_BYTES;
      int16_t* at = block + byte / BYTES * (4 * SHORTS) + upper * SHORTS + byte % BYTES / 2;
      for (int i = 0; i < LANES / 2; ++i) {
        at[i] = int16_t(whole[2 * i]);
        at[2 * SHORTS + i] = int16_t(whole[2 * i + 1]);
      }
    }
  }
  void add_shifts(const int16_t* x, int32_t* shifts) const {
    for (int64_t i = 0; i < blocks() * SHIFTS; ++i) {
      const int16_t* at = x + i / PIECE * (RowINT4::K * SHORTS) + i % PIECE * 2;
      int32_t sum = 0;
      for (int k = 0; k < RowINT4::K; ++k) sum += at[k * SHORTS] + at[k * SHORTS + 1];
      shifts[i] = -8 * sum;
    }
  }
};

// Floats of row `row` in their own order, for looking up an embedding.
inline void read_row(const Matrix& w, int64_t row, float* to) {
  for (int64_t k = 0; k < w.cols; k += LANES) {
    int64_t at = row * w.cols + k;
    if (w.format == FP32) store(to + k, load((const float*)w.data + at));
    if (w.format == BF16) store(to + k, load((const uint16_t*)w.data + at));
    if (w.format < INT8) continue;
    v16 scale = splat(widen(w.scales[at / w.group]));
    i16 whole;
    if (w.format == INT8) whole = widen16((const int8_t*)w.data + at);
    else whole = (widen16((const uint8_t*)w.data + at / STEP * LANES) >> (k % STEP ? 4 : 0) & 15) - 8;
    store(to + k, to_floats(whole) * scale);
  }
}

}  // namespace zaya
