// What happens to single rows: residual sums and norms, the router's steps. Any width is taken.
#pragma once
#include <algorithm>
#include <cmath>

#include "product.h"

namespace zaya {

// Some columns of a row, as many as a vector V holds, or the fewer at its end; the others read `none`.
// Copied, as a template forgets that V need not be aligned: it becomes one instruction.
template <class V> struct Whole {
  int64_t first;
  INLINE V load(const float* row, float = 0.0f) const {
    V x;
    std::memcpy(&x, row + first, sizeof x);
    return x;
  }
  INLINE void store(float* row, V x) const { std::memcpy(row + first, &x, sizeof x); }
};
template <class V> struct Rest {
  int64_t first, count;
#if REGISTER_BYTES == 64
  INLINE __mmask16 mask() const { return __mmask16((1u << count) - 1); }
  INLINE V load(const float* row, float none = 0.0f) const {
    return (V)_mm512_mask_loadu_ps((__m512)splat(none), mask(), row + first);
  }
  INLINE void store(float* row, V x) const { _mm512_mask_storeu_ps(row + first, mask(), (__m512)x); }
#else
  INLINE V load(const float* row, float none = 0.0f) const {
    V x = none - V{};
    std::memcpy(&x, row + first, size_t(count) * sizeof(float));
    return x;
  }
  INLINE void store(float* row, V x) const {
    std::memcpy(row + first, &x, size_t(count) * sizeof(float));
  }
#endif
};
template <class V, class Step> INLINE void columns(int64_t width, Step step) {
  constexpr int64_t size = sizeof(V) / sizeof(float);
  int64_t first = 0;
  for (; first + size <= width; first += size) step(Whole<V>{first});
  if (first < width) step(Rest<V>{first, width - first});
}
INLINE float sum_lanes(auto x) {
  if constexpr (sizeof x == sizeof(v16)) return sum(x);
  float total = 0.0f;
  for (size_t i = 0; i < sizeof x / sizeof(float); ++i) total += x[i];
  return total;
}

// Sums over all rows of a few values for each column: over SPAN rows at a time, then over the spans,
// so that what is added never becomes small beside the sum.
template <int VALUES> class ColumnSums {
 public:
  explicit ColumnSums(int64_t width)
      : stride((width + LANES - 1) / LANES * LANES), numbers(2 * VALUES * stride) {
    std::fill_n(+numbers, 2 * VALUES * stride, 0.0f);
  }
  INLINE void add(int value, auto at, piece x) {
    float* sums = numbers + value * stride + at.first;
    store_piece(sums, load_piece(sums) + x);
  }
  void end_row(int64_t row) {
    if (row % SPAN == SPAN - 1) end_span();
  }
  void end_span() {
    float *span = numbers, *totals = numbers + VALUES * stride;
    for (int64_t i = 0; i < VALUES * stride; ++i) {
      totals[i] += span[i];
      span[i] = 0.0f;
    }
  }
  INLINE piece total(int value, auto at) const {
    return load_piece(numbers + (VALUES + value) * stride + at.first);
  }

 private:
  static constexpr int64_t SPAN = 64;
  int64_t stride;
  Scratch numbers;  // on whole cache lines: a store that crosses one costs several
};

// A row of the sum is `branch`; with SCALED (branch + branch_bias) branch_scale; with STREAM plus
// stream times scale, where SCALED shifts the stream by its bias first.
struct Terms {
  const float *branch, *stream, *branch_scale, *branch_bias, *scale, *bias;
  Terms row(int64_t offset) const {
    Terms moved = *this;
    moved.branch += offset;
    if (stream) moved.stream += offset;
    return moved;
  }
};
template <bool SCALED, bool STREAM> INLINE piece sum_of(const Terms& row, auto at) {
  piece x = at.load(row.branch);
  if constexpr (SCALED) x = (x + at.load(row.branch_bias)) * at.load(row.branch_scale);
  if constexpr (STREAM) {
    piece kept = at.load(row.stream);
    if constexpr (SCALED) kept += at.load(row.bias);
    x += kept * at.load(row.scale);
  }
  return x;
}

struct SumNorm {
  Terms terms;
  const float* weight;  // null: no norm
  float eps;
  int64_t rows, width;

  // `sums` is null where nobody wants them, `normed` and `inverse_T` without norm.
  template <bool SCALED, bool STREAM> void forward(float* sums, float* normed, float* inverse_T) const {
    for (int64_t t = 0; t < rows; ++t) {
      Terms row = terms.row(t * width);
      float* out = sums ? sums + t * width : nullptr;
      piece square{};
      columns<piece>(width, [&](auto at) {
        piece x = sum_of<SCALED, STREAM>(row, at);
        square += x * x;
        if (out) at.store(out, x);
      });
      if (!weight) continue;
      float inverse = inverse_T[t] = 1.0f / std::sqrt(sum_lanes(square) / float(width) + eps);
      const float* source = out ? out : row.branch;
      float* y = normed + t * width;
      columns<piece>(width, [&](auto at) { at.store(y, at.load(source) * inverse * at.load(weight)); });
    }
  }

