// Causal attention inside packed documents, forward and backward, with a running softmax.
//
// A tile is QUERIES tokens of one document. Its queries are turned, so that a token's scores stay in
// one lane: maxima and sums over keys need no shuffles, and keys and values are read where they lie.
// All heads of a group meet a block of keys while it is in the first-level cache. Tiles and blocks
// are counted from the document's start: what lies beside it does not change a bit.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "product.h"

namespace zaya {

constexpr int QUERIES = 2 * LANES;  // tokens of a tile
constexpr int PIECES = QUERIES / PIECE;
constexpr int KEYS = 64;  // keys that a tile meets at once

// Queries [T, heads, width], keys and values [T, groups, width]; width is a multiple of LANES.
struct AttentionShape {
  int64_t heads, groups, width;
  int64_t window;  // tokens that a query sees, its own included
  float scale;     // of the scores
  int64_t group() const { return heads / groups; }
  int64_t q_stride() const { return heads * width; }
  int64_t k_stride() const { return groups * width; }
};

// Queries [from, to) of a document, and the first key that any of them sees. The token of a query's row
// has the key `shift` rows on: of a document that begins elsewhere there are keys without queries.
struct QueryTile {
  int64_t from, to, first_key, shift;
  int count() const { return int(to - from); }
};

// 2^x for x <= 127: 2^n times a polynomial on [-1/2, 1/2]. 0 for -infinity, and NaN stays.
INLINE piece exp2_below(piece x) {
  const piece magic = spread(12582912.0f);  // adding 1.5 * 2^23 rounds to a whole number
#if REGISTER_BYTES < 64
  const piece given = x, least = spread(-126.0f);
  x = x < least ? least : x;
#endif
  const piece sum = x + magic, n = sum - magic, r = x - n;
  piece p = spread(0.00132647273f);
  p = p * r + 0.00967151299f;
  p = p * r + 0.0555073358f;
  p = p * r + 0.240222424f;
  p = p * r + 0.693147004f;
  p = p * r + 1.0f;
#if REGISTER_BYTES == 64
  // Of n = -infinity this makes 0, although p is no number then.
  return (piece)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  p = (piece)((whole_piece)p + ((whole_piece)sum << 23));  // n added to the exponent
  return given < least ? piece{} : p;
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
  const int64_t own = tile.from + tile.shift, end = tile.to + tile.shift;
  for (int64_t from = tile.first_key; from < end; from += KEYS) {
    int count = int(std::min<int64_t>(KEYS, end - from));
    bool partial = from + count - 1 > own || from <= end - 1 - window;
    meet(KeyBlock{from, count, partial});
  }
}

// A document's last query belongs to its last key.
template <class Do>
INLINE void for_each_tile(const int32_t* ends, const int32_t* key_ends, int64_t documents,
                          int64_t window, Do work) {
  for (int64_t d = 0; d < documents; ++d) {
    const int64_t shift = key_ends[d + 1] - ends[d + 1];
    for (int64_t from = ends[d]; from < ends[d + 1]; from += QUERIES)
      work(QueryTile{from, std::min<int64_t>(from + QUERIES, ends[d + 1]),
                     std::max<int64_t>(key_ends[d], from + shift - window + 1), shift});
  }
}

// Which of the tile's queries, from `lane` on, see a key.
INLINE whole_piece sees(const QueryTile& tile, int64_t window, int64_t key, int lane) {
  whole_piece distance;
  UNROLL for (int i = 0; i < PIECE; ++i) distance[i] = i;
  distance += int(tile.from + tile.shift + lane - key);
  return (distance >= 0) & (distance < int(std::min<int64_t>(window, INT32_MAX)));
}

// What the queries of one head have seen so far: the best score, the softmax's sum relative to it and
// the weighted values [QUERIES][width].
struct Running {
  float best[QUERIES], total[QUERIES];
  float* values;
};

INLINE void largest_scores(const float* scores, int keys, piece (&best)[PIECES]) {
  piece other[PIECES];  // a second chain: one alone would wait for itself
  UNROLL for (int i = 0; i < PIECES; ++i) other[i] = best[i];
  int s = 0;
  for (; s + 2 <= keys; s += 2)
    UNROLL for (int i = 0; i < PIECES; ++i) {
      best[i] = maximum(best[i], load_piece(scores + s * QUERIES + i * PIECE));
      other[i] = maximum(other[i], load_piece(scores + (s + 1) * QUERIES + i * PIECE));
    }
  UNROLL for (int i = 0; i < PIECES; ++i) {
    if (s < keys) best[i] = maximum(best[i], load_piece(scores + s * QUERIES + i * PIECE));
    best[i] = maximum(best[i], other[i]);
  }
}

// Scores [keys][QUERIES] become weights relative to the best so far, and so does what was summed.
inline void weigh(float* scores, int keys, Running& run, int64_t width) {
  piece best[PIECES], total[PIECES] = {};
  UNROLL for (int i = 0; i < PIECES; ++i) best[i] = load_piece(run.best + i * PIECE);
  largest_scores(scores, keys, best);
  for (int s = 0; s < keys; ++s)
    UNROLL for (int i = 0; i < PIECES; ++i) {
      float* at = scores + s * QUERIES + i * PIECE;
      const piece e = exp2_below(load_piece(at) - best[i]);
      store_piece(at, e);
      total[i] += e;
    }
  float kept[QUERIES], old[QUERIES];
  std::copy_n(run.best, QUERIES, old);
  UNROLL for (int i = 0; i < PIECES; ++i) {
    const piece share = exp2_below(load_piece(old + i * PIECE) - best[i]);
    store_piece(kept + i * PIECE, share);
    store_piece(run.best + i * PIECE, best[i]);
    store_piece(run.total + i * PIECE, load_piece(run.total + i * PIECE) * share + total[i]);
  }
  if (std::equal(old, old + QUERIES, run.best)) return;
  for (int r = 0; r < QUERIES; ++r)
    for (int64_t p = 0; p < width; p += PIECE) {
      float* at = run.values + r * width + p;
      store_piece(at, load_piece(at) * kept[r]);
    }
}

inline void start_softmax(Running& run, float* values, int64_t width) {
  std::fill_n(run.best, QUERIES, std::numeric_limits<float>::lowest());
  std::fill_n(run.total, QUERIES, 0.0f);
  std::fill_n(values, QUERIES * width, 0.0f);
  run.values = values;
}

inline void finish_softmax(const Running& run, const QueryTile& tile, int64_t width, float* out,
                           int64_t stride) {
  float shares[QUERIES];
  for (int i = 0; i < QUERIES; ++i) shares[i] = 1.0f / run.total[i];
  for (int r = 0; r < tile.count(); ++r)
    for (int64_t p = 0; p < width; p += PIECE)
      store_piece(out + r * stride + p, load_piece(run.values + r * width + p) * shares[r]);
}

inline void mask_scores(const QueryTile& tile, int64_t window, const KeyBlock& block,
                        float* scores) {
  for (int s = 0; s < block.count; ++s)
    for (int lane = 0; lane < QUERIES; lane += PIECE) {
      float* at = scores + s * QUERIES + lane;
      const piece seen = load_piece(at);
      store_piece(at, sees(tile, window, block.from + s, lane) ? seen : spread(-INFINITY));
    }
}

constexpr float LOG2_E = 1.44269504088896341f;

}  // namespace zaya

