// y = x W^T for few or many rows of x: tiles of rows of W against rows of x, all sums in registers.
//
// A row of W is read once per call for up to six rows of x, so that one token costs the bytes of the
// weights and nothing else. Sixteen running sums along the row are added up by one fixed tree,
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

// Write the sums of M * N vectors, those of one row of x side by side.
template <int N, int M>
INLINE void put_sums(const v16 (&sums)[M * N], const Rows& rows, const float* scales) {
  constexpr int COUNT = M * N;
  float all[(COUNT + LANES - 1) / LANES * LANES];
  constexpr int WHOLE = COUNT / LANES * LANES;
  for (int i = 0; i < WHOLE; i += LANES) store(all + i, sum16(sums + i));
  if constexpr (COUNT % LANES == 8) {
    store(all + WHOLE, across<8>(sums + WHOLE));
  } else if constexpr (COUNT % LANES >= 4) {
    v16 rest[LANES] = {};
    for (int i = WHOLE; i < COUNT; ++i) rest[i - WHOLE] = sums[i];
    store(all + WHOLE, sum16(rest));
  } else {
    for (int i = WHOLE; i < COUNT; ++i) all[i] = sum(sums[i]);
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) rows.y[m * rows.y_stride + n] = all[m * N + n] * scales[m];
}

template <int HALF, int N, int M, class Row>
INLINE void step(const Row* w, const Rows& rows, int64_t k, v16 (&sums)[M * N]) {
  v16 weights[N];
  for (int n = 0; n < N; ++n) weights[n] = w[n].template at<HALF>(k);
  for (int m = 0; m < M; ++m) {
    v16 a = load((const float*)(rows.x + m * rows.x_bytes) + k + HALF * LANES);
    for (int n = 0; n < N; ++n) sums[m * N + n] += weights[n] * a;
  }
}

// Dot products of N rows of floats with M rows of x.
template <int N, int M, class Row>
INLINE void tile(const Row* w, const Rows& rows, int64_t cols, Ahead& ahead) {
  v16 sums[M * N] = {};
  for (int64_t k = 0; k < cols; k += STEP) {
    ahead.fetch();
    step<0, N, M>(w, rows, k, sums);
    step<1, N, M>(w, rows, k, sums);
  }
  float ones[M];
  std::fill(ones, ones + M, 1.0f);
  put_sums<N, M>(sums, rows, ones);
}

// The same for columns [from, to) of more: their sums are kept until the last columns have come.
template <int N, int M, class Row>
INLINE void part_of_tile(const Row* w, const Rows& rows, int64_t from, int64_t to, bool last,
                         float* kept, Ahead& ahead) {
  v16 sums[M * N];
  UNROLL for (int i = 0; i < M * N; ++i) sums[i] = from ? load(kept + i * LANES) : v16{};
  for (int64_t k = from; k < to; k += STEP) {
    ahead.fetch();
    step<0, N, M>(w, rows, k, sums);
    step<1, N, M>(w, rows, k, sums);
  }
  UNROLL for (int i = 0; i < M * N; ++i) store(kept + i * LANES, sums[i]);
  if (!last) return;
  float ones[M];
  std::fill(ones, ones + M, 1.0f);
  UNROLL for (int i = 0; i < M * N; ++i) sums[i] = load(kept + i * LANES);
  put_sums<N, M>(sums, rows, ones);
}

template <int N, int M, class Row>
INLINE void block_step(const Row* w, const Rows& rows, int64_t block, bool half, int64_t shifts,
                       v16 (&sums)[M * N]) {
  for (int n = 0; n < N; ++n) {
    Weights64 weights = w[n].at(block, half);
    for (int m = 0; m < M; ++m) {
      const char* row = rows.x + m * rows.x_bytes;
      auto* x = (const int16_t*)row + block * BLOCK_COLS;
      i16 whole = {};
      if constexpr (Row::SHIFTED) whole = load((const int32_t*)(row + shifts) + block * LANES);
      whole = dot(dot(whole, weights.low, load(x)), weights.high, load(x + STEP));
      sums[m * N + n] += __builtin_convertvector(whole, v16) * weights.scale;
    }
  }
}