  // Gradients of the sums and of the normed rows are null where there are none. The five vectors
  // of `vector_grads` follow the order branch_scale, branch_bias, scale, bias, weight.
  template <bool SCALED, bool STREAM>
  void backward(const float* inverse_T, const float* sum_grad, const float* normed_grad,
                float* branch_grad, float* stream_grad, float* vector_grads) const {
    enum { ALL, BRANCH, STREAM_, WEIGHT, COUNT };
    ColumnSums<COUNT> sums(width);
    for (int64_t t = 0; t < rows; ++t) {
      Terms row = terms.row(t * width);
      const float* from_sum = sum_grad ? sum_grad + t * width : nullptr;
      const float* from_norm = normed_grad ? normed_grad + t * width : nullptr;
      float inverse = from_norm ? inverse_T[t] : 0.0f, mean = 0.0f;
      if (from_norm) {
        piece dot{};
        columns<piece>(width, [&](auto at) {
          dot += at.load(from_norm) * at.load(weight) * sum_of<SCALED, STREAM>(row, at);
        });
        mean = sum_lanes(dot) * inverse / float(width);
      }
      columns<piece>(width, [&](auto at) {
        piece grad = from_sum ? at.load(from_sum) : piece{};
        if (from_norm) {
          piece unit = sum_of<SCALED, STREAM>(row, at) * inverse, g = at.load(from_norm);
          sums.add(WEIGHT, at, g * unit);
          grad += (g * at.load(weight) - unit * mean) * inverse;
        }
        piece branch = grad;
        if constexpr (SCALED) {
          sums.add(ALL, at, grad);
          sums.add(BRANCH, at, grad * at.load(row.branch));
          branch *= at.load(row.branch_scale);
        }
        at.store(branch_grad + t * width, branch);
        if constexpr (STREAM) {
          sums.add(STREAM_, at, grad * at.load(row.stream));
          at.store(stream_grad + t * width, grad * at.load(row.scale));
        }
      });
      sums.end_row(t);
    }
    sums.end_span();
    columns<piece>(width, [&](auto at) {
      auto put = [&](int vector, piece x) { at.store(vector_grads + vector * width, x); };
      piece all = sums.total(ALL, at);
      if constexpr (SCALED) {
        put(0, sums.total(BRANCH, at) + all * at.load(terms.branch_bias));
        put(1, all * at.load(terms.branch_scale));
      }
      if constexpr (STREAM) {
        piece kept = sums.total(STREAM_, at);
        if constexpr (SCALED) {
          kept += all * at.load(terms.bias);
          put(3, all * at.load(terms.scale));
        }
        put(2, kept);
      }
      put(4, sums.total(WEIGHT, at));
    });
  }
};
// Calls `work` as a template of which terms there are; rows may be null where there are none.
INLINE void with_terms(const Terms& terms, auto work) {
  bool scaled = terms.branch_scale, stream = terms.scale;
  if (scaled && stream) return work.template operator()<true, true>();
  if (scaled) return work.template operator()<true, false>();
  if (stream) return work.template operator()<false, true>();
  work.template operator()<false, false>();
}

// Probabilities of a row of scores.
INLINE void softmax(const float* scores, int64_t width, float* probs) {
  v16 peaks = splat(-INFINITY), total{};
  columns<v16>(width, [&](auto at) { peaks = maximum(peaks, at.load(scores, -INFINITY)); });
  float peak = largest(peaks);
  columns<v16>(width, [&](auto at) {
    v16 e = exp_below(at.load(scores, -INFINITY) - peak);
    total += e;
    at.store(probs, e);
  });
  float share = 1.0f / sum(total);
  columns<v16>(width, [&](auto at) { at.store(probs, at.load(probs) * share); });
}
// The first of the largest.
INLINE int64_t argmax(const float* x, const float* shift, int64_t width) {
  int64_t best = 0;
  float most = x[0] + shift[0];
  for (int64_t i = 1; i < width; ++i) {
    float value = x[i] + shift[i];
    best = value > most ? i : best;
    most = value > most ? value : most;
  }
  return best;
}

}  // namespace zaya

extern "C" {

void sum_norm(const float* branch, const float* stream, const float* branch_scale,
              const float* branch_bias, const float* scale, const float* bias, const float* weight,
              float eps, int64_t rows, int64_t width, float* sums, float* normed, float* inverse_T) {
  zaya::SumNorm all{{branch, stream, branch_scale, branch_bias, scale, bias}, weight, eps, rows, width};
  zaya::with_terms(all.terms, [&]<bool SCALED, bool STREAM>() {
    all.forward<SCALED, STREAM>(sums, normed, inverse_T);
  });
}

void sum_norm_backward(const float* branch, const float* stream, const float* branch_scale,
                       const float* branch_bias, const float* scale, const float* bias,
                       const float* weight, float eps, int64_t rows, int64_t width,
                       const float* inverse_T, const float* sum_grad, const float* normed_grad,
                       float* branch_grad, float* stream_grad, float* vector_grads) {
  zaya::SumNorm all{{branch, stream, branch_scale, branch_bias, scale, bias}, weight, eps, rows, width};
  zaya::with_terms(all.terms, [&]<bool SCALED, bool STREAM>() {
    all.backward<SCALED, STREAM>(inverse_T, sum_grad, normed_grad, branch_grad, stream_grad,
                                 vector_grads);
  });
}

// `replay_T` is null where the choice is free.
void choose(const float* scores, const float* balance, const int64_t* replay_T, int64_t rows,
            int64_t width, int64_t* expert_T, float* gate_T, float* probs) {
  for (int64_t t = 0; t < rows; ++t) {
    float* row = probs + t * width;
    zaya::softmax(scores + t * width, width, row);
    expert_T[t] = replay_T ? replay_T[t] : zaya::argmax(row, balance, width);
    gate_T[t] = row[expert_T[t]];
  }
}

void choose_backward(const float* probs, const int64_t* expert_T, const float* gate_grad_T,
                     int64_t rows, int64_t width, float* scores_grad) {
  for (int64_t t = 0; t < rows; ++t) {
    const float* row = probs + t * width;
    float* out = scores_grad + t * width;
    float step = gate_grad_T[t] * row[expert_T[t]];
    zaya::columns<zaya::v16>(width, [&](auto at) { at.store(out, at.load(row) * -step); });
    out[expert_T[t]] += step;
  }
}
}
