// Drawing one token from logits, and its log-probability, in three passes over the row.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "vec.h"

namespace zaya {

struct Drawn {
  int64_t token;
  float logprob;
};

// Sixteen logits from `at` on, minus infinity behind the end.
INLINE v16 some_logits(const float* logits, int64_t size, int64_t at) {
  if (at + LANES <= size) return load(logits + at);
  float some[LANES];
  store(some, splat(-INFINITY));
  std::copy(logits + at, logits + size, some);
  return load(some);
}

// e^((x - top) * coldness), coldness being 1 / temperature; what is below the smallest float is zero,
// not nearly zero, and what is no number stays none.
INLINE v16 share(v16 x, float top, float coldness) {
  v16 z = (x - top) * coldness;
  return select(z == z, select(z < splat(-87.0f), v16{}, exp(z)), z);
}

constexpr int64_t STRETCH = 256;

// The likeliest token, or the first whose cumulative probability exceeds `uniform` in [0, 1). A
// token of probability zero is never drawn; logits that are not finite give a NaN.
inline Drawn draw(const float* logits, int64_t size, float temperature, bool greedy,
                  float uniform) {
  float top = -INFINITY;
  int64_t token = 0;  // where the first stretch with the largest logit begins, for now
  for (int64_t from = 0; from < size; from += STRETCH) {
    v16 tops = splat(-INFINITY);
    for (int64_t i = from; i < std::min(from + STRETCH, size); i += LANES)
      tops = maximum(tops, some_logits(logits, size, i));
    float here = largest(tops);
    if (here > top) token = from;
    top = std::max(top, here);
  }
  float coldness = 1.0f / temperature;
  v16 sums = {};
  for (int64_t i = 0; i < size; i += LANES)
    sums += share(some_logits(logits, size, i), top, coldness);
  float total = sum(sums), passed = 0;
  if (greedy) {
    while (token + 1 < size && logits[token] != top) ++token;
  } else {
    float target = uniform * total;
    v16 possible = {};  // the newest shares that are not all zero, those of the tokens from `at` on
    int64_t at = 0;
    bool found = false;
    for (int64_t i = 0; i < size && !found; i += LANES) {
      v16 e = share(some_logits(logits, size, i), top, coldness);
      float step = sum(e);
      found = passed + step > target;
      if (step > 0) {
        possible = e;
        at = i;
      }
      if (!found) passed += step;
    }
    // Rounding may leave the last step to no lane; then it is the last possible token.
    for (int lane = 0; lane < LANES; ++lane) {
      if (possible[lane] > 0) token = at + lane;
      passed += possible[lane];
      if (found && passed > target) break;
    }
  }
  return {token, (logits[token] - top) / temperature - std::log(total)};
}

}  // namespace zaya