// The same for N rows of integers.
template <int N, int M, class Row>
INLINE void whole_tile(const Row* w, const Rows& rows, int64_t cols, Ahead& ahead) {
  v16 sums[M * N] = {};
  int64_t blocks = cols / BLOCK_COLS, shifts = (cols + BLOCK_COLS - 1) / BLOCK_COLS * BLOCK_COLS * 2;
  for (int64_t block = 0; block < blocks; ++block) {
    ahead.fetch();
    block_step<N, M>(w, rows, block, false, shifts, sums);
  }
  if (cols % BLOCK_COLS) block_step<N, M>(w, rows, blocks, true, shifts, sums);
  float scales[M];
  for (int m = 0; m < M; ++m) scales[m] = *(const float*)(rows.x + m * rows.x_bytes - Layout::HEAD);
  put_sums<N, M>(sums, rows, scales);
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
#if defined(__AVX512F__)
constexpr int MAX_M = 6;
constexpr int tile_rows(int m) { return m <= 2 ? 8 : m <= 4 ? 6 : 4; }
#else
constexpr int MAX_M = 2;
constexpr int tile_rows(int m) { return m == 1 ? 4 : 2; }
#endif
constexpr int64_t PANEL = 48;       // rows of W that one piece of work covers at least
constexpr int64_t UNPACK_ROWS = 9;  // from so many rows of x on, bf16 is turned into floats once
// The first-level cache holds so many columns of a tile's rows of x and of W, if they are floats,
constexpr int64_t NEAR_COLS = 1024;
constexpr int64_t NEAR_BYTES = 36 << 10;  // and so much of x if W's are integers.

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
  each_tile<tile_rows(M)>(make, first, last, [&](int64_t n, auto w) __attribute__((always_inline)) {
    Rows at{rows.x, rows.x_bytes, rows.y + n, rows.y_stride};
    any_tile<w.size(), M>(w.data(), at, cols, ahead);
  });
}

// The same for long rows of floats and a panel at most: as many columns at a time of all tiles as keep
// the rows of x in the first-level cache.
template <int M, class MakeRow>
INLINE void sweep_in_parts(MakeRow make, int64_t first, int64_t last, const Rows& rows, int64_t cols,
                           Ahead& ahead) {
  alignas(64) float kept[PANEL * M * LANES];
  for (int64_t from = 0; from < cols; from += NEAR_COLS) {
    int64_t to = std::min(from + NEAR_COLS, cols);
    each_tile<tile_rows(M)>(make, first, last, [&](int64_t n, auto w) {
      Rows at{rows.x, rows.x_bytes, rows.y + n, rows.y_stride};
      float* sums = kept + (n - first) * M * LANES;
      part_of_tile<w.size(), M>(w.data(), at, from, to, to == cols, sums, ahead);
    });
  }
}

// Rows [first, last) of W against m rows of x; `after` is what to fetch meanwhile, `bytes` of it.
template <class MakeRow>
INLINE void rows_times(MakeRow make, int64_t first, int64_t last, const Rows& rows, int64_t m,
                       int64_t cols, const char* after, int64_t bytes) {
  constexpr bool floats = decltype(make(first))::COLS == STEP;
  int64_t most = MAX_M;
  if (!floats) most = std::min<int64_t>(MAX_M, std::max<int64_t>(NEAR_BYTES / rows.x_bytes, 4));
  int64_t parts = (m + most - 1) / most;
  most = (m + parts - 1) / parts;
  int64_t steps = (last - first) / tile_rows(int(most)) + 1;
  steps *= cols / decltype(make(first))::COLS + 1;
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
    switch (int(std::min(most, m - done))) {
      case 1: run(std::integral_constant<int, 1>{}); break;
      case 2: run(std::integral_constant<int, 2>{}); break;
#if defined(__AVX512F__)
      case 3: run(std::integral_constant<int, 3>{}); break;
      case 4: run(std::integral_constant<int, 4>{}); break;
      case 5: run(std::integral_constant<int, 5>{}); break;
      case 6: run(std::integral_constant<int, 6>{}); break;
#endif
    }
  }
}

inline void unpack(const Matrix& w, int64_t first, int64_t last, float* scratch) {
  for (int64_t n = first; n < last; ++n) {
    RowBF16 row(w, n);
    float* to = scratch + (n - first) * w.cols;
    for (int64_t k = 0; k < w.cols; k += STEP) {
      store(to + k, row.at<0>(k));
      store(to + k + LANES, row.at<1>(k));
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
