// The mixing of CCA, forward and backward: two convolutions over two tokens each (by channel, then by
// head), QK-mean, norm, key temperature, rotation, and the delay of half the values.
//
// A row of the projections holds the channels of the query heads, the key heads, the values of this
// token and the values that the next token gets. Work goes by group (a key head and its queries),
// document and tile of tokens. The backward pass computes the convolutions again, which costs less
// than to read them, and takes a document's tiles from the last to the first: what a token gets from
// its successors is then there already.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "product.h"

namespace zaya {

constexpr int TOKENS = 32;  // tokens of a tile

// Half a vector at a time: a head of 32 channels rotates eight pairs.
typedef float v8 __attribute__((vector_size(32)));
INLINE v8 load8(const float* p) {
  v8 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
INLINE void store8(float* p, v8 x) { std::memcpy(p, &x, sizeof x); }

// A head's width is a multiple of LANES; zeros behind a narrower one stay zeros.
struct MixShape {
  int64_t heads, groups, width, pairs, row;  // pairs of rotated channels; numbers in a row
  float length;                              // of a normed query
  const float *cos, *sin;                    // [T, pairs]
  int64_t group() const { return heads / groups; }
  int64_t key(int64_t g) const { return (heads + g) * width; }
  int64_t query(int64_t g, int64_t i) const { return (g * group() + i) * width; }
};

// By channel, but for the taps of the second convolution: [heads][2 width in][width out], and the
// temperatures of the keys.
struct MixWeights {
  const float *older, *newer, *shift, *taps, *bias, *temperature;
};

// Tokens [from, from + count) of a document that begins at `begin`.
struct TokenTile {
  int64_t begin, from;
  int count;
};

// The convolution by channel at the token before a tile and at its tokens, [1 + count][width]. Before
// the document everything is zero, so the token there has the shift alone.
inline void first_convolution(const float* x, int64_t row, const TokenTile& tile,
                              const MixWeights& weights, int64_t channel, int64_t width, float* out) {
  for (int64_t p = 0; p < width; p += LANES) {
    const float* at = x + tile.from * row + channel + p;
    const v16 older = load(weights.older + channel + p), newer = load(weights.newer + channel + p);
    const v16 shift = load(weights.shift + channel + p);
    // A tile that is not the document's first has a whole one in front of it.
    v16 before = tile.from > tile.begin ? load(at - 2 * row) : v16{};
    v16 now = tile.from > tile.begin ? load(at - row) : v16{};
    for (int t = 0;; ++t) {
      store(out + t * width + p, before * older + now * newer + shift);
      if (t == tile.count) break;
      before = now;
      now = load(at + t * row);
    }
  }
}

// Sums over the channels of each token of a tile, one a lane.
struct TokenSums {
  float at[TOKENS];
  template <class Row>
  INLINE void collect(const TokenTile& tile, Row row) {
    for (int from = 0; from < tile.count; from += LANES) {
      v16 rows[LANES] = {};
      for (int r = 0; r < std::min(LANES, tile.count - from); ++r) rows[r] = row(from + r);
      store(at + from, sum16(rows));
    }
  }
};

// Heads before their norm, [count][width], and the squares of their lengths: both convolutions and the
// QK-mean. `first` gets the first convolution, whose neighbouring rows, read as one, are the inputs
// of the second.
struct Mixer {
  MixShape shape;
  MixWeights weights;
  const float* x;
  float *first, *heads;
  TokenSums squares;

  void mix_query(const TokenTile& tile, int64_t g, int64_t i) {
    const int64_t channel = shape.query(g, i), to_key = shape.key(g) - channel;
    mix(tile, channel, [&](const float* u) { return (load(u) + load(u + to_key)) * 0.5f; });
  }

  void mix_key(const TokenTile& tile, int64_t g) {
    const int64_t channel = shape.key(g), to_query = shape.query(g, 0) - channel;
    const float share = 0.5f / float(shape.group());
    mix(tile, channel, [&](const float* u) {
      v16 queries = {};
      for (int64_t i = 0; i < shape.group(); ++i) queries += load(u + to_query + i * shape.width);
      return load(u) * 0.5f + queries * share;
    });
  }

  template <class Mean>
  INLINE void mix(const TokenTile& tile, int64_t channel, Mean mean) {
    const int64_t width = shape.width;
    first_convolution(x, shape.row, tile, weights, channel, width, first);
    multiply<false, false>({first, width}, {weights.taps + 2 * channel * width, width}, heads, width,
                           tile.count, int(width), int(2 * width));
    squares.collect(tile, [&](int t) {
      v16 square = {};
      for (int64_t p = 0; p < width; p += LANES) {
        float* at = heads + t * width + p;
        const v16 added = mean(x + (tile.from + t) * shape.row + channel + p);
        const v16 head = load(at) + load(weights.bias + channel + p) + added;
        store(at, head);
        square += head * head;
      }
      return square;
    });
  }
};

// The square of a head's length is floored, not the length: a root has no gradient at zero.
constexpr float EPSILON = std::numeric_limits<float>::epsilon(), FLOOR = EPSILON * EPSILON;
INLINE v16 inverse_length(v16 square) {
  return 1.0f / root(maximum(splat(FLOOR), square));
}

// Turn channel r with channel r + pairs by the angle of a token, or back (`turn` -1), times a factor.
INLINE void rotate(const MixShape& shape, int64_t token, float turn, float factor, const float* in,
                   float* out) {
  const int64_t pairs = shape.pairs;
  const float *cos = shape.cos + token * pairs, *sin = shape.sin + token * pairs;
  for (int64_t p = 0; p < shape.width; p += LANES) store(out + p, load(in + p) * factor);
  int64_t r = 0;
  for (; r + 8 <= pairs; r += 8) {
    const v8 c = load8(cos + r), s = load8(sin + r) * turn;
    const v8 a = load8(out + r), b = load8(out + r + pairs);
    store8(out + r, a * c - b * s);
    store8(out + r + pairs, b * c + a * s);
  }
  for (; r < pairs; ++r) {
    const float c = cos[r], s = sin[r] * turn, a = out[r], b = out[r + pairs];
    out[r] = a * c - b * s;
    out[r + pairs] = b * c + a * s;
  }
}

inline void norm_and_rotate(const Mixer& mixer, const TokenTile& tile, float temperature, float* out,
                            int64_t stride) {
  const MixShape& shape = mixer.shape;
  float scales[TOKENS];
  for (int i = 0; i < tile.count; i += LANES)
    store(scales + i, inverse_length(load(mixer.squares.at + i)) * (shape.length * temperature));
  for (int t = 0; t < tile.count; ++t)
    rotate(shape, tile.from + t, 1.0f, scales[t], mixer.heads + t * shape.width,
           out + (tile.from + t) * stride);
}

// The gradient of heads [count][width] from that of their normed and rotated form; returns that of the
// temperature.
inline float norm_backward(const Mixer& mixer, const TokenTile& tile, float temperature,
                           const float* out_grad, int64_t stride, float* grad) {
  const MixShape& shape = mixer.shape;
  const int64_t width = shape.width;
  float scales[TOKENS], radials[TOKENS];
  for (int i = 0; i < tile.count; i += LANES)
    store(scales + i, inverse_length(load(mixer.squares.at + i)) * shape.length);
  TokenSums along;
  along.collect(tile, [&](int t) {
    rotate(shape, tile.from + t, -1.0f, scales[t], out_grad + (tile.from + t) * stride,
           grad + t * width);
    v16 product = {};
    for (int64_t p = t * width; p < (t + 1) * width; p += LANES)
      product += load(mixer.heads + p) * load(grad + p);
    return product;
  });
  v16 temperature_grad = {};
  for (int i = 0; i < tile.count; i += LANES) {
    const v16 square = load(mixer.squares.at + i), dot = load(along.at + i);
    temperature_grad += dot;
    // Under the floor the length is a constant, so nothing is projected out.
    store(radials + i, select(square < splat(FLOOR), v16{}, dot / square));
  }
  for (int t = 0; t < tile.count; ++t)
    for (int64_t p = t * width; p < (t + 1) * width; p += LANES)
      store(grad + p, (load(grad + p) - load(mixer.heads + p) * radials[t]) * temperature);
  return sum(temperature_grad);
}

// Gradients that are added to; all null where no weight learns. Shapes as in MixWeights.
struct MixWeightGrads {
  float *older, *newer, *shift, *taps, *bias, *temperature;
};

// What a head's tokens hand to their predecessors: gradients before the norm and of the first
// convolution, [TOKENS + 1][width]; row `count` is the first row of the tile behind.
struct HeadGrads {
  float *mixed, *first;
  void begin(int count, int64_t width, bool last) {
    for (float* rows : {mixed, first})
      if (last) std::fill_n(rows + count * width, width, 0.0f);
      else std::copy_n(rows, width, rows + count * width);
  }
};

struct MixBackward {
  Mixer mixer;
  const float* back_taps;  // [heads][2 width out][width in], newer tap first
  MixWeightGrads weight_grads;
  float* x_grad;
  float* rows;  // of all HeadGrads of a group, the key's behind those of its queries

  int64_t size() const { return (TOKENS + 1) * mixer.shape.width; }
  HeadGrads grads_of(int64_t i) const {
    return {rows + i * size(), rows + (mixer.shape.group() + 1 + i) * size()};
  }

  // A tile of a group; it is the last of its document, or the one behind it was the last call's.
  void run(const TokenTile& tile, int64_t g, bool last, const float* q_grad, const float* k_grad) {
    const MixShape& shape = mixer.shape;
    const int64_t group = shape.group(), width = shape.width;
    for (int64_t i = 0; i <= group; ++i) grads_of(i).begin(tile.count, width, last);
    const HeadGrads key = grads_of(group);
    mixer.mix_key(tile, g);
    const float grad = norm_backward(mixer, tile, mixer.weights.temperature[g], k_grad + g * width,
                                     shape.groups * width, key.mixed);
    if (weight_grads.temperature) weight_grads.temperature[g] += grad;
    convolution_backward(tile, shape.key(g), key);
    for (int64_t i = 0; i < group; ++i) {
      const HeadGrads query = grads_of(i);
      mixer.mix_query(tile, g, i);
      norm_backward(mixer, tile, 1.0f, q_grad + shape.query(g, i), shape.heads * width, query.mixed);
      convolution_backward(tile, shape.query(g, i), query);
      write(tile, shape.query(g, i), query, key.mixed, 1, 0.5f / float(group));
    }
    write(tile, shape.key(g), key, grads_of(0).mixed, group, 0.5f);
  }

  // From the gradient before the norm to that of the first convolution and of the weights.
  void convolution_backward(const TokenTile& tile, int64_t channel, const HeadGrads& grads) const {
    const int64_t width = mixer.shape.width, matrix = 2 * channel * width;
    multiply<false, false>({grads.mixed, width}, {back_taps + matrix, width}, grads.first, width,
                           tile.count, int(width), int(2 * width));
    if (!weight_grads.taps) return;
    multiply<true, true>({mixer.first, width}, {grads.mixed, width}, weight_grads.taps + matrix, width,
                         int(2 * width), int(width), tile.count);
    vectors_backward(tile, channel, grads);
    // The token before the document is the shift, which its first token meets by the older tap.
    if (tile.from == tile.begin)
      multiply<false, true>({grads.mixed, width}, {back_taps + matrix + width * width, width},
                            weight_grads.shift + channel, width, 1, int(width), int(width));
  }

  void vectors_backward(const TokenTile& tile, int64_t channel, const HeadGrads& grads) const {
    const int64_t width = mixer.shape.width, row = mixer.shape.row;
    for (int64_t p = 0; p < width; p += LANES) {
      const float* u = mixer.x + tile.from * row + channel + p;
      v16 before = tile.from > tile.begin ? load(u - row) : v16{};
      v16 older = {}, newer = {}, shift = {}, bias = {};
      for (int t = 0; t < tile.count; ++t) {
        const v16 grad = load(grads.first + t * width + p), now = load(u + t * row);
        older += grad * before;
        newer += grad * now;
        shift += grad;
        bias += load(grads.mixed + t * width + p);
        before = now;
      }
      add(weight_grads.older + channel + p, older);
      add(weight_grads.newer + channel + p, newer);
      add(weight_grads.shift + channel + p, shift);
      add(weight_grads.bias + channel + p, bias);
    }
  }

  static INLINE void add(float* at, v16 x) { store(at, load(at) + x); }

  // The gradient of a head's channels: by the first convolution, by its half of its own mean, and by
  // a share of the means of `count` others, since a query went into its key and a key into its queries.
  void write(const TokenTile& tile, int64_t channel, const HeadGrads& grads, const float* others,
             int64_t count, float share) const {
    const int64_t width = mixer.shape.width;
    for (int64_t p = 0; p < width; p += LANES) {
      const v16 older = load(mixer.weights.older + channel + p);
      const v16 newer = load(mixer.weights.newer + channel + p);
      for (int t = 0; t < tile.count; ++t) {
        const int64_t at = t * width + p;
        v16 means = {};
        for (int64_t i = 0; i < count; ++i) means += load(others + i * size() + at);
        store(x_grad + (tile.from + t) * mixer.shape.row + channel + p,
              load(grads.first + at) * newer + load(grads.first + at + width) * older +
                  load(grads.mixed + at) * 0.5f + means * share);
      }
    }
  }
};

// Values [T, 2 half]: this token's, then those that the token before left; zeros at a document's start.
inline void delay(const float* x, int64_t row, int64_t half, const int32_t* ends, int64_t documents,
                  float* values) {
  for (int64_t d = 0; d < documents; ++d)
    for (int64_t t = ends[d]; t < ends[d + 1]; ++t) {
      float* at = values + t * 2 * half;
      std::copy_n(x + t * row, half, at);
      if (t == ends[d]) std::fill_n(at + half, half, 0.0f);
      else std::copy_n(x + (t - 1) * row + half, half, at + half);
    }
}

inline void delay_backward(const float* values_grad, int64_t row, int64_t half, const int32_t* ends,
                           int64_t documents, float* x_grad) {
  for (int64_t d = 0; d < documents; ++d)
    for (int64_t t = ends[d]; t < ends[d + 1]; ++t) {
      const float* at = values_grad + t * 2 * half;
      std::copy_n(at, half, x_grad + t * row);
      if (t + 1 == ends[d + 1]) std::fill_n(x_grad + t * row + half, half, 0.0f);
      else std::copy_n(at + 3 * half, half, x_grad + t * row + half);
    }
}

}  // namespace zaya

// x [T, row] to queries [T, heads, width], keys [T, groups, width] and values [T, 2 half].
extern "C" void mix_forward(const float* x, const float* older, const float* newer, const float* shift,
                            const float* taps, const float* bias, const float* temperature,
                            const float* cos, const float* sin, const int32_t* ends, float* q, float* k,
                            float* v, int64_t documents, int64_t heads, int64_t groups, int64_t width,
                            int64_t pairs, int64_t half, float length) {
  using namespace zaya;
  const int64_t channels = (heads + groups) * width, row = channels + 2 * half;
  const MixShape shape{heads, groups, width, pairs, row, length, cos, sin};
  Scratch first((TOKENS + 1) * width), mixed(TOKENS * width);
  Mixer mixer{shape, {older, newer, shift, taps, bias, temperature}, x, first, mixed, {}};
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t d = 0; d < documents; ++d)
      for (int64_t from = ends[d]; from < ends[d + 1]; from += TOKENS) {
        const TokenTile tile{ends[d], from, int(std::min<int64_t>(TOKENS, ends[d + 1] - from))};
        for (int64_t i = 0; i < shape.group(); ++i) {
          mixer.mix_query(tile, g, i);
          norm_and_rotate(mixer, tile, 1.0f, q + shape.query(g, i), heads * width);
        }
        mixer.mix_key(tile, g);
        norm_and_rotate(mixer, tile, temperature[g], k + g * width, groups * width);
      }
  delay(x + channels, row, half, ends, documents, v);
}

