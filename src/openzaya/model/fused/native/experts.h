// What surrounds the products of the experts: rows in the order of their experts and back, and
// silu(gate) * up with its gradients.
//
// Letters: T tokens, N of them with an expert (the others skip), E experts, D width, F expert width.
#pragma once
#include "vec.h"

namespace zaya {

INLINE v16 sigmoid(v16 x) { return 1.0f / (1.0f + exp(-x)); }
INLINE float sigmoid(float x) { return sigmoid(splat(x))[0]; }

INLINE float row_dot(const float* a, const float* b, int64_t width) {
  v16 sums{};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) sums += load(a + i) * load(b + i);
  float total = sum(sums);
  for (; i < width; ++i) total += a[i] * b[i];
  return total;
}

INLINE void scale_row(const float* x, float factor, int64_t width, float* out) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) store(out + i, load(x + i) * factor);
  for (; i < width; ++i) out[i] = x[i] * factor;
}

// What one number of the gate and one of the up half give, and take from the gradient of the hidden
// row; for vectors and for what remains of a row.
template <class V> struct Gate {
  V hidden, gate_grad, up_grad;
  INLINE Gate(V gate, V up, V grad) {
    V share = sigmoid(gate), silu = gate * share;
    hidden = silu * up;
    gate_grad = grad * up * (share + silu * (1.0f - share));
    up_grad = grad * silu;
  }
};

}  // namespace zaya

extern "C" {

// order_T: the tokens by expert, in their own order within one; class E, which skips, comes last.
// ends_E: how many tokens stand before the end of each expert's.
void sort_by_expert(const int64_t* expert_T, int64_t T, int64_t E, int32_t* order_T,
                         int32_t* ends_E) {
  for (int64_t e = 0; e < E; ++e) ends_E[e] = 0;
  for (int64_t t = 0; t < T; ++t)
    if (expert_T[t] < E) ++ends_E[expert_T[t]];
  int32_t before = 0;
  for (int64_t e = 0; e < E; ++e) {  // to where each expert begins; placing its tokens moves that on
    int32_t count = ends_E[e];
    ends_E[e] = before;
    before += count;
  }
  int32_t skipped = before;
  for (int64_t t = 0; t < T; ++t)
    order_T[expert_T[t] < E ? ends_E[expert_T[t]]++ : skipped++] = int32_t(t);
}

void take_rows(const float* x_TD, const int32_t* order_T, int64_t N, int64_t D, float* out_ND) {
  for (int64_t n = 0; n < N; ++n) std::memcpy(out_ND + n * D, x_TD + order_T[n] * D, D * 4);
}

// Puts N rows back, times their tokens' weights where there are some. The other tokens get their row
// of `skip_TD` times their weight, or zeros where it is null.
void put_rows(const float* x_ND, const int32_t* order_T, const float* weight_T,
                   const float* skip_TD, const float* skip_weight_T, int64_t N, int64_t T, int64_t D,
                   float* out_TD) {
  for (int64_t n = 0; n < T; ++n) {
    int64_t t = order_T[n];
    float* out = out_TD + t * D;
    if (n < N)
      zaya::scale_row(x_ND + n * D, weight_T ? weight_T[t] : 1.0f, D, out);
    else if (skip_TD)
      zaya::scale_row(skip_TD + t * D, skip_weight_T[t], D, out);
    else
      std::memset(out, 0, D * 4);
  }
}

// A row of `both_NG` (G = 2F) is the gate, then the up half.
void gated(const float* both_NG, int64_t N, int64_t F, float* hidden_NF) {
  using namespace zaya;
  for (int64_t n = 0; n < N; ++n) {
    const float *gate = both_NG + n * 2 * F, *up = gate + F;
    float* hidden = hidden_NF + n * F;
    int64_t i = 0;
    for (; i + LANES <= F; i += LANES)
      store(hidden + i, load(gate + i) * sigmoid(load(gate + i)) * load(up + i));
    for (; i < F; ++i) hidden[i] = gate[i] * sigmoid(gate[i]) * up[i];
  }
}

// grad_NF: in, the gradient of the expert's output times the second projection; out, the hidden row
// times its weight, which the gradient of that projection takes.
void gated_backward(const float* both_NG, const float* weight_T, const int32_t* order_T,
                         int64_t N, int64_t F, float* grad_NF, float* both_grad_NG,
                         float* weight_grad_T) {
  using namespace zaya;
  for (int64_t n = 0; n < N; ++n) {
    const float *gate = both_NG + n * 2 * F, *up = gate + F;
    float *gate_grad = both_grad_NG + n * 2 * F, *up_grad = gate_grad + F, *grad = grad_NF + n * F;
    float weight = weight_T[order_T[n]];
    v16 sums{};
    int64_t i = 0;
    for (; i + LANES <= F; i += LANES) {
      v16 unweighted = load(grad + i);
      Gate<v16> at(load(gate + i), load(up + i), unweighted * weight);
      sums += at.hidden * unweighted;
      store(gate_grad + i, at.gate_grad);
      store(up_grad + i, at.up_grad);
      store(grad + i, at.hidden * weight);
    }
    float total = sum(sums);
    for (; i < F; ++i) {
      Gate<float> at(gate[i], up[i], grad[i] * weight);
      total += at.hidden * grad[i];
      gate_grad[i] = at.gate_grad;
      up_grad[i] = at.up_grad;
      grad[i] = at.hidden * weight;
    }
    weight_grad_T[order_T[n]] = total;
  }
}

// The weights' gradients of the tokens that skip: <grad, h>, or 0 where `h_TD` is null.
void skip_backward(const float* grad_TD, const float* h_TD, const int32_t* order_T, int64_t N,
                        int64_t T, int64_t D, float* weight_grad_T) {
  for (int64_t n = N; n < T; ++n) {
    int64_t t = order_T[n];
    weight_grad_T[t] = h_TD ? zaya::row_dot(grad_TD + t * D, h_TD + t * D, D) : 0.0f;
  }
}
}
