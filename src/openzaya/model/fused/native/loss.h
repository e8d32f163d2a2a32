// Cross-entropy of rows of logits and its gradient, in place.
#pragma once
#include "vec.h"

namespace zaya {

INLINE float row_peak(const float* x, int64_t width) {
  v16 peaks = splat(-INFINITY);
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) peaks = maximum(peaks, load(x + i));
  float peak = largest(peaks);
  for (; i < width; ++i) peak = x[i] > peak ? x[i] : peak;
  return peak;
}

// Makes x e^(x - peak) and returns the sum. Four sums, as one would wait for each addition.
INLINE float exp_row(float* x, float peak, int64_t width) {
  v16 sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES) {
    UNROLL
    for (int j = 0; j < 4; ++j) {
      v16 e = exp_below(load(x + i + j * LANES) - peak);
      store(x + i + j * LANES, e);
      sums[j] += e;
    }
  }
  float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < width; ++i) {
    x[i] = exp_below(splat(x[i] - peak))[0];
    total += x[i];
  }
  return total;
}

}  // namespace zaya

extern "C" {

// Rows of V logits become the gradients of their weighted losses, w (nll + z lse^2); nll_M gets the
// losses without weight, and `total` the sum of the weighted ones. Targets are below V.
void cross_entropy(float* logits_MV, const int64_t* targets_M, const float* weights_M, int64_t M,
                        int64_t V, float z_loss, float* nll_M, float* total) {
  using namespace zaya;
  double sum_of_losses = 0.0;
  for (int64_t m = 0; m < M; ++m) {
    // A row stays in the cache from the first pass to the third.
    float *row = logits_MV + m * V, weight = weights_M[m];
    float picked = row[targets_M[m]], peak = row_peak(row, V);
    float mass = exp_row(row, peak, V);
    float normalizer = std::log(mass) + peak;
    nll_M[m] = normalizer - picked;
    sum_of_losses += weight * (nll_M[m] + z_loss * normalizer * normalizer);
    // d loss / d logits = weight * (softmax * (1 + 2 z lse) - onehot)
    float factor = weight * (1.0f + 2.0f * z_loss * normalizer) / mass;
    int64_t i = 0;
    for (; i + LANES <= V; i += LANES) store(row + i, load(row + i) * factor);
    for (; i < V; ++i) row[i] *= factor;
    row[targets_M[m]] -= weight;
  }
  *total = float(sum_of_losses);
}
}
