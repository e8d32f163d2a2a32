// Steps of Muon on a CPU, one thread a call. A matrix is computed by itself, so its bits depend neither
// on the others of a call nor on the number of threads.
#include "newton_schulz.h"

#if defined(HALVES)
namespace zaya {

// What is to be orthogonalized, into w.exact; returns its largest entry. The average may be null.
float take_gradient(Work& w, const float* grad, float* average, float fresh, bool is_nesterov) {
  v16 most{};
  const auto mixed = [=](auto old, auto g) { return old + fresh * (g - old); };
  for (int64_t r = 0; r < w.I; ++r) {
    const float* from = grad + r * w.O;
    float *to = w.exact + r * w.stride, *old = average ? average + r * w.O : nullptr;
    int64_t c = 0;
    for (; c + LANES <= w.O; c += LANES) {
      const v16 g = load(from + c);
      if (old) store(old + c, mixed(load(old + c), g));
      store(to + c, !old ? g : is_nesterov ? mixed(load(old + c), g) : load(old + c));
    }
    for (; c < w.O; ++c) {
      if (old) old[c] = mixed(old[c], from[c]);
      to[c] = !old ? from[c] : is_nesterov ? mixed(old[c], from[c]) : old[c];
    }
    for (; c < w.stride; ++c) to[c] = 0.0f;
    for (c = 0; c < w.stride; c += LANES) most = maximum(most, maximum(load(to + c), -load(to + c)));
  }
  return largest(most);
}

// Weights [I, O]: times `keep`, plus `factor` times what is nearly U V' of the averaged gradient.
void move(Work& w, float peak, int64_t steps, float keep, float factor, float* weight) {
  orthogonalize(w, peak, steps, [&](int64_t r, int64_t panel, const float* values) {
    float* at = weight + r * w.O + panel * PANEL;
    const int64_t left = w.O - panel * PANEL, count = left < PANEL ? left : PANEL;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
      store(at + i, load(at + i) * keep + load(values + i) * factor);
    for (; i < count; ++i) at[i] = at[i] * keep + values[i] * factor;
  });
}

}  // namespace zaya
#endif

extern "C" {

// How many half-precision numbers the processor computes with at once; 0 where it does not.
int64_t half_lanes() {
#if defined(HALVES)
  return HALVES;
#else
  return 0;
#endif
}

#if defined(HALVES)
// A step on N matrices [I, O]. average: of the gradients, moved by the share `fresh`; null for none.
void muon_step(const float* grad, float* average, float fresh, int64_t is_nesterov, int64_t N, int64_t I,
               int64_t O, int64_t steps, float keep, float factor, float* weight) {
  for (int64_t n = 0; n < N; ++n) {
    zaya::Work w(I, O);
    const int64_t start = n * I * O;
    const float peak = zaya::take_gradient(w, grad + start, average ? average + start : nullptr, fresh,
                                           is_nesterov != 0);
    zaya::move(w, peak, steps, keep, factor, weight + start);
  }
}
#endif
}
