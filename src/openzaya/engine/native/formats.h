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

// A part of 64 weights as 16-bit integers, and what their lanes of a sum are multiplied with.
struct Weights {
  short_piece low, high;
  piece scale;
};

struct RowINT8 {
  const int8_t* p;
  const uint16_t* scales;
  static constexpr int64_t COLS = BLOCK_COLS;
  static constexpr bool SHIFTED = false;
  RowINT8(const Matrix& w, int64_t row)
      : p((const int8_t*)w.data + row * w.cols), scales(w.scales + row * (w.cols / BLOCK_COLS)) {}
  template <int PART> INLINE Weights at(int64_t block, bool) const {
    const int8_t* from = p + block * BLOCK_COLS + PART * 2 * PIECE;
    return {widen_shorts(from), widen_shorts(from + STEP), spread(widen(scales[block]))};
  }
};

// 32 weights in 16 bytes: byte j holds weight j below and weight j + 16 above, both plus 8.
struct RowINT4 {
  const uint8_t* p;
  const uint16_t* scales;
  static constexpr int64_t COLS = BLOCK_COLS;
  static constexpr bool SHIFTED = true;
  RowINT4(const Matrix& w, int64_t row)
      : p((const uint8_t*)w.data + row * (w.cols / 2)), scales(w.scales + row * (w.cols / STEP)) {}
  // `half`: only the first 32 columns exist.
  template <int PART> INLINE Weights at(int64_t block, bool half) const {
    const uint8_t* from = p + block * BLOCK_COLS / 2;
    uint8_t some[BLOCK_COLS / 2] = {};
    uint16_t pair[2] = {};
    if (half) from = (const uint8_t*)std::memcpy(some, from, sizeof(some) / 2);
    std::memcpy(pair, scales + 2 * block, half ? sizeof(pair) / 2 : sizeof(pair));
    short_piece bytes = widen_shorts(from + PART * 2 * PIECE);
    return {bytes & int16_t(15), bytes >> 4, part_of_scales<PART>(pair)};
  }
  // The first scale in lanes 0 to 7 of sixteen, the second in the others.
  template <int PART> INLINE static piece part_of_scales(const uint16_t* pair) {
#if REGISTER_BYTES == 64
    int32_t both;
    std::memcpy(&both, pair, sizeof(both));
    const __m512i pick = _mm512_inserti64x4(
        _mm512_set1_epi32(0x0100ffff), _mm256_set1_epi32(0x0302ffff), 1);
    return (piece)_mm512_shuffle_epi8(_mm512_set1_epi32(both), pick);
#else
    return spread(widen(pair[2 * PART / PARTS]));
#endif
  }
};

// The rows of x as a format wants them. A row begins with its scale, alone on a cache line.
//
// FP32: as they are, not copied. BF16: of every 32 columns the even ones, then the odd ones. INT8:
// 16-bit integers. INT4: 16-bit integers in blocks of 64 columns, the first halves of both groups
// before the second halves, then for each block a vector of what the weights' shift by 8 adds.
struct Layout {
  Format format;
  int64_t cols;

  static constexpr int64_t HEAD = 64;
  int64_t blocks() const { return (cols + BLOCK_COLS - 1) / BLOCK_COLS; }
  int64_t row_bytes() const {
    if (format == FP32) return cols * sizeof(float);
    if (format == BF16) return HEAD + cols * sizeof(float);
    int64_t shifts = format == INT4 ? blocks() * LANES * sizeof(int32_t) : 0;
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
      int16_t* at = to + (format == INT4 ? place(k) : k);
      for (int i = 0; i < LANES; ++i) at[i] = int16_t(whole[i]);
    }
    if (format != INT4) return;
    auto* shifts = (int32_t*)(to + blocks() * BLOCK_COLS);
    for (int64_t block = 0; block < blocks(); ++block, to += BLOCK_COLS, shifts += LANES)
      for (int i = 0; i < LANES; ++i)
        shifts[i] = -8 * (to[2 * i] + to[2 * i + 1] + to[STEP + 2 * i] + to[STEP + 2 * i + 1]);
  }
  // Sixteen columns from k on: quarters 0 1 2 3 of a block lie in the order 0 2 1 3.
  static int64_t place(int64_t k) {
    int64_t quarter = k % BLOCK_COLS / LANES;
    return k - k % BLOCK_COLS + (quarter == 1 ? 2 : quarter == 2 ? 1 : quarter) * LANES;
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
