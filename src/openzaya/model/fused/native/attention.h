// Causal attention inside packed documents, forward and backward, with a running softmax.
//
// A tile is QUERIES tokens of one document. Its queries are turned, so that a token's scores stay in
// one lane: maxima and sums over keys need no shuffles, and keys and values are read where they lie.
// All heads of a group meet a block of keys while it is in the first-level cache. Tiles and blocks
// are counted from the document's start: what lies beside it does not change a bit.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "product.h"

namespace zaya {

constexpr int VECTORS = 2;
constexpr int QUERIES = VECTORS * LANES;  // tokens of a tile
constexpr int KEYS = 64;            // keys that a tile meets at once

// Queries [T, heads, width], keys and values [T, groups, width]; width is a multiple of LANES.
struct AttentionShape {
  int64_t heads, groups, width;
  int64_t window;  // tokens that a query sees, its own included
  float scale;     // of the scores
  int64_t group() const { return heads / groups; }
  int64_t q_stride() const { return heads * width; }
  int64_t k_stride() const { return groups * width; }
};

// Tokens [from, to) of a document, and the first key that any of them sees.
struct QueryTile {
  int64_t from, to, first_key;
  int count() const { return int(to - from); }
  int lanes() const { return (count() + LANES - 1) / LANES * LANES; }
};

// 2^x for x <= 127: 2^n times a polynomial on [-1/2, 1/2]. 0 for -infinity, and NaN stays.
INLINE v16 exp2_below(v16 x) {
  const v16 magic = splat(12582912.0f);  // adding 1.5 * 2^23 rounds to a whole number
#if !defined(__AVX512F__)
  v16 whole = x;
  x = x < splat(-126.0f) ? splat(-126.0f) : x;
#endif
  v16 sum = x + magic, n = sum - magic, r = x - n;
  v16 p = splat(0.00132647273f);
  p = p * r + 0.00967151299f;
  p = p * r + 0.0555073358f;
  p = p * r + 0.240222424f;
  p = p * r + 0.693147004f;
  p = p * r + 1.0f;
#if defined(__AVX512F__)
  return (v16)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  p = (v16)((i16)p + ((i16)sum << 23));
  return whole < splat(-126.0f) ? v16{} : p;
#endif
}

// Rows of one head, times a factor, turned to [width][QUERIES]; tokens that are missing get zeros.
inline void turn_rows(const float* rows, int64_t stride, int count, int64_t width, float factor,
                      float* turned) {
  for (int from = 0; from < QUERIES; from += LANES)
    for (int64_t p = 0; p < width; p += LANES) {
      v16 x[LANES];
      for (int i = 0; i < LANES; ++i)
        x[i] = from + i < count ? load(rows + (from + i) * stride + p) * factor : v16{};
      turn16(x);
      for (int i = 0; i < LANES; ++i) store(turned + (p + i) * QUERIES + from, x[i]);
    }
}

// Keys [from, from + count) that a tile meets, and whether some query does not see all of them.
struct KeyBlock {
  int64_t from;
  int count;
  bool partial;
};

template <class Meet>
INLINE void for_each_block(const QueryTile& tile, int64_t window, Meet meet) {
  for (int64_t from = tile.first_key; from < tile.to; from += KEYS) {
    int count = int(std::min<int64_t>(KEYS, tile.to - from));
    bool partial = from + count - 1 > tile.from || from <= tile.to - 1 - window;
    meet(KeyBlock{from, count, partial});
  }
}

template <class Do>
INLINE void for_each_tile(const int32_t* ends, int64_t documents, int64_t window, Do work) {
  for (int64_t d = 0; d < documents; ++d)
    for (int64_t from = ends[d]; from < ends[d + 1]; from += QUERIES)
      work(QueryTile{from, std::min<int64_t>(from + QUERIES, ends[d + 1]),
                     std::max<int64_t>(ends[d], from - window + 1)});
}

// Lanes of the tile's queries, from `lane` on, that see a key.
INLINE i16 sees(const QueryTile& tile, int64_t window, int64_t key, int lane) {
  const i16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  i16 distance = lanes + int(tile.from + lane - key);  // < QUERIES + the keys of a window
  return (distance >= 0) & (distance < int(std::min<int64_t>(window, INT32_MAX)));
}

// What the queries of one head have seen so far: the best score, the softmax's sum relative to it and
// the weighted values [QUERIES][width].
struct Running {
  float best[QUERIES], total[QUERIES];
  float* values;
};

INLINE void largest_scores(const float* scores, int keys, v16 (&best)[VECTORS]) {
  v16 other[VECTORS];  // a second chain: one alone would wait for itself
  UNROLL for (int i = 0; i < VECTORS; ++i) other[i] = best[i];
  int s = 0;
  for (; s + 2 <= keys; s += 2)
    UNROLL for (int i = 0; i < VECTORS; ++i) {
      best[i] = maximum(best[i], load(scores + s * QUERIES + i * LANES));
      other[i] = maximum(other[i], load(scores + (s + 1) * QUERIES + i * LANES));
    }
  UNROLL for (int i = 0; i < VECTORS; ++i) {
    if (s < keys) best[i] = maximum(best[i], load(scores + s * QUERIES + i * LANES));
    best[i] = maximum(best[i], other[i]);
  }
}

// Scores [keys][QUERIES] become weights relative to the best so far, and so does what was summed.
inline void weigh(float* scores, int keys, Running& run, int64_t width) {
  v16 best[VECTORS], total[VECTORS] = {};
  float kept[QUERIES];
  bool changed = false;
  UNROLL for (int i = 0; i < VECTORS; ++i) best[i] = load(run.best + i * LANES);
  largest_scores(scores, keys, best);
  for (int s = 0; s < keys; ++s)
    UNROLL for (int i = 0; i < VECTORS; ++i) {
      float* at = scores + s * QUERIES + i * LANES;
      v16 e = exp2_below(load(at) - best[i]);
      store(at, e);
      total[i] += e;
    }
  UNROLL for (int i = 0; i < VECTORS; ++i) {
    v16 old = load(run.best + i * LANES), share = exp2_below(old - best[i]);
    changed |= !same(old, best[i]);
    store(kept + i * LANES, share);
    store(run.best + i * LANES, best[i]);
    store(run.total + i * LANES, load(run.total + i * LANES) * share + total[i]);
  }
  if (!changed) return;
  for (int r = 0; r < QUERIES; ++r)
    for (int64_t p = 0; p < width; p += LANES) {
      float* at = run.values + r * width + p;
      store(at, load(at) * kept[r]);
    }
}

inline void begin(Running& run, float* values, int64_t width) {
  std::fill_n(run.best, QUERIES, -FLT_MAX);
  std::fill_n(run.total, QUERIES, 0.0f);
  std::fill_n(values, QUERIES * width, 0.0f);
  run.values = values;
}

inline void finish(const Running& run, const QueryTile& tile, int64_t width, float* out,
                   int64_t stride) {
  float shares[QUERIES];
  for (int i = 0; i < QUERIES; i += LANES) store(shares + i, 1.0f / load(run.total + i));
  for (int r = 0; r < tile.count(); ++r)
    for (int64_t p = 0; p < width; p += LANES)
      store(out + r * stride + p, load(run.values + r * width + p) * shares[r]);
}

inline void mask_scores(const QueryTile& tile, int64_t window, const KeyBlock& block, float hidden,
                        float* scores) {
  for (int s = 0; s < block.count; ++s)
    for (int lane = 0; lane < QUERIES; lane += LANES) {
      float* at = scores + s * QUERIES + lane;
      store(at, sees(tile, window, block.from + s, lane) ? load(at) : splat(hidden));
    }
}

constexpr float LOG2_E = 1.44269504088896341f;

}  // namespace zaya