// The gradient of x, and those of the weights added to what is there.
extern "C" void mix_backward(const float* x, const float* older, const float* newer, const float* shift,
                             const float* taps, const float* bias, const float* temperature,
                             const float* cos, const float* sin, const int32_t* ends,
                             const float* back_taps, const float* q_grad, const float* k_grad,
                             const float* v_grad, float* x_grad, float* older_grad, float* newer_grad,
                             float* shift_grad, float* taps_grad, float* bias_grad,
                             float* temperature_grad, int64_t documents, int64_t heads, int64_t groups,
                             int64_t width, int64_t pairs, int64_t half, float length) {
  using namespace zaya;
  const int64_t channels = (heads + groups) * width, row = channels + 2 * half;
  const MixShape shape{heads, groups, width, pairs, row, length, cos, sin};
  Scratch first((TOKENS + 1) * width), mixed(TOKENS * width);
  Scratch rows(2 * (shape.group() + 1) * (TOKENS + 1) * width);
  MixBackward back{
      {shape, {older, newer, shift, taps, bias, temperature}, x, first, mixed, {}},
      back_taps,
      {older_grad, newer_grad, shift_grad, taps_grad, bias_grad, temperature_grad},
      x_grad,
      rows};
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t d = 0; d < documents; ++d) {
      const int64_t begin = ends[d], last = (ends[d + 1] - begin - 1) / TOKENS;
      for (int64_t n = last; n >= 0; --n) {
        const int64_t from = begin + n * TOKENS;
        const int count = int(std::min<int64_t>(TOKENS, ends[d + 1] - from));
        back.run({begin, from, count}, g, n == last, q_grad, k_grad);
      }
    }
  delay_backward(v_grad, row, half, ends, documents, x_grad + channels);
}
