// Causal attention over a sequence's blocks of keys and values, with a running softmax.
//
// Blocks are visited in order of position and masked by position alone, so a query's result does
// not depend on which other queries are computed with it, nor on how its prompt was cut.
#pragma once
#include <algorithm>
#include <cmath>

#include "vec.h"

namespace zaya {

constexpr int BLOCK = 64;      // tokens in a block of the cache
constexpr int MAX_HEAD = 256;  // channels of a head
constexpr int GROUP = 4;       // queries whose sums are in registers at once at least,
constexpr int WIDE_GROUP = PARTS == 1 ? 8 : 4;  // and at most
constexpr int MAX_QUERIES = 64;  // that meet a block while it is in the first-level cache

// One query: its scaled channels, where its output goes, and the positions [from, to) it sees.
struct Query {
  const float* q;
  float* out;
  int64_t from;
  int64_t to;
};

// What a group of queries has seen: lane r is query r's, whose `out` holds its sum of values.
struct Running {
  v16 best = splat(-1e30f);  // finite, for a query that sees nothing of the first blocks
  v16 total = {};
};

// Positions [first, last) of a block are seen by a query of a group, and all by every one if `whole`.
struct Seen {
  int first = BLOCK, last = 0;
  bool whole = true;
};

// The block that a thread meets next, and how many of its positions.
struct Next {
  const int32_t* block = nullptr;
  int count = 0;
};

// Ask memory for `count` numbers.
template <class KV>
INLINE void fetch(const KV* at, int count) {
  for (int i = 0; i < count; i += int(64 / sizeof(KV))) __builtin_prefetch(at + i, 0, 2);
}

template <int GROUP>
INLINE Seen seen_by(const Query* queries, int64_t start) {
  Seen seen;
  for (int r = 0; r < GROUP; ++r) {
    int from = int(std::clamp<int64_t>(queries[r].from - start, 0, BLOCK));
    int to = int(std::clamp<int64_t>(queries[r].to - start, 0, BLOCK));
    seen.whole &= from == 0 && to == BLOCK;
    if (from >= to) continue;
    seen.first = std::min(seen.first, from);
    seen.last = std::max(seen.last, to);
  }
  return seen;
}

// Scores of a group against the keys [P][BLOCK] of a block, while `count` keys of the next one are
// fetched. A few lines at a time: many at once would stop the arithmetic.
template <int GROUP, class KV>
INLINE void score(const Query* queries, const KV* keys, int width, float (*scores)[BLOCK],
                  const KV* next, int count) {
  constexpr int PIECES = GROUP > 4 || PARTS > 1 ? 2 : 4;  // of keys, whose sums fit the registers
  for (int from = 0; from < BLOCK; from += PIECES * PIECE) {
    piece sums[GROUP][PIECES] = {};
    for (int p = 0; p < width; ++p) {
      if (from == 0) fetch(next + p * BLOCK, count);
      piece k[PIECES];
      UNROLL for (int i = 0; i < PIECES; ++i)
        k[i] = keep(load_piece(keys + p * BLOCK + from + i * PIECE));
      UNROLL for (int r = 0; r < GROUP; ++r) {
        piece q = spread(queries[r].q[p]);
        UNROLL for (int i = 0; i < PIECES; ++i) sums[r][i] = add_product(sums[r][i], q, k[i]);
      }
    }
    UNROLL for (int r = 0; r < GROUP; ++r)
      UNROLL for (int i = 0; i < PIECES; ++i)
        store_piece(scores[r] + from + i * PIECE, sums[r][i]);
  }
}

// What a query does not see gets the score -infinity.
template <int GROUP>
INLINE void mask(const Query* queries, int64_t start, float (*scores)[BLOCK]) {
  static constexpr int32_t COUNT[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const i16 lane = load(COUNT);
  for (int r = 0; r < GROUP; ++r) {
    i16 from = lane + int(start - queries[r].from), to = lane + int(start - queries[r].to);
    for (int i = 0; i < BLOCK; i += LANES) {
      i16 seen = (from + i >= 0) & (to + i < 0);
      store(scores[r] + i, select(seen, load(scores[r] + i), splat(-INFINITY)));
    }
  }
}

// Scores become weights relative to the best score so far, and so does what was summed before.
template <int GROUP>
INLINE void weigh(const Query* queries, int width, bool whole, float (*scores)[BLOCK],
                  Running& run) {
  v16 tops[GROUP], totals[GROUP] = {};
  for (int r = 0; r < GROUP; ++r) {
    tops[r] = load(scores[r]);
    for (int i = LANES; i < BLOCK; i += LANES) tops[r] = maximum(tops[r], load(scores[r] + i));
  }
  v16 best = maximum(run.best, across<GROUP, Max>(tops)), kept = exp(run.best - best);
  float bests[LANES], shares[LANES];
  store(bests, best);
  for (int r = 0; r < GROUP; ++r)
    for (int i = 0; i < BLOCK; i += LANES) {
      v16 s = load(scores[r] + i), e = exp(s - bests[r]);
      if (!whole) e = select(s == splat(-INFINITY), v16{}, e);
      store(scores[r] + i, e);
      totals[r] += e;
    }
  run.total = run.total * kept + across<GROUP>(totals);
  if (same(run.best, best)) return;
  run.best = best;
  store(shares, kept);
  for (int r = 0; r < GROUP; ++r)
    for (int p = 0; p < width; p += LANES)
      store(queries[r].out + p, load(queries[r].out + p) * shares[r]);
}

// Add the weighted values [BLOCK][P] of positions [first, last) to the outputs of a group, while
// `count` values of the next block are fetched.
template <int GROUP, class KV>
INLINE void add_values(const Query* queries, const KV* values, int width, const Seen& seen,
                       const float (*weights)[BLOCK], const KV* next, int count) {
  for (int p = 0; p < width; p += 2 * PIECE) {
    piece low[GROUP], high[GROUP];
    UNROLL for (int r = 0; r < GROUP; ++r) {
      low[r] = load_piece(queries[r].out + p);
      high[r] = load_piece(queries[r].out + p + PIECE);
    }
    for (int s = seen.first; s < seen.last; ++s) {
      if (s < count) fetch(next + s * width + p, 2 * PIECE);
      piece a = keep(load_piece(values + s * width + p));
      piece b = keep(load_piece(values + s * width + p + PIECE));
      UNROLL for (int r = 0; r < GROUP; ++r) {
        piece w = spread(weights[r][s]);
        low[r] = add_product(low[r], w, a);
        high[r] = add_product(high[r], w, b);
      }
    }
    UNROLL for (int r = 0; r < GROUP; ++r) {
      store_piece(queries[r].out + p, low[r]);
      store_piece(queries[r].out + p + PIECE, high[r]);
    }
  }
}

// Up to MAX_QUERIES of one sequence that share a key head; `queries` has room for whole groups. `keys`
// and `values` start the pool of blocks, `stride` is a block's size in numbers, `offset` that of the
// head inside it. `after` is what this thread meets behind this sequence.
template <int GROUP, class KV>
void attend(Query* queries, int count, const KV* keys, const KV* values, const int32_t* table,
            int64_t stride, int64_t offset, int width, Next after) {
  Running runs[MAX_QUERIES / GROUP];
  alignas(64) float scores[GROUP][BLOCK], spare[MAX_HEAD];
  int64_t from = queries[0].from, to = queries[0].to;
  for (int r = 0; r < count; ++r) {
    from = std::min(from, queries[r].from);
    to = std::max(to, queries[r].to);
  }
  for (; count % GROUP; ++count) queries[count] = {queries[0].q, spare, 0, 0};
  for (int r = 0; r < count; ++r)
    for (int p = 0; p < width; p += LANES) store(queries[r].out + p, v16{});
  for (int64_t block = from / BLOCK; block * BLOCK < to; ++block) {
    int64_t at = int64_t(table[block]) * stride + offset, start = block * BLOCK, end = start + BLOCK;
    Next next = after;
    if (end < to) next = {table + block + 1, int(std::min<int64_t>(to - end, BLOCK))};
    int64_t soon = next.block ? int64_t(*next.block) * stride + offset : 0;
    for (int r = 0; r < count; r += GROUP, next.count = 0) {
      Seen seen = seen_by<GROUP>(queries + r, start);
      if (seen.first >= seen.last) continue;
      score<GROUP>(queries + r, keys + at, width, scores, keys + soon, next.count);
      if (!seen.whole) mask<GROUP>(queries + r, start, scores);
      weigh<GROUP>(queries + r, width, seen.whole, scores, runs[r / GROUP]);
      add_values<GROUP>(queries + r, values + at, width, seen, scores, values + soon, next.count);
    }
  }
  for (int r = 0; r < count; ++r) {
    float share = 1.0f / runs[r / GROUP].total[r % GROUP];
    for (int p = 0; p < width; p += LANES)
      store(queries[r].out + p, load(queries[r].out + p) * share);
  }
}

}  // namespace zaya
