// The quintic Newton-Schulz iteration on one matrix, in half precision.
//
// X <- PX with P = a + bY + cYY and Y = XX' (for tall ones X <- XP and Y = X'X), several times on one Y
// as in newton_schulz.py. Matrices are stored times UNIT, so that typical entries and all sums are
// normal numbers of fp16. What the products add to is kept in fp32: X, and the diagonals of symmetric
// matrices. These hold the largest entries, so their rounding would be most of the error.
#pragma once
#include <cstdlib>
#include <utility>

#include "half.h"

#if defined(HALVES)
namespace zaya {

// fp16 holds sums up to 255 UNIT^2; the largest, products of two polynomials, reach 12.
constexpr float UNIT = 16.0f;
constexpr float A = 3.4445f, B = -4.7750f, C = 2.0315f;

// UNIT times what is off the diagonal, zeros on it; and the diagonal.
struct Symmetric {
  Panels off;
  float* diagonal;
};

// Memory that a thread keeps from one matrix to the next.
struct Buffer {
  ~Buffer() { std::free(at); }
  void* room(int64_t wanted) {
    if (wanted > bytes) {
      std::free(at);
      bytes = (wanted + 63) / 64 * 64;
      at = std::aligned_alloc(64, size_t(bytes));
      std::memset(at, 0, size_t(bytes));
    }
    return at;
  }
  void* at = nullptr;
  int64_t bytes = 0;
};

// What one matrix of I rows and O columns needs.
struct Work {
  Work(int64_t rows, int64_t columns)
      : I(rows), O(columns), size(I < O ? I : O), depth(I < O ? O : I), stride(whole(O)) {
    thread_local Buffer buffers[13];
    Buffer* buffer = buffers;
    const auto panels = [&](int64_t r, int64_t c) {
      const int64_t count = whole(r) * whole(c);
      return Panels{(half*)(buffer++)->room(count * int64_t(sizeof(half))), whole(r)};
    };
    const auto floats = [&](int64_t count) {
      return (float*)(buffer++)->room(count * int64_t(sizeof(float)));
    };
    x = panels(I, O);
    next = panels(I, O);
    turned = panels(O, I);
    for (Symmetric& piece : pieces) piece = {panels(size, size), floats(whole(size))};
    room = (left*)(buffer++)->room(ROWS * whole(depth) * int64_t(sizeof(left)));
    exact = floats(I * stride);
  }
  int64_t I, O, size, depth, stride;
  Panels x, next, turned;
  Symmetric pieces[4];
  left* room;
  float* exact;  // X in fp32, rows `stride` apart
};

// out = pq, or a polynomial of p, where q is p. All symmetric matrices of one X commute.
template <bool IS_POLYNOMIAL>
void multiply_symmetric(const Work& w, Symmetric p, Symmetric q, Symmetric out) {
  const auto finish = [&](int64_t r, int64_t panel, const float* sums) {
    const half *left = p.off.row(r, panel), *right = q.off.row(r, panel);
    half* to = out.off.row(r, panel);
    const float d = p.diagonal[r];
    for (int64_t i = 0; i < PANEL; i += LANES) {
      const v16 x = load(left + i), columns = load(q.diagonal + panel * PANEL + i);
      const v16 y = load(sums + i) * (1.0f / UNIT) + d * load(right + i) + columns * x;
      store(to + i, IS_POLYNOMIAL ? C * y + B * x : y);
    }
    if (r / PANEL == panel) {
      const float y = sums[r % PANEL] * (1.0f / UNIT / UNIT) + d * q.diagonal[r];
      out.diagonal[r] = IS_POLYNOMIAL ? C * y + B * d + A : y;
      to[r % PANEL] = half(0.0f);
    }
  };
  multiply(p.off, q.off, w.size, w.size, w.size, true, w.room, finish);
  mirror(out.off, w.size);
}

// out = XX' or X'X, of the shorter side.
inline void gram(const Work& w, Symmetric out) {
  const bool is_tall = w.I > w.O;
  turn(w.x, w.turned, w.I, w.O);
  const auto finish = [&](int64_t r, int64_t panel, const float* sums) {
    half* to = out.off.row(r, panel);
    for (int64_t i = 0; i < PANEL; i += LANES) store(to + i, load(sums + i) * (1.0f / UNIT));
    if (r / PANEL == panel) {
      out.diagonal[r] = sums[r % PANEL] * (1.0f / UNIT / UNIT);
      to[r % PANEL] = half(0.0f);
    }
  };
  multiply(is_tall ? w.turned : w.x, is_tall ? w.x : w.turned, w.size, w.size, w.depth, true, w.room,
           finish);
  mirror(out.off, w.size);
}

// The product of the polynomials of so many iterations; of the pieces the first one is Y.
inline Symmetric polynomial(const Work& w, int64_t steps) {
  Symmetric y = w.pieces[0], p = w.pieces[1], spare = w.pieces[2], all = w.pieces[3];
  for (int64_t step = 0; step < steps; ++step) {
    multiply_symmetric<true>(w, y, y, p);
    if (step + 1 < steps) {
      multiply_symmetric<false>(w, y, p, spare);
      multiply_symmetric<false>(w, spare, p, y);
    }
    if (step) multiply_symmetric<false>(w, all, p, spare);
    std::swap(all, step ? spare : p);
  }
  return all;
}

// X = UNIT * exact / norm, both in fp32 and in panels; zeros stay zeros. The largest entry, `peak`,
// goes first, as squares of entries below 1e-19 would vanish.
inline void normalize(Work& w, float peak) {
  const float scale = 1.0f / std::fmax(peak, 1.17549435e-38f);
  v16 squares[2] = {};
  for (int64_t i = 0; i < w.I * w.stride; i += 2 * LANES)
    UNROLL for (int j = 0; j < 2; ++j) {
      const v16 x = load(w.exact + i + j * LANES) * scale;
      squares[j] += x * x;
    }
  const float rest = UNIT / std::fmax(std::sqrt(sum(squares[0] + squares[1])), 1.0f);
  for (int64_t r = 0; r < w.I; ++r)
    for (int64_t c = 0; c < w.stride; c += LANES) {
      float* at = w.exact + r * w.stride + c;
      const v16 x = load(at) * scale * rest;
      store(at, x);
      store(w.x.row(r, c / PANEL) + c % PANEL, x);
    }
}

// Calls finish(row, panel, values) with nearly U V' of exact = U S V'.
template <class Finish>
void orthogonalize(Work& w, float peak, int64_t steps, Finish finish) {
  const bool is_tall = w.I > w.O;
  normalize(w, peak);
  // A second iteration on one Y saves work where X is long. It squares the singular values, which the
  // first Y, of the most uneven X, and more iterations than two would not survive in fp16.
  const int64_t most = 2 * w.depth < 3 * w.size ? 1 : 2;
  for (int64_t done = 0, now = 1; done < steps; done += now) {
    if (done) now = steps - done < most ? steps - done : most;
    gram(w, w.pieces[0]);
    const Symmetric p = polynomial(w, now);
    const bool is_last = done + now == steps;
    const auto end = [&](int64_t r, int64_t panel, float* sums) {
      float* x = w.exact + r * w.stride + panel * PANEL;
      half* next = w.next.row(r, panel);
      for (int64_t i = 0; i < PANEL; i += LANES) {
        const v16 d = is_tall ? load(p.diagonal + panel * PANEL + i) : splat(p.diagonal[r]);
        const v16 value = load(sums + i) * (1.0f / UNIT) + d * load(x + i);
        store(x + i, is_last ? value * (1.0f / UNIT) : value);
        if (!is_last) store(next + i, value);
      }
      if (is_last) finish(r, panel, x);
    };
    multiply(is_tall ? w.x : p.off, is_tall ? p.off : w.x, w.I, w.O, w.size, false, w.room, end);
    std::swap(w.x, w.next);
  }
}

}  // namespace zaya
#endif
