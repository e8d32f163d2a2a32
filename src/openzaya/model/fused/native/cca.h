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
#include <cfloat>
#include <cmath>

#include "product.h"

namespace zaya {

constexpr int TOKENS = 32;  // tokens of a tile

// A head's width is a multiple of LANES; the channels from `length` on are padding.
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
    v16 before = tile.from - tile.begin >= 2 ? load(at - 2 * row) : v16{};
    v16 now = tile.from - tile.begin >= 1 ? load(at - row) : v16{};
    for (int t = 0;; ++t) {
      store(out + t * width + p, before * older + now * newer + shift);
      if (t == tile.count) break;
      before = now;
      now = load(at + t * row);
    }
  }
}

// Heads before their norm, [count][width]: both convolutions and the QK-mean. `first` gets the first
// convolution, whose neighbouring rows, read as one, are the inputs of the second.
struct Mixer {
  MixShape shape;
  MixWeights weights;
  const float* x;

  void convolve(const TokenTile& tile, int64_t channel, float* first, float* out) const {
    const int64_t width = shape.width;
    first_convolution(x, shape.row, tile, weights, channel, width, first);
    multiply<false, false>({first, width}, {weights.taps + 2 * channel * width, width}, out, width,
                           tile.count, int(width), int(2 * width));
  }

  void mix_query(const TokenTile& tile, int64_t g, int64_t i, float* first, float* out) const {
    const int64_t channel = shape.query(g, i), to_key = shape.key(g) - channel;
    convolve(tile, channel, first, out);
    each(tile, channel, out, [&](const float* u) { return (load(u) + load(u + to_key)) * 0.5f; });
  }

  void mix_key(const TokenTile& tile, int64_t g, float* first, float* out) const {
    const int64_t channel = shape.key(g), to_query = shape.query(g, 0) - channel;
    const float share = 0.5f / float(shape.group());
    convolve(tile, channel, first, out);
    each(tile, channel, out, [&](const float* u) {
      v16 queries = {};
      for (int64_t i = 0; i < shape.group(); ++i) queries += load(u + to_query + i * shape.width);
      return load(u) * 0.5f + queries * share;
    });
  }

  template <class Mean>
  INLINE void each(const TokenTile& tile, int64_t channel, float* out, Mean mean) const {
    for (int t = 0; t < tile.count; ++t)
      for (int64_t p = 0; p < shape.width; p += LANES) {
        float* at = out + t * shape.width + p;
        v16 added = mean(x + (tile.from + t) * shape.row + channel + p);
        store(at, load(at) + load(weights.bias + channel + p) + added);
      }
  }
};

INLINE float dot(const float* a, const float* b, int64_t width) {
  v16 along = {};
  for (int64_t p = 0; p < width; p += LANES) along += load(a + p) * load(b + p);
  return sum(along);
}

// The square of a head's length is floored, not the length: a root has no gradient at zero.
constexpr float FLOOR = FLT_EPSILON * FLT_EPSILON;
INLINE float floored(float square) { return square < FLOOR ? FLOOR : square; }

// Rotate channel r with channel r + pairs by the angle of a token, or back (`turn` -1), times a factor.
INLINE void rotate(const MixShape& shape, int64_t token, float turn, float factor,
                   const float* __restrict in, float* __restrict out) {
  const int64_t pairs = shape.pairs;
  const float* __restrict cos = shape.cos + token * pairs;
  const float* __restrict sin = shape.sin + token * pairs;
  for (int64_t r = 0; r < pairs; ++r) {
    const float c = cos[r] * factor, s = sin[r] * turn * factor, a = in[r], b = in[r + pairs];
    out[r] = a * c - b * s;
    out[r + pairs] = b * c + a * s;
  }
  for (int64_t p = 2 * pairs; p < shape.width; ++p) out[p] = in[p] * factor;
}

inline void norm_and_rotate(const MixShape& shape, const TokenTile& tile, float temperature,
                            const float* heads, float* out, int64_t stride) {
  for (int t = 0; t < tile.count; ++t) {
    const float* head = heads + t * shape.width;
    const float square = floored(dot(head, head, shape.width));
    rotate(shape, tile.from + t, 1.0f, temperature * shape.length / std::sqrt(square), head,
           out + (tile.from + t) * stride);
  }
}

