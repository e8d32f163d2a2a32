// Products of matrices small enough for the first-level cache, summed in registers.
#pragma once
#include <cstdlib>
#include <memory>

#include "vec.h"

namespace zaya {

// Rows and pieces of a tile whose sums fill the registers.
#if REGISTER_BYTES == 64
constexpr int TILE_ROWS = 8, TILE_PIECES = 2;
#elif REGISTER_BYTES == 32
constexpr int TILE_ROWS = 6, TILE_PIECES = 2;
#else
constexpr int TILE_ROWS = 4, TILE_PIECES = 4;
#endif
constexpr int TILE_COLUMNS = TILE_PIECES * PIECE;

// Numbers that begin with a cache line, freed at the end of the block.
struct Scratch {
  explicit Scratch(int64_t count)
      : data(static_cast<float*>(std::aligned_alloc(64, size_t(count + LANES) / LANES * 64)),
             &std::free) {}
  operator float*() const { return data.get(); }
  std::unique_ptr<float, void (*)(void*)> data;
};

// A matrix of rows `stride` numbers apart. A left factor may be read TURNED: element (r, k) is then at
// [k][r], which costs nothing, as it is a single number spread over a vector either way.
struct Rows {
  const float* at;
  int64_t stride;
};

template <int ROWS, int PIECES, bool TURNED, bool ADD>
INLINE void multiply_tile(Rows a, Rows b, float* c, int64_t c_stride, int steps) {
  piece sums[ROWS][PIECES] = {};
  for (int k = 0; k < steps; ++k) {
    piece right[PIECES];
    UNROLL for (int i = 0; i < PIECES; ++i) right[i] = keep(load_piece(b.at + k * b.stride + i * PIECE));
    UNROLL for (int r = 0; r < ROWS; ++r) {
      const piece left = spread(TURNED ? a.at[k * a.stride + r] : a.at[r * a.stride + k]);
      UNROLL for (int i = 0; i < PIECES; ++i) sums[r][i] = add_product(sums[r][i], left, right[i]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; ++r)
    UNROLL for (int i = 0; i < PIECES; ++i) {
      // Added as a whole: the sum over a long document is one of short sums, with their small errors.
      float* at = c + r * c_stride + i * PIECE;
      store_piece(at, ADD ? load_piece(at) + sums[r][i] : sums[r][i]);
    }
}

template <int ROWS, int PIECES, bool TURNED, bool ADD>
void multiply_rows(Rows a, Rows b, float* c, int64_t c_stride, int rows, int steps) {
  for (; rows >= ROWS; rows -= ROWS) {
    multiply_tile<ROWS, PIECES, TURNED, ADD>(a, b, c, c_stride, steps);
    a.at += TURNED ? ROWS : ROWS * a.stride;
    c += ROWS * c_stride;
  }
  if constexpr (ROWS > 1)
    if (rows) multiply_rows<ROWS / 2, PIECES, TURNED, ADD>(a, b, c, c_stride, rows, steps);
}

// c [rows][columns] = (or += if ADD) a [rows][steps] b [steps][columns], columns a multiple of LANES.
template <bool TURNED, bool ADD>
INLINE void multiply(Rows a, Rows b, float* c, int64_t c_stride, int rows, int columns, int steps) {
  int n = 0;
  for (; n + TILE_COLUMNS <= columns; n += TILE_COLUMNS)
    multiply_rows<TILE_ROWS, TILE_PIECES, TURNED, ADD>(a, {b.at + n, b.stride}, c + n, c_stride, rows,
                                                       steps);
  if constexpr (TILE_COLUMNS > LANES)
    if (n < columns)
      multiply_rows<TILE_ROWS, 1, TURNED, ADD>(a, {b.at + n, b.stride}, c + n, c_stride, rows, steps);
}

// Row i of sixteen becomes column i: each level deals the even and the odd elements to two halves.
INLINE void turn16(v16* x) {
  v16 y[LANES];
  UNROLL for (int level = 0; level < 4; ++level) {
    UNROLL for (int i = 0; i < LANES / 2; ++i) {
      y[i] = evens(x[2 * i], x[2 * i + 1]);
      y[i + LANES / 2] = odds(x[2 * i], x[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < LANES; ++i) x[i] = y[i];
  }
}

}  // namespace zaya