// out [T, heads, width], and of each softmax the best score (in powers of 2) and the sum relative to
// it, both [heads, T].
extern "C" void attend_forward(const float* q, const float* k, const float* v, float* out, float* best,
                               float* total, const int32_t* ends, int64_t documents, int64_t heads,
                               int64_t groups, int64_t width, int64_t window, float scale) {
  using namespace zaya;
  const AttentionShape shape{heads, groups, width, window, scale};
  const int64_t group = shape.group(), tokens = ends[documents], size = QUERIES * width;
  Scratch turned(group * size), sums(group * size), scores(KEYS * QUERIES);
  std::unique_ptr<Running[]> runs(new Running[group]);
  for (int64_t g = 0; g < groups; ++g)
    for_each_tile(ends, documents, window, [&](const QueryTile& tile) {
      const int64_t first = tile.from * shape.q_stride() + g * group * width;
      for (int64_t h = 0; h < group; ++h) {
        turn_rows(q + first + h * width, shape.q_stride(), tile.count(), width, scale * LOG2_E,
                  turned + h * size);
        begin(runs[h], sums + h * size, width);
      }
      for_each_block(tile, window, [&](const KeyBlock& block) {
        const int64_t at = block.from * shape.k_stride() + g * width;
        const Rows keys{k + at, shape.k_stride()}, values{v + at, shape.k_stride()};
        for (int64_t h = 0; h < group; ++h) {
          multiply<false, false>(keys, {turned + h * size, QUERIES}, scores, QUERIES, block.count,
                                 QUERIES, int(width));
          if (block.partial) mask_scores(tile, window, block, -INFINITY, scores);
          weigh(scores, block.count, runs[h], width);
          multiply<true, true>({scores, QUERIES}, values, runs[h].values, width, tile.count(),
                               int(width), block.count);
        }
      });
      for (int64_t h = 0; h < group; ++h) {
        finish(runs[h], tile, width, out + first + h * width, shape.q_stride());
        const int64_t at = (g * group + h) * tokens + tile.from;
        std::copy_n(runs[h].best, tile.count(), best + at);
        std::copy_n(runs[h].total, tile.count(), total + at);
      }
    });
}