// The gradient of heads [count][width] from that of their normed and rotated form; returns that of the
// temperature.
inline float norm_backward(const MixShape& shape, const TokenTile& tile, float temperature,
                           const float* heads, const float* out_grad, int64_t stride, float* grad) {
  float temperature_grad = 0.0f;
  for (int t = 0; t < tile.count; ++t) {
    const float* head = heads + t * shape.width;
    float* at = grad + t * shape.width;
    const float square = dot(head, head, shape.width), scale = shape.length / std::sqrt(floored(square));
    rotate(shape, tile.from + t, -1.0f, scale, out_grad + (tile.from + t) * stride, at);
    const float along = dot(head, at, shape.width);
    temperature_grad += along;
    // Under the floor the length is a constant, so nothing is projected out.
    const float radial = square < FLOOR ? 0.0f : along / square;
    for (int64_t p = 0; p < shape.width; p += LANES)
      store(at + p, (load(at + p) - load(head + p) * radial) * temperature);
  }
  return temperature_grad;
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
  float *first, *heads;  // of the head at hand: its first convolution, and itself before the norm

  // From the gradient before the norm to that of the channels, the QK-mean's left out.
  void convolution_backward(const TokenTile& tile, int64_t channel, const HeadGrads& grads) const {
    const int64_t width = mixer.shape.width;
    const Rows back{back_taps + 2 * channel * width, width};
    multiply<false, false>({grads.mixed, width}, back, grads.first, width, tile.count, int(width),
                           int(2 * width));
    if (weight_grads.taps) weights_backward(tile, channel, grads);
    for (int64_t p = 0; p < width; p += LANES) {
      const v16 older = load(mixer.weights.older + channel + p);
      const v16 newer = load(mixer.weights.newer + channel + p);
      for (int t = 0; t < tile.count; ++t) {
        const float* at = grads.first + t * width + p;
        v16 own = load(grads.mixed + t * width + p) * 0.5f;
        store(x_grad + (tile.from + t) * mixer.shape.row + channel + p,
              load(at) * newer + load(at + width) * older + own);
      }
    }
  }

  void weights_backward(const TokenTile& tile, int64_t channel, const HeadGrads& grads) const {
    const int64_t width = mixer.shape.width, row = mixer.shape.row;
    multiply<true, true>({first, width}, {grads.mixed, width},
                         weight_grads.taps + 2 * channel * width, width, int(2 * width), int(width),
                         tile.count);
    for (int64_t p = 0; p < width; p += LANES) {
      const float* u = mixer.x + tile.from * row + channel + p;
      v16 before = tile.from > tile.begin ? load(u - row) : v16{};
      v16 older = {}, newer = {}, shift = {}, bias = {};
      for (int t = 0; t < tile.count; ++t) {
        v16 grad = load(grads.first + t * width + p), now = load(u + t * row);
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
    // The token before the document is the shift, which its first token meets by the older tap.
    if (tile.from == tile.begin)
      multiply<false, true>({grads.mixed, width}, {back_taps + (2 * channel + width) * width, width},
                            weight_grads.shift + channel, width, 1, int(width), int(width));
  }

  static INLINE void add(float* at, v16 x) { store(at, load(at) + x); }

  // The QK-mean's other half: a query also went into its key, and the key into each of its queries.
  void mean_backward(const TokenTile& tile, int64_t g, int64_t i, const float* query,
                     const float* key) const {
    const MixShape& shape = mixer.shape;
    const float share = 0.5f / float(shape.group());
    for (int t = 0; t < tile.count; ++t)
      for (int64_t p = 0; p < shape.width; p += LANES) {
        float* at = x_grad + (tile.from + t) * shape.row + p;
        add(at + shape.query(g, i), load(key + t * shape.width + p) * share);
        add(at + shape.key(g), load(query + t * shape.width + p) * 0.5f);
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
  const Mixer mixer{shape, {older, newer, shift, taps, bias, temperature}, x};
  Scratch first((TOKENS + 1) * width), mixed(TOKENS * width);
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t d = 0; d < documents; ++d)
      for (int64_t from = ends[d]; from < ends[d + 1]; from += TOKENS) {
        const TokenTile tile{ends[d], from, int(std::min<int64_t>(TOKENS, ends[d + 1] - from))};
        for (int64_t i = 0; i < shape.group(); ++i) {
          mixer.mix_query(tile, g, i, first, mixed);
          norm_and_rotate(shape, tile, 1.0f, mixed, q + shape.query(g, i), heads * width);
        }
        mixer.mix_key(tile, g, first, mixed);
        norm_and_rotate(shape, tile, temperature[g], mixed, k + g * width, groups * width);
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
  const int64_t size = (TOKENS + 1) * width, group = shape.group();
  Scratch first(size), mixed(size), rows(2 * (group + 1) * size);
  const MixBackward back{{shape, {older, newer, shift, taps, bias, temperature}, x},
                         back_taps,
                         {older_grad, newer_grad, shift_grad, taps_grad, bias_grad, temperature_grad},
                         x_grad,
                         first,
                         mixed};
  const auto grads_of = [&](int64_t i) {  // the key's behind those of its queries
    return HeadGrads{rows + 2 * i * size, rows + (2 * i + 1) * size};
  };
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t d = 0; d < documents; ++d) {
      const int64_t begin = ends[d], last = (ends[d + 1] - begin - 1) / TOKENS;
      for (int64_t n = last; n >= 0; --n) {
        const int64_t from = begin + n * TOKENS;
        const TokenTile tile{begin, from, int(std::min<int64_t>(TOKENS, ends[d + 1] - from))};
        HeadGrads key = grads_of(group);
        key.begin(tile.count, width, n == last);
        back.mixer.mix_key(tile, g, first, mixed);
        const float grad = norm_backward(shape, tile, temperature[g], mixed, k_grad + g * width,
                                         groups * width, key.mixed);
        if (temperature_grad) temperature_grad[g] += grad;
        back.convolution_backward(tile, shape.key(g), key);
        for (int64_t i = 0; i < group; ++i) {
          HeadGrads query = grads_of(i);
          query.begin(tile.count, width, n == last);
          back.mixer.mix_query(tile, g, i, first, mixed);
          norm_backward(shape, tile, 1.0f, mixed, q_grad + shape.query(g, i), heads * width, query.mixed);
          back.convolution_backward(tile, shape.query(g, i), query);
          back.mean_backward(tile, g, i, query.mixed, key.mixed);
        }
      }
    }
  delay_backward(v_grad, row, half, ends, documents, x_grad + channels);
}
