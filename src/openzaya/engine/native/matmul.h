// y = x W^T for few or many rows of x: tiles of rows of W against rows of x, all sums in registers.
//
// A row of W is read once per call for up to six rows of x, so that one token costs the bytes of the
// weights and nothing else. Running sums along the row, one a lane, are added up by one fixed tree,
// whatever the tile: a token's numbers do not depend on the tokens computed beside it.
#pragma once
#include <array>
#include <utility>

#include "formats.h"

namespace zaya {

// Bytes that will be needed soon, fetched a few cache lines per step while others are multiplied.
// Without this, a pass over many tokens computes and waits for memory in turns. They are fetched from
// four places at once where there are many: one alone waits for the address of every new page.
struct Stream {
  static constexpr int64_t LINE = 64, PLACES = 4;
  const char *at = nullptr, *end = nullptr;
  int lines = 0;  // per step of a tile and place
  int64_t apart = 0;
  Stream() = default;
  // Spread `bytes` from `at` on over `steps`.
  Stream(const char* at, int64_t bytes, int64_t steps) : at(at) {
    if (!at) return;
    int64_t per_step = (bytes / LINE + steps - 1) / steps;
    int64_t places = per_step < PLACES ? 1 : PLACES;
    apart = places == 1 ? 0 : bytes / PLACES;
    lines = int((per_step + places - 1) / places);
    end = at + bytes / places;
  }
  INLINE void fetch() {
    if (at >= end) return;
    for (int i = 0; i < lines; ++i, at += LINE) {
      __builtin_prefetch(at, 0, 2);
      if (!apart) continue;
      for (int place = 1; place < PLACES; ++place) __builtin_prefetch(at + place * apart, 0, 2);
    }
  }
};
struct Ahead {
  Stream weights, inputs;
  INLINE void fetch() {
    weights.fetch();
    inputs.fetch();
  }
};

// Rows of x in the layout of W's format, and where their products go.
struct Rows {
  const char* x;
  int64_t x_bytes;  // from one row to the next
  float* y;
  int64_t y_stride;
  INLINE Rows from(int64_t row) const {
    return {x + row * x_bytes, x_bytes, y + row * y_stride, y_stride};
  }
};

// The running sums of a tile for M rows of x and N rows of W.
template <int N, int M>
struct Sums {
  piece of[M * N];
};

// Write those of one row of x side by side.
template <int N, int M>
INLINE void put_sums(const Sums<N, M>& sums, const Rows& rows, const float* scales) {
  constexpr int COUNT = M * N, WHOLE = COUNT / PIECE * PIECE, REST = COUNT - WHOLE;
  float all[WHOLE + LANES];
  piece some[PIECE];
  UNROLL for (int i = 0; i < WHOLE; i += PIECE) {
    UNROLL for (int j = 0; j < PIECE; ++j) some[j] = sums.of[i + j];
    store_piece(all + i, fold_all(some));
  }
  UNROLL for (int j = 0; j < PIECE; ++j) some[j] = j < REST ? sums.of[WHOLE + j] : piece{};
  if constexpr (REST > 0 && REST == PIECE / 2) store_piece(all + WHOLE, fold_half(some));
  else if constexpr (REST >= PIECE / 4) store_piece(all + WHOLE, fold_all(some));
  else
    for (int j = 0; j < REST; ++j) all[WHOLE + j] = joined<Add>(some[j]);
  UNROLL for (int m = 0; m < M; ++m)
    UNROLL for (int n = 0; n < N; ++n) rows.y[m * rows.y_stride + n] = all[m * N + n] * scales[m];
}

// Products of pieces I and above of 32 columns from k on. The fewer rows are those that stay in
// registers.
template <int I, int N, int M, class Row>
INLINE void step(const Row* w, const Rows& rows, int64_t k, Sums<N, M>& sums) {
  auto row = [&](int m) __attribute__((always_inline)) {
    return keep(load_piece((const float*)(rows.x + m * rows.x_bytes) + k + I * PIECE));
  };
  auto add = [&](int m, int n, piece a, piece b) __attribute__((always_inline)) {
    sums.of[m * N + n] = add_product(sums.of[m * N + n], a, b);
  };
  if constexpr (N <= M || PARTS == 1) {
    piece weights[N];
    UNROLL for (int n = 0; n < N; ++n) weights[n] = keep(w[n].template at<I>(k));
    UNROLL for (int m = 0; m < M; ++m) {
      const piece a = row(m);
      UNROLL for (int n = 0; n < N; ++n) add(m, n, weights[n], a);
    }
  } else {
    piece x[M];
    UNROLL for (int m = 0; m < M; ++m) x[m] = row(m);
    UNROLL for (int n = 0; n < N; ++n) {
      const piece weights = keep(w[n].template at<I>(k));
      UNROLL for (int m = 0; m < M; ++m) add(m, n, weights, x[m]);
    }
  }
  if constexpr (I + 1 < 2 * PARTS) step<I + 1>(w, rows, k, sums);
}

// Dot products of N rows of floats with M rows of x.
template <int N, int M, class Row>
INLINE void tile(const Row* w, const Rows& rows, int64_t cols, Ahead& ahead) {
  Sums<N, M> sums = {};
  for (int64_t k = 0; k < cols; k += STEP) {
    ahead.fetch();
    step<0>(w, rows, k, sums);
  }
  float ones[M];
  std::fill(ones, ones + M, 1.0f);
  put_sums(sums, rows, ones);
}

// The same for columns [from, to) of more: their sums are kept until the last columns have come.
template <int N, int M, class Row>
INLINE void part_of_tile(const Row* w, const Rows& rows, int64_t from, int64_t to, bool last,
                         float* kept, Ahead& ahead) {
  constexpr int COUNT = M * N;
  Sums<N, M> sums;
  UNROLL for (int i = 0; i < COUNT; ++i) sums.of[i] = from ? load_piece(kept + i * PIECE) : piece{};
  for (int64_t k = from; k < to; k += STEP) {
    ahead.fetch();
    step<0>(w, rows, k, sums);
  }
  UNROLL for (int i = 0; i < COUNT; ++i) store_piece(kept + i * PIECE, sums.of[i]);
  if (!last) return;
  float ones[M];
  std::fill(ones, ones + M, 1.0f);
  UNROLL for (int i = 0; i < COUNT; ++i) sums.of[i] = load_piece(kept + i * PIECE);
  put_sums(sums, rows, ones);
}

// Products of part PART and above of a block of integers.
template <int PART, int N, int M, class Row>
INLINE void block_step(const Row* w, const Rows& rows, int64_t block, bool half, int64_t shifts,
                       Sums<N, M>& sums) {
  UNROLL for (int n = 0; n < N; ++n) {
    const auto weights = w[n].template at<PART>(block, half);
    UNROLL for (int m = 0; m < M; ++m) {
      const char* row = rows.x + m * rows.x_bytes;
      auto* x = (const int16_t*)row + block * BLOCK_COLS + PART * Row::K * SHORTS;
      whole_piece whole = {};
      if constexpr (Row::SHIFTED)
        whole = load_piece((const int32_t*)(row + shifts) + block * Layout::SHIFTS + PART * PIECE);
      UNROLL for (int k = 0; k < Row::K; ++k)
        whole = dot(whole, weights.of[k], load_piece(x + k * SHORTS));
      sums.of[m * N + n] += to_floats(whole) * weights.scale;
    }
  }
  if constexpr (PART + 1 < Row::PARTS) block_step<PART + 1>(w, rows, block, half, shifts, sums);
}

// The same for N rows of integers.
template <int N, int M, class Row>
INLINE void whole_tile(const Row* w, const Rows& rows, int64_t cols, Ahead& ahead) {
  Sums<N, M> sums = {};
  int64_t blocks = cols / BLOCK_COLS, shifts = (cols + BLOCK_COLS - 1) / BLOCK_COLS * BLOCK_COLS * 2;
  for (int64_t block = 0; block < blocks; ++block) {
    ahead.fetch();
    block_step<0>(w, rows, block, false, shifts, sums);
  }
  if (cols % BLOCK_COLS) block_step<0>(w, rows, blocks, true, shifts, sums);
  float scales[M];
  for (int m = 0; m < M; ++m) scales[m] = *(const float*)(rows.x + m * rows.x_bytes - Layout::HEAD);
  put_sums(sums, rows, scales);
}

template <int N, int M>
INLINE void any_tile(const RowFP32* w, const Rows& rows, int64_t cols, Ahead& ahead) {
  tile<N, M>(w, rows, cols, ahead);
}
template <int N, int M>
INLINE void any_tile(const RowBF16* w, const Rows& rows, int64_t cols, Ahead& ahead) {
  tile<N, M>(w, rows, cols, ahead);
}
template <int N, int M, class Row>
INLINE void any_tile(const Row* w, const Rows& rows, int64_t cols, Ahead& ahead) {
  whole_tile<N, M>(w, rows, cols, ahead);
}

// Tiles that fill the registers: as many rows of x as possible, but no more than the first-level
// cache holds beside the weights; many rows of W for one or two rows of x, to keep memory busy.
//
// From UNPACK_ROWS rows of x on, bf16 is turned into floats once, which then come from the second-level
// cache: worth it only where that feeds the registers. NEAR_COLS columns of a tile's rows of x and of
// W, if they are floats, are what the first-level cache holds.
#if REGISTER_BYTES == 64
constexpr int MAX_M = 6;
constexpr int64_t UNPACK_ROWS = 9, NEAR_COLS = 1024;
template <class Row> constexpr int tile_rows(int m) { return m <= 2 ? 8 : m <= 4 ? 6 : 4; }
#else
constexpr int MAX_M = 4;
constexpr int64_t NEVER = int64_t(1) << 40, UNPACK_ROWS = NEVER, NEAR_COLS = NEVER;
template <class Row> constexpr int tile_rows(int m) {
  if (Row::COLS == BLOCK_COLS) return m == 1 ? 6 : m == 2 ? 4 : 3;  // K registers of weights as well
  return m == 1 ? 8 : 12 / m;
}
#endif
constexpr int64_t PANEL = 48;  // rows of W that one piece of work covers at least
constexpr int64_t NEAR_BYTES = 36 << 10;  // of x that stay near if W's are integers

// Call work(n, rows of W from n on) for tiles of N rows, then for single ones.
template <int N, class MakeRow, class Work>
INLINE void each_tile(MakeRow make, int64_t first, int64_t last, Work work) {
  using Row = decltype(make(int64_t(0)));
  int64_t n = first;
  for (; n + N <= last; n += N) {
    auto w = [&]<int... I>(std::integer_sequence<int, I...>) {
      return std::array<Row, N>{make(n + I)...};
    }(std::make_integer_sequence<int, N>{});
    work(n, w);
  }
  for (; n < last; ++n) work(n, std::array<Row, 1>{make(n)});
}

// Rows [first, last) of W against M rows of x.
template <int M, class MakeRow>
INLINE void sweep(MakeRow make, int64_t first, int64_t last, const Rows& rows, int64_t cols,
                  Ahead& ahead) {
  using Row = decltype(make(first));
  constexpr int N = tile_rows<Row>(M);
  each_tile<N>(make, first, last, [&](int64_t n, auto w) __attribute__((always_inline)) {
    Rows at{rows.x, rows.x_bytes, rows.y + n, rows.y_stride};
    any_tile<w.size(), M>(w.data(), at, cols, ahead);
  });
}

// The same for long rows of floats and a panel at most: as many columns at a time of all tiles as keep
// the rows of x in the first-level cache.
template <int M, class MakeRow>
INLINE void sweep_in_parts(MakeRow make, int64_t first, int64_t last, const Rows& rows, int64_t cols,
                           Ahead& ahead) {
  alignas(64) float kept[PANEL * M * PIECE];
  for (int64_t from = 0; from < cols; from += NEAR_COLS) {
    int64_t to = std::min(from + NEAR_COLS, cols);
    each_tile<tile_rows<decltype(make(first))>(M)>(make, first, last, [&](int64_t n, auto w) {
      Rows at{rows.x, rows.x_bytes, rows.y + n, rows.y_stride};
      float* sums = kept + (n - first) * M * PIECE;
      part_of_tile<w.size(), M>(w.data(), at, from, to, to == cols, sums, ahead);
    });
  }
}

// Rows [first, last) of W against m rows of x; `after` is what to fetch meanwhile, `bytes` of it.
template <class MakeRow>
INLINE void rows_times(MakeRow make, int64_t first, int64_t last, const Rows& rows, int64_t m,
                       int64_t cols, const char* after, int64_t bytes) {
  using Row = decltype(make(first));
  constexpr bool floats = Row::COLS == STEP;
  int64_t most = MAX_M;
  if (!floats) most = std::min<int64_t>(MAX_M, std::max<int64_t>(NEAR_BYTES / rows.x_bytes, 4));
  int64_t parts = (m + most - 1) / most;
  most = (m + parts - 1) / parts;
  int64_t steps = ((last - first) / tile_rows<Row>(int(most)) + 1) * (cols / Row::COLS + 1);
  Ahead ahead{Stream(after, bytes, steps * parts), {}};
  for (int64_t done = 0; done < m; done += most) {
    Rows some = rows.from(done);
    ahead.inputs = {};
    if (done + most < m) ahead.inputs = Stream(rows.from(done + most).x, most * rows.x_bytes, steps);
    auto run = [&]<int M>(std::integral_constant<int, M>) __attribute__((always_inline)) {
      if constexpr (floats && M > 2)  // one or two rows of x stay near anyway
        if (cols > NEAR_COLS) return sweep_in_parts<M>(make, first, last, some, cols, ahead);
      sweep<M>(make, first, last, some, cols, ahead);
    };
    [&]<int... M>(std::integer_sequence<int, M...>) __attribute__((always_inline)) {
      int count = int(std::min(most, m - done));
      ((count == M + 1 && (run(std::integral_constant<int, M + 1>{}), true)) || ...);
    }(std::make_integer_sequence<int, MAX_M>{});
  }
}

inline void unpack(const Matrix& w, int64_t first, int64_t last, float* scratch) {
  for (int64_t n = first; n < last; ++n) {
    RowBF16 row(w, n);
    float* to = scratch + (n - first) * w.cols;
    for (int64_t k = 0; k < w.cols; k += STEP) {
      each_piece([&]<int I>() { store_piece(to + k + I * PIECE, row.at<I>(k)); });
    }
  }
}

// y[m, n] for rows n in [first, last) of W; y points at column 0. `next` are the weights that this
// thread will read behind those, or null. `scratch` holds PANEL * cols floats.
inline void times(const Matrix& w, int64_t first, int64_t last, const Rows& rows, int64_t m,
                  const char* next, float* scratch) {
  // In panels that stay in the second-level cache while the rows of x pass by.
  for (int64_t n = first; n < last; n += PANEL) {
    int64_t end = std::min(n + PANEL, last);
    const char* after = end < last ? (const char*)w.data + end * w.row_bytes() : next;
    int64_t bytes = (end - n) * w.row_bytes();
    auto run = [&](auto make) { rows_times(make, n, end, rows, m, w.cols, after, bytes); };
    if (w.format == BF16 && m >= UNPACK_ROWS) {
      unpack(w, n, end, scratch);
      run([&](int64_t i) { return RowFP32(scratch + (i - n) * w.cols); });
    } else {
      switch (w.format) {
        case FP32: run([&](int64_t i) { return RowFP32(w, i); }); break;
        case BF16: run([&](int64_t i) { return RowBF16(w, i); }); break;
        case INT8: run([&](int64_t i) { return RowINT8(w, i); }); break;
        case INT4: run([&](int64_t i) { return RowINT4(w, i); }); break;
      }
    }
  }
}

}  // namespace zaya
