// Products of matrices in half precision (fp16), where the processor computes in it.
//
// In fp16 are sums of SHORT products and of the DEPTH / SHORT of them that follow one another; the rest
// is summed in fp32, and a result is rounded once.
#pragma once
#include "vec.h"

// How many the processor's own vector holds; not defined where it cannot compute with them.
#if defined(__AVX512FP16__)
#define HALVES 32
#elif defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#define HALVES 8
#endif

#if defined(HALVES)
namespace zaya {

typedef _Float16 half;
typedef half halves __attribute__((vector_size(2 * HALVES), aligned(2)));
typedef half h16 __attribute__((vector_size(32), aligned(2)));

// The sums of a tile fill the registers but for a row of the right factor and a spread number.
constexpr int PANEL = 64, SHORT = 16, DEPTH = 64;
constexpr int64_t CACHED_ROWS = 4096;  // of a panel, 128 bytes each
constexpr int ROWS = HALVES == 32 ? 12 : 6, TILE = HALVES == 32 ? 64 : 32;

#if HALVES == 32
INLINE v16 load(const half* p) { return (v16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
// A number of the left factor stands there twice: four bytes are spread by the load itself, two would
// take the port of half of the products.
typedef uint32_t left;
INLINE halves spread(left x) {
  typedef uint32_t words __attribute__((vector_size(64)));
  return (halves)(x - words{});
}
INLINE void put_left(const half* x, left* out) {
  for (int i = 0; i < DEPTH; i += LANES) {
    const i16 wide = widen16((const uint16_t*)x + i);
    *(i16*)(out + i) = wide | wide << 16;
  }
}
#else
INLINE v16 load(const half* p) { return __builtin_convertvector(*(const h16*)p, v16); }
typedef half left;
INLINE halves spread(left x) { return x - halves{}; }
INLINE void put_left(const half* x, left* out) { std::memcpy(out, x, DEPTH * sizeof(half)); }
#endif
INLINE void store(half* p, v16 x) { *(h16*)p = __builtin_convertvector(x, h16); }

// A matrix in panels of 64 columns, each with its rows one after the other: what a product reads lies
// in one piece, without strides of powers of two. Rows and columns are filled up to whole 64s with
// numbers that no product lets into the others.
struct Panels {
  half* at;
  int64_t rows;  // with those that fill up
  INLINE half* row(int64_t r, int64_t panel) const { return at + (panel * rows + r) * PANEL; }
};
INLINE int64_t whole(int64_t count) { return (count + PANEL - 1) / PANEL * PANEL; }

// sums [ROWS][COLUMNS] (+)= a [ROWS][steps] b [steps][COLUMNS]; steps <= DEPTH.
template <int COLUMNS>
INLINE void add_tile(const left* a, const half* b, int steps, bool is_first, float* sums) {
  constexpr int VECTORS = COLUMNS / HALVES;
  alignas(64) half narrow[ROWS][COLUMNS];
  for (int start = 0; start < steps; start += SHORT) {
    halves x[ROWS][VECTORS] = {};
    const int stop = steps - start < SHORT ? steps : start + SHORT;
    for (int k = start; k < stop; ++k) {
      halves right[VECTORS];
      UNROLL for (int i = 0; i < VECTORS; ++i)
        right[i] = *(const halves*)(b + k * PANEL + i * HALVES);
      UNROLL for (int r = 0; r < ROWS; ++r) {
        const halves number = spread(a[r * DEPTH + k]);
        UNROLL for (int i = 0; i < VECTORS; ++i) x[r][i] += number * right[i];
      }
    }
    UNROLL for (int r = 0; r < ROWS; ++r)
      UNROLL for (int i = 0; i < VECTORS; ++i) {
        halves* at = (halves*)(narrow[r] + i * HALVES);
        *at = start ? *at + x[r][i] : x[r][i];
      }
  }
  for (int r = 0; r < ROWS; ++r)
    UNROLL for (int i = 0; i < COLUMNS; i += LANES) {
      float* at = sums + r * PANEL + i;
      const v16 sum = load(narrow[r] + i);
      store(at, is_first ? sum : load(at) + sum);
    }
}

template <int COLUMNS> INLINE void sum_tile(const left* a, const half* b, int64_t depth, float* sums) {
  for (int64_t k = 0; k < depth; k += DEPTH)
    add_tile<COLUMNS>(a + k * ROWS, b + k * PANEL, int(depth - k < DEPTH ? depth - k : DEPTH), k == 0,
                      sums);
}

// Calls finish(row, panel, sums) for each row of a b and each panel of its columns, of a symmetric
// product only up to the diagonal. `room` is for ROWS rows of a.
template <class Finish>
void multiply(Panels a, Panels b, int64_t rows, int64_t columns, int64_t depth, bool is_symmetric,
              left* room, Finish finish) {
  alignas(64) float sums[ROWS * PANEL] = {};
  // As many panels of b at a time as the second-level cache keeps for all rows of a.
  const int64_t group = CACHED_ROWS / (depth + 1) + 1;
  for (int64_t start = 0; start * PANEL < columns; start += group)
    for (int64_t row = 0; row < rows; row += ROWS) {
      const int64_t stop = row + ROWS < rows ? row + ROWS : rows;
      const int64_t width = is_symmetric ? stop : columns;
      if (start * PANEL >= width) continue;
      // The last rows are computed with some before them, which are not finished again.
      const int64_t first = rows > ROWS ? stop - ROWS : 0;
      for (int64_t k = 0; k < depth; k += DEPTH)
        for (int r = 0; r < ROWS; ++r)
          put_left(a.row(first + r, k / PANEL) + k % PANEL, room + k * ROWS + r * DEPTH);
      for (int64_t panel = start; panel < start + group && panel * PANEL < width; ++panel) {
        const half* right = b.row(0, panel);
        for (int64_t c = 0; c < PANEL && panel * PANEL + c < width; c += TILE)
          if (TILE > 32 && width - panel * PANEL <= 32)
            sum_tile<32>(room, right, depth, sums);
          else
            sum_tile<TILE>(room, right + c, depth, sums + c);
        for (int64_t r = row; r < stop; ++r) finish(r, panel, sums + (r - first) * PANEL);
      }
    }
}

// Rows of 8 x 8 numbers become columns: each level deals out two rows alternately.
INLINE void turn8(const half* from, half* to) {
  typedef int16_t eight __attribute__((vector_size(16), aligned(2)));
  eight x[8], y[8];
  UNROLL for (int i = 0; i < 8; ++i) x[i] = *(const eight*)(from + i * PANEL);
  UNROLL for (int level = 0; level < 3; ++level) {
    UNROLL for (int i = 0; i < 4; ++i) {
      y[2 * i] = __builtin_shufflevector(x[i], x[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    UNROLL for (int i = 0; i < 8; ++i) x[i] = y[i];
  }
  UNROLL for (int i = 0; i < 8; ++i) *(eight*)(to + i * PANEL) = x[i];
}

// Block (row, column) of `to`, counted in 64s, is block (column, row) of `from`, turned; all of it or
// only what is above the diagonal.
inline void turn_block(Panels from, Panels to, int64_t row, int64_t column, bool above_only) {
  for (int64_t r = 0; r < PANEL; r += 8)
    for (int64_t c = above_only ? r + 8 : 0; c < PANEL; c += 8)
      turn8(from.row(column * PANEL + c, row) + r, to.row(row * PANEL + r, column) + c);
}

// to [columns][rows] = from [rows][columns], turned.
inline void turn(Panels from, Panels to, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r * PANEL < columns; ++r)
    for (int64_t c = 0; c * PANEL < rows; ++c) turn_block(from, to, r, c, false);
}

// Fills in what a symmetric product has left out.
inline void mirror(Panels x, int64_t size) {
  for (int64_t r = 0; r * PANEL < size; ++r)
    for (int64_t c = r; c * PANEL < size; ++c) turn_block(x, x, r, c, c == r);
}

}  // namespace zaya
#endif