// Gradients of all three from that of `out`; those of keys and values are added to what is there.
extern "C" void attend_backward(const float* q, const float* k, const float* v, const float* out,
                                const float* lse, const float* out_grad, float* q_grad, float* k_grad,
                                float* v_grad, const int32_t* ends, int64_t documents, int64_t heads,
                                int64_t groups, int64_t width, int64_t window, float scale) {
  using namespace zaya;
  const AttentionShape shape{heads, groups, width, window, scale};
  const int64_t group = shape.group(), tokens = ends[documents], size = QUERIES * width;
  const int64_t stride = shape.q_stride();
  Scratch turned(group * size), turned_grad(group * size), sums(group * size);
  Scratch weights(KEYS * QUERIES), slopes(KEYS * QUERIES);
  Scratch bases(group * QUERIES), means(group * QUERIES);
  for (int64_t g = 0; g < groups; ++g)
    for_each_tile(ends, documents, window, [&](const QueryTile& tile) {
      const int64_t first = tile.from * stride + g * group * width;
      std::fill_n(static_cast<float*>(sums), group * size, 0.0f);
      for (int64_t h = 0; h < group; ++h) {
        const int64_t at = first + h * width;
        turn_rows(q + at, stride, tile.count(), width, scale * LOG2_E, turned + h * size);
        turn_rows(out_grad + at, stride, tile.count(), width, scale, turned_grad + h * size);
        for (int r = 0; r < tile.count(); ++r) {
          v16 along = {};
          for (int64_t p = 0; p < width; p += LANES)
            along += load(out + at + r * stride + p) * load(out_grad + at + r * stride + p);
          means[h * QUERIES + r] = sum(along) * scale;
          bases[h * QUERIES + r] = lse[(g * group + h) * tokens + tile.from + r];
        }
        for (int r = tile.count(); r < QUERIES; ++r)
          means[h * QUERIES + r] = bases[h * QUERIES + r] = 0.0f;
      }
      for_each_block(tile, window, [&](const KeyBlock& block) {
        const int64_t at = block.from * shape.k_stride() + g * width;
        const Rows keys{k + at, shape.k_stride()}, values{v + at, shape.k_stride()};
        for (int64_t h = 0; h < group; ++h) {
          multiply<false, false>(keys, {turned + h * size, QUERIES}, weights, QUERIES, block.count,
                                 QUERIES, int(width));
          multiply<false, false>(values, {turned_grad + h * size, QUERIES}, slopes, QUERIES,
                                 block.count, QUERIES, int(width));
          for (int lane = 0; lane < QUERIES; lane += LANES) {
            const v16 base = load(bases + h * QUERIES + lane), mean = load(means + h * QUERIES + lane);
            for (int s = 0; s < block.count; ++s) {
              float *weight = weights + s * QUERIES + lane, *slope = slopes + s * QUERIES + lane;
              v16 e = exp2_below(load(weight) - base);
              if (block.partial) e = sees(tile, window, block.from + s, lane) ? e : v16{};
              store(weight, e);
              store(slope, e * (load(slope) - mean));
            }
          }
          const int64_t own = first + h * width;
          multiply<false, true>({weights, QUERIES}, {out_grad + own, stride}, v_grad + at,
                                shape.k_stride(), block.count, int(width), tile.count());
          multiply<false, true>({slopes, QUERIES}, {q + own, stride}, k_grad + at, shape.k_stride(),
                                block.count, int(width), tile.count());
          multiply<true, true>({slopes, QUERIES}, keys, sums + h * size, width, tile.count(),
                               int(width), block.count);
        }
      });
      for (int64_t h = 0; h < group; ++h)
        for (int r = 0; r < tile.count(); ++r)
          std::copy_n(sums + h * size + r * width, width, q_grad + first + r * stride + h * width);
    });
}
