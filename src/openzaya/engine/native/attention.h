// Causal attention over a sequence's blocks of keys and values, with a running softmax.
//
// Blocks are visited in order of position and masked by position alone, so a query's result does
// not depend on which other queries are computed with it, nor on how its prompt was cut.
#pragma once
#include <cmath>

#include "vec.h"

namespace zaya {

constexpr int BLOCK = 64;      // tokens in a block of the cache
constexpr int MAX_HEAD = 256;  // channels of a head
constexpr int GROUP = 4;       // queries that share one pass over the keys at least,
constexpr int WIDE_GROUP = 8;  // and at most

// One query: its scaled channels, where its output goes, and the positions [from, to) it sees.
struct Query {
  const float* q;
  float* out;
  int64_t from;
  int64_t to;
};

template <int GROUP>
struct Running {
  float best[GROUP];
  float total[GROUP];
  alignas(64) float out[GROUP][MAX_HEAD];
};

// keys [P][BLOCK], values [BLOCK][P] of one head in one block that starts at position `start`.
template <int GROUP, class KV>
INLINE void attend_block(const Query* queries, int count, const KV* keys, const KV* values,
                         int64_t start, int width, Running<GROUP>& run) {
  alignas(64) float weight[GROUP][BLOCK];
  v16 scores[GROUP][4];
  constexpr int SPAN = GROUP > 4 ? 2 : 4;  // vectors of keys whose sums fit the registers
  for (int from = 0; from < 4; from += SPAN) {
    v16 sums[GROUP][SPAN] = {};
    for (int p = 0; p < width; ++p) {
      v16 k[SPAN];
      for (int i = 0; i < SPAN; ++i) k[i] = load(keys + p * BLOCK + (from + i) * LANES);
      for (int r = 0; r < GROUP; ++r) {
        v16 q = splat(queries[r].q[p]);
        for (int i = 0; i < SPAN; ++i) sums[r][i] += q * k[i];
      }
    }
    for (int r = 0; r < GROUP; ++r)
      for (int i = 0; i < SPAN; ++i) scores[r][from + i] = sums[r][i];
  }
  const i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  int first = BLOCK, last = 0;
  for (int r = 0; r < GROUP; ++r) {
    int from = int(std::max<int64_t>(queries[r].from - start, 0));
    int to = int(std::min<int64_t>(queries[r].to - start, BLOCK));
    if (r >= count || from >= to) {
      for (int i = 0; i < 4; ++i) store(weight[r] + i * LANES, v16{});
      continue;
    }
    first = std::min(first, from);
    last = std::max(last, to);
    const v16 never = splat(-INFINITY);
    bool whole = from == 0 && to == BLOCK;
    v16 top = never;
    for (int i = 0; i < 4; ++i) {
      i16 at = lane + i * LANES;
      if (!whole) scores[r][i] = (at >= from) & (at < to) ? scores[r][i] : never;
      top = maximum(top, scores[r][i]);
    }
    float best = std::max(run.best[r], largest(top));
    float kept = exp(splat(run.best[r] - best))[0];
    v16 total = {};
    for (int i = 0; i < 4; ++i) {
      i16 at = lane + i * LANES;
      v16 e = exp(scores[r][i] - best);
      if (!whole) e = (at >= from) & (at < to) ? e : v16{};
      store(weight[r] + i * LANES, e);
      total += e;
    }
    run.best[r] = best;
    run.total[r] = run.total[r] * kept + sum(total);
    for (int p = 0; p < width; p += LANES)
      store(run.out[r] + p, load(run.out[r] + p) * kept);
  }
  for (int p = 0; p < width; p += 2 * LANES) {
    v16 low[GROUP], high[GROUP];
    for (int r = 0; r < GROUP; ++r) {
      low[r] = load(run.out[r] + p);
      high[r] = load(run.out[r] + p + LANES);
    }
    for (int s = first; s < last; ++s) {
      v16 a = load(values + s * width + p), b = load(values + s * width + p + LANES);
      for (int r = 0; r < GROUP; ++r) {
        v16 w = splat(weight[r][s]);
        low[r] += w * a;
        high[r] += w * b;
      }
    }
    for (int r = 0; r < GROUP; ++r) {
      store(run.out[r] + p, low[r]);
      store(run.out[r] + p + LANES, high[r]);
    }
  }
}

// Up to GROUP queries of one sequence that share a key head. `keys` and `values` start the pool of
// blocks, `stride` is a block's size in numbers, `offset` that of the head inside it.
template <int GROUP, class KV>
void attend(const Query* given, int count, const KV* keys, const KV* values, const int32_t* table,
            int64_t stride, int64_t offset, int width) {
  Query queries[GROUP];
  for (int r = 0; r < GROUP; ++r) queries[r] = given[r < count ? r : 0];
  Running<GROUP> run;
  int64_t from = queries[0].from, to = queries[0].to;
  for (int r = 0; r < GROUP; ++r) {
    run.best[r] = -INFINITY;
    run.total[r] = 0;
    from = std::min(from, queries[r].from);
    to = std::max(to, queries[r].to);
    for (int p = 0; p < width; p += LANES) store(run.out[r] + p, v16{});
  }
  for (int64_t block = from / BLOCK; block * BLOCK < to; ++block) {
    int64_t at = int64_t(table[block]) * stride + offset;
    attend_block<GROUP>(queries, count, keys + at, values + at, block * BLOCK, width, run);
  }
  for (int r = 0; r < count; ++r) {
    float share = 1.0f / run.total[r];
    for (int p = 0; p < width; p += LANES)
      store(queries[r].out + p, load(run.out[r] + p) * share);
  }
}

}  // namespace zaya
