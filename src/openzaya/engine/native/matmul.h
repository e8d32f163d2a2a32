// y = x W^T for few or many rows of x, W stored row by row in any of four formats.
//
// A row of W is read once per call for up to six rows of x, and turned into floats on the way, so
// that one token costs the bytes of the weights and nothing else. All formats are exact in fp32
// (a scale has 8 significant bits, a quantised weight at most 8), so a quantised matrix gives the
// very numbers of its dequantised copy.
#pragma once
#include <algorithm>

#include "pool.h"
#include "vec.h"

namespace zaya {

enum Format : int32_t { FP32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };
constexpr int BITS[] = {32, 16, 8, 4};

// Mirrored by `Matrix` in weights.py.
struct Matrix {
  const void* data;
  const uint16_t* scales;  // bfloat16, one per group of a row; null for FP32 and BF16
  int64_t rows;
  int64_t cols;  // a multiple of 32
  int32_t format;
  int32_t group;  // weights that share a scale
};

constexpr int64_t STEP = 32;  // columns read at a time

// A row of W; `at<0>(k)` are weights k to k + 15 as floats, `at<1>(k)` the 16 behind them.
struct RowFP32 {
  const float* p;
  RowFP32(const Matrix& w, int64_t row) : p((const float*)w.data + row * w.cols) {}
  explicit RowFP32(const float* p) : p(p) {}
  template <int HALF> INLINE v16 at(int64_t k) const { return load(p + k + HALF * LANES); }
};

struct RowBF16 {
  const uint16_t* p;
  RowBF16(const Matrix& w, int64_t row) : p((const uint16_t*)w.data + row * w.cols) {}
  template <int HALF> INLINE v16 at(int64_t k) const { return load(p + k + HALF * LANES); }
};

struct RowINT8 {
  const int8_t* p;
  const uint16_t* scales;
  int shift;
  RowINT8(const Matrix& w, int64_t row)
      : p((const int8_t*)w.data + row * w.cols),
        scales(w.scales + row * (w.cols / w.group)),
        shift(__builtin_ctz(w.group)) {}
  template <int HALF> INLINE v16 at(int64_t k) const {
    v16 weights = __builtin_convertvector(widen16(p + k + HALF * LANES), v16);
    return weights * widen(scales[k >> shift]);
  }
};

// 32 weights in 16 bytes: byte j holds weight j below and weight j + 16 above, both plus 8.
struct RowINT4 {
  const uint8_t* p;
  const uint16_t* scales;
  int shift;
  RowINT4(const Matrix& w, int64_t row)
      : p((const uint8_t*)w.data + row * (w.cols / 2)),
        scales(w.scales + row * (w.cols / w.group)),
        shift(__builtin_ctz(w.group)) {}
  template <int HALF> INLINE v16 at(int64_t k) const {
    const v16 table = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    i16 bytes = widen16(p + k / 2);
    return pick(table * widen(scales[k >> shift]), HALF ? bytes >> 4 : bytes);
  }
};

// Weights that will be needed soon, fetched a few cache lines per step while others are multiplied.
// Without this, a pass over many tokens computes and waits for memory in turns.
struct Ahead {
  const char* at;
  int lines;  // per step of 32 columns
};
constexpr int64_t LINE = 64;

template <int HALF, int N, int M, class Row>
INLINE void step(const Row* w, const float* x, int64_t x_stride, int64_t k, v16 (&sums)[M][N]) {
  v16 weights[N];
  for (int n = 0; n < N; ++n) weights[n] = w[n].template at<HALF>(k);
  for (int m = 0; m < M; ++m) {
    v16 a = load(x + m * x_stride + k + HALF * LANES);
    for (int n = 0; n < N; ++n) sums[m][n] += weights[n] * a;
  }
}

// Dot products of N rows of W with M rows of x, all sums in registers.
template <int N, int M, class Row>
INLINE void tile(const Row* w, const float* x, int64_t x_stride, int64_t cols, float* y,
                 int64_t y_stride, Ahead& ahead) {
  v16 sums[M][N] = {};
  for (int64_t k = 0; k < cols; k += STEP) {
    for (int i = 0; i < ahead.lines; ++i, ahead.at += LINE) __builtin_prefetch(ahead.at, 0, 2);
    step<0>(w, x, x_stride, k, sums);
    step<1>(w, x, x_stride, k, sums);
  }
  for (int m = 0; m < M; ++m) {
    float* to = y + m * y_stride;
    int n = 0;
    for (; n + 4 <= N; n += 4) *(v4u*)(to + n) = sum4(sums[m] + n);
    for (; n < N; ++n) to[n] = sum(sums[m][n]);
  }
}

#if defined(__AVX512F__)
constexpr int TILE_N = 4, TILE_M = 6, TALL_N = 8;
#else
constexpr int TILE_N = 2, TILE_M = 2, TALL_N = 4;
#endif
constexpr int64_t PANEL = 32;      // rows of W that one piece of work covers at least
constexpr int64_t UNPACK_ROWS = 9; // from so many rows of x on, W is turned into floats once

template <int N, class Row>
INLINE void tile_any(int m, const Row* w, const float* x, int64_t x_stride, int64_t cols, float* y,
                     int64_t y_stride, Ahead& ahead) {
  switch (m) {
    case 1: return tile<N, 1>(w, x, x_stride, cols, y, y_stride, ahead);
    case 2: return tile<N, 2>(w, x, x_stride, cols, y, y_stride, ahead);
#if defined(__AVX512F__)
    case 3: return tile<N, 3>(w, x, x_stride, cols, y, y_stride, ahead);
    case 4: return tile<N, 4>(w, x, x_stride, cols, y, y_stride, ahead);
    case 5: return tile<N, 5>(w, x, x_stride, cols, y, y_stride, ahead);
    case 6: return tile<N, 6>(w, x, x_stride, cols, y, y_stride, ahead);
#endif
  }
}

// Rows [first, last) of W against m rows of x; `y` is column 0 of the result. `after` is where the
// weights go on behind `last`, each row `row_bytes` long.
template <class MakeRow>
INLINE void rows_times(MakeRow make, int64_t first, int64_t last, const float* x, int64_t x_stride,
                       int64_t m, int64_t cols, float* y, int64_t y_stride, const char* after,
                       int64_t row_bytes) {
  using Row = decltype(make(int64_t(0)));
  int64_t tile_rows = m <= 2 ? TALL_N : TILE_N;
  int64_t tiles = (m + TILE_M - 1) / TILE_M * ((last - first + tile_rows - 1) / tile_rows);
  int64_t steps = tiles * (cols / STEP) * LINE;
  Ahead ahead{after, int(((last - first) * row_bytes + steps - 1) / steps)};
  int64_t n = first;
  if (m <= 2) {
    for (; n + TALL_N <= last; n += TALL_N) {
      Row w[TALL_N] = {make(n), make(n + 1), make(n + 2), make(n + 3),
#if defined(__AVX512F__)
                       make(n + 4), make(n + 5), make(n + 6), make(n + 7)
#endif
      };
      if (m == 1) tile<TALL_N, 1>(w, x, x_stride, cols, y + n, y_stride, ahead);
      else tile<TALL_N, 2>(w, x, x_stride, cols, y + n, y_stride, ahead);
    }
  }
  for (int64_t done = 0; done < m && n < last; done += TILE_M) {
    int take = int(std::min<int64_t>(TILE_M, m - done));
    const float* xs = x + done * x_stride;
    float* ys = y + done * y_stride;
    int64_t at = n;
    for (; at + TILE_N <= last; at += TILE_N) {
      Row w[TILE_N] = {make(at), make(at + 1),
#if defined(__AVX512F__)
                       make(at + 2), make(at + 3)
#endif
      };
      tile_any<TILE_N>(take, w, xs, x_stride, cols, ys + at, y_stride, ahead);
    }
    for (; at < last; ++at) {
      Row w[1] = {make(at)};
      tile_any<1>(take, w, xs, x_stride, cols, ys + at, y_stride, ahead);
    }
  }
}

template <class Row>
INLINE void unpack(const Matrix& w, int64_t first, int64_t last, float* scratch) {
  for (int64_t n = first; n < last; ++n) {
    Row row(w, n);
    float* to = scratch + (n - first) * w.cols;
    for (int64_t k = 0; k < w.cols; k += STEP) {
      store(to + k, row.template at<0>(k));
      store(to + k + LANES, row.template at<1>(k));
    }
  }
}

template <class Row>
void times_as(const Matrix& w, int64_t first, int64_t last, const float* x, int64_t x_stride,
              int64_t m, float* y, int64_t y_stride, float* scratch) {
  int64_t row_bytes = w.cols * BITS[w.format] / 8;
  bool unpacked = w.format != FP32 && m >= UNPACK_ROWS;
  // In panels that stay in the second-level cache while the rows of x pass by.
  for (int64_t n = first; n < last; n += PANEL) {
    int64_t end = std::min(n + PANEL, last);
    // Behind a piece comes the next one, of this thread or of another one with the same cache.
    const char* after = (const char*)w.data + end * row_bytes;
    if (unpacked) {
      unpack<Row>(w, n, end, scratch);
      rows_times([&](int64_t i) { return RowFP32(scratch + (i - n) * w.cols); }, n, end, x,
                 x_stride, m, w.cols, y, y_stride, after, row_bytes);
    } else {
      rows_times([&](int64_t i) { return Row(w, i); }, n, end, x, x_stride, m, w.cols, y, y_stride,
                 after, row_bytes);
    }
  }
}

// y[m, n] for rows n in [first, last) of W. `scratch` holds PANEL * cols floats.
inline void times(const Matrix& w, int64_t first, int64_t last, const float* x, int64_t x_stride,
                  int64_t m, float* y, int64_t y_stride, float* scratch) {
  switch (w.format) {
    case FP32: return times_as<RowFP32>(w, first, last, x, x_stride, m, y, y_stride, scratch);
    case BF16: return times_as<RowBF16>(w, first, last, x, x_stride, m, y, y_stride, scratch);
    case INT8: return times_as<RowINT8>(w, first, last, x, x_stride, m, y, y_stride, scratch);
    case INT4: return times_as<RowINT4>(w, first, last, x, x_stride, m, y, y_stride, scratch);
  }
}

// One product of a set: rows [row, row + rows) of W against m rows of x.
struct Product {
  const Matrix* w;
  int64_t row;
  int64_t rows;
  const float* x;
  int64_t x_stride;
  int64_t m;
  float* y;
  int64_t y_stride;
};

// Compute several products at once, cut into pieces of similar cost.
class Products {
 public:
  explicit Products(std::vector<float*> scratch) : scratch_(std::move(scratch)) {}
  void clear() { list_.clear(); }
  void add(const Matrix& w, int64_t row, int64_t rows, const float* x, int64_t x_stride, int64_t m,
           float* y, int64_t y_stride) {
    if (m > 0) list_.push_back({&w, row, rows, x, x_stride, m, y, y_stride});
  }
  void run(Pool& pool) {
    cut(pool.threads());
    pool.run(int64_t(pieces_.size()), [this](int64_t chunk, int thread) {
      const Piece& piece = pieces_[chunk];
      const Product& p = list_[piece.product];
      times(*p.w, p.row + piece.first, p.row + piece.last, p.x, p.x_stride, p.m,
            p.y - p.row, p.y_stride, scratch_[thread]);
    });
  }