// Ends are 0, then the end of every document. out [T, heads, width], and of each softmax the best score
// (in powers of 2) and the sum relative to it, both [heads, T].
extern "C" void attend_forward(const float* q, const float* k, const float* v, float* out, float* best,
                               float* total, const int32_t* ends, const int32_t* key_ends,
                               int64_t documents, int64_t heads, int64_t groups, int64_t width,
                               int64_t window, float scale) {
  using namespace zaya;
  const AttentionShape shape{heads, groups, width, window, scale};
  const int64_t group = shape.group(), tokens = ends[documents], size = QUERIES * width;
  Scratch turned(group * size), sums(group * size), scores(KEYS * QUERIES);
  std::unique_ptr<Running[]> runs(new Running[group]);
  for (int64_t g = 0; g < groups; ++g)
    for_each_tile(ends, key_ends, documents, window, [&](const QueryTile& tile) {
      const int64_t first = tile.from * shape.q_stride() + g * group * width;
      for (int64_t h = 0; h < group; ++h) {
        turn_rows(q + first + h * width, shape.q_stride(), tile.count(), width, scale * LOG2_E,
                  turned + h * size);
        start_softmax(runs[h], sums + h * size, width);
      }
      for_each_block(tile, window, [&](const KeyBlock& block) {
        const int64_t at = block.from * shape.k_stride() + g * width;
        const Rows keys{k + at, shape.k_stride()}, values{v + at, shape.k_stride()};
        for (int64_t h = 0; h < group; ++h) {
          multiply<false, false>(keys, {turned + h * size, QUERIES}, scores, QUERIES, block.count,
                                 QUERIES, int(width));
          if (block.partial) mask_scores(tile, window, block, scores);
          weigh(scores, block.count, runs[h], width);
          multiply<true, true>({scores, QUERIES}, values, runs[h].values, width, tile.count(),
                               int(width), block.count);
        }
      });
      for (int64_t h = 0; h < group; ++h) {
        finish_softmax(runs[h], tile, width, out + first + h * width, shape.q_stride());
        const int64_t at = (g * group + h) * tokens + tile.from;
        std::copy_n(runs[h].best, tile.count(), best + at);
        std::copy_n(runs[h].total, tile.count(), total + at);
      }
    });
}

// Gradients of all three from that of `out`; those of keys and values are added to what is there.
extern "C" void attend_backward(const float* q, const float* k, const float* v, const float* out,
                                const float* lse, const float* out_grad, float* q_grad, float* k_grad,
                                float* v_grad, const int32_t* ends, const int32_t* key_ends,
                                int64_t documents, int64_t heads, int64_t groups, int64_t width,
                                int64_t window, float scale) {
  using namespace zaya;
  const AttentionShape shape{heads, groups, width, window, scale};
  const int64_t group = shape.group(), tokens = ends[documents], size = QUERIES * width;
  const int64_t stride = shape.q_stride();
  Scratch turned(group * size), turned_grad(group * size), sums(group * size);
  Scratch weights(KEYS * QUERIES), slopes(KEYS * QUERIES);
  Scratch bases(group * QUERIES), means(group * QUERIES);
  for (int64_t g = 0; g < groups; ++g)
    for_each_tile(ends, key_ends, documents, window, [&](const QueryTile& tile) {
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
          for (int lane = 0; lane < QUERIES; lane += PIECE) {
            const piece base = load_piece(bases + h * QUERIES + lane);
            const piece mean = load_piece(means + h * QUERIES + lane);
            for (int s = 0; s < block.count; ++s) {
              float *weight = weights + s * QUERIES + lane, *slope = slopes + s * QUERIES + lane;
              piece e = exp2_below(load_piece(weight) - base);
              if (block.partial) e = sees(tile, window, block.from + s, lane) ? e : piece{};
              store_piece(weight, e);
              store_piece(slope, e * (load_piece(slope) - mean));
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