 private:
  struct Piece { int64_t product, first, last; };

  // What a row of W costs: its weights to read, or with many tokens the arithmetic.
  static int64_t row_cost(const Product& p) { return p.w->cols * std::max<int64_t>(1, p.m / 8); }

  // Long pieces stream best, but every thread should get several, and none wait for the last.
  void cut(int threads) {
    int64_t total = 0;
    for (const Product& p : list_) total += p.rows * row_cost(p);
    int64_t cost = std::clamp<int64_t>(total / (threads * PIECES), 1 << 14, 1 << 17);
    pieces_.clear();
    for (size_t index = 0; index < list_.size(); ++index) {
      const Product& p = list_[index];
      int64_t piece = std::max<int64_t>(1, cost / row_cost(p) / PANEL) * PANEL;
      for (int64_t n = 0; n < p.rows; n += piece)
        pieces_.push_back({int64_t(index), n, std::min(n + piece, p.rows)});
    }
  }

  static constexpr int64_t PIECES = 8;  // for every thread at least
  std::vector<Product> list_;
  std::vector<Piece> pieces_;
  std::vector<float*> scratch_;
};

// Floats of row `row`, for looking up an embedding.
inline void read_row(const Matrix& w, int64_t row, float* to) {
  switch (w.format) {
    case FP32: unpack<RowFP32>(w, row, row + 1, to); return;
    case BF16: unpack<RowBF16>(w, row, row + 1, to); return;
    case INT8: unpack<RowINT8>(w, row, row + 1, to); return;
    case INT4: unpack<RowINT4>(w, row, row + 1, to); return;
  }
}

}  // namespace zaya
