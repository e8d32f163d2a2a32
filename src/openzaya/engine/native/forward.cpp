// The forward pass of ZAYA over packed tokens of several sequences, each with its place in a paged
// cache. Read `Pass::run` first; the stages follow in the order of the paper's section II.
//
// Activations are fp32 whatever the weights are. Shapes: T tokens, D model, C conv channels
// (J = H + K heads of P), W value channels (K of P), R router, X = E + 1 classes, F expert width.
#include <vector>

#include "attention.h"
#include "pool.h"
#include "products.h"
#include "sample.h"
#include "vec.h"

namespace zaya {

// The structures below are mirrored in weights.py, field by field.
struct Scaling {  // residual scaling, paper II
  const float *branch_scale, *branch_bias, *stream_scale, *stream_bias;
};

struct Layer {
  Matrix query, key, value_now, value_late, conv, output;
  Matrix router_down, router_fc1, router_fc2, router_out, gate_up, down;
  const float *norm_in, *norm_post, *norm_router;
  const float *depthwise, *depthwise_bias, *conv_bias, *temperature;
  const float *router_bias, *router_average, *fc1_bias, *fc2_bias, *balance;
  Scaling after_attention, after_experts;
  const float *cos, *sin;  // [positions, rotary / 2] of this layer's kind
  int64_t window;          // tokens seen, the own one included; 0 means all
};

struct Model {
  Matrix embedding;
  const float *stream_scale, *stream_bias, *norm;
  const Layer* layers;
  int64_t num_layers, width, heads, key_heads, head_dim, router_width, expert_width, experts;
  int64_t rotary_half, vocab;
  float eps, head_eps;
  int32_t identity_skip;
};

struct CacheLayer {
  void *keys, *values;
  const int32_t* table;  // [slots, max_blocks]
};

struct Cache {
  const CacheLayer* layers;
  float *conv, *delayed;  // [L, slots, 2, C] and [L, slots, W / 2]
  int64_t num_slots, max_blocks;
  int32_t is_bf16;
};

struct Batch {
  const int64_t* ids;        // [T]
  const int32_t* starts;     // [B + 1] first token of each sequence
  const int32_t* slots;      // [B]
  const int32_t* past;       // [B] tokens already in the slot
  const int32_t* outputs;    // [N] tokens whose logits are wanted
  const int32_t* snapshots;  // [M] tokens after which the state is wanted
  float* logits;             // [N, V]
  uint8_t* experts;          // [T, L] or null
  float *snapshot_conv, *snapshot_delayed;  // [L, M, 2, C] and [L, M, W / 2]
  int64_t num_tokens, num_sequences, num_outputs, num_snapshots;
};

struct Workspace {
  Buffer stream, normed, u, values, pairs, mixed, attended, branch;
  Buffer state, router, hidden, scores, gate, sorted, both, inner, outer, final;
};

struct Engine {
  Engine(const Model& model, int threads)
      : model(model), pool(threads), products(threads, most_cols(model)) {}
  Model model;
  Pool pool;
  Workspace space;
  Products products;

  static int64_t most_cols(const Model& m) {
    return std::max({m.width, m.heads * m.head_dim, m.router_width, m.expert_width,
                     2 * m.head_dim});
  }
};

INLINE void rms_norm(const float* x, const float* weight, int64_t width, float eps, float* y) {
  v16 squares = {};
  for (int64_t i = 0; i < width; i += LANES) squares += load(x + i) * load(x + i);
  float scale = 1.0f / std::sqrt(sum(squares) / float(width) + eps);
  for (int64_t i = 0; i < width; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

INLINE void gelu(float* x, const float* bias, int64_t width) {
  for (int64_t i = 0; i < width; i += LANES) {
    v16 z = load(x + i) + load(bias + i);
    store(x + i, z * 0.5f * (erf(z * 0.70710678118654752f) + 1.0f));
  }
}

class Pass {
 public:
  Pass(Engine& engine, const Cache& cache, const Batch& batch)
      : e_(engine), m_(engine.model), s_(engine.space), cache_(cache), b_(batch),
        tokens_(batch.num_tokens), channels_((m_.heads + m_.key_heads) * m_.head_dim),
        value_channels_(m_.key_heads * m_.head_dim), half_(value_channels_ / 2) {}

  void run() {
    place();
    float* x = embed();
    for (int64_t index = 0; index < m_.num_layers; ++index) {
      const Layer& layer = m_.layers[index];
      project(layer);
      convolve(layer, index);
      write_cache(layer, index);
      keep_state(index);
      attend_all(layer, index);
      rejoin(layer.after_attention, x, s_.branch.take(tokens_ * m_.width), layer.norm_post);
      route(layer, index);
      mix_experts(layer, x);
    }
    head();
  }

 private:
  // Call row(t) for every token, in parallel where that pays.
  template <class Row>
  void each_token(int64_t cost, Row&& row) {
    int64_t piece = std::max<int64_t>(1, 16384 / cost);
    e_.pool.run((tokens_ + piece - 1) / piece, [&](int64_t chunk, int) {
      for (int64_t t = chunk * piece; t < std::min(tokens_, (chunk + 1) * piece); ++t) row(t);
    });
  }

  // Which sequence a token belongs to, and its position.
  void place() {
    sequence_.resize(tokens_);
    position_.resize(tokens_);
    for (int64_t i = 0; i < b_.num_sequences; ++i)
      for (int64_t t = b_.starts[i]; t < b_.starts[i + 1]; ++t) {
        sequence_[t] = int32_t(i);
        position_[t] = b_.past[i] + int32_t(t - b_.starts[i]);
      }
  }

  float* embed() {
    float* x = s_.stream.take(tokens_ * m_.width);
    each_token(m_.width, [&](int64_t t) {
      float* row = x + t * m_.width;
      read_row(m_.embedding, b_.ids[t], row);
      for (int64_t i = 0; i < m_.width; i += LANES)
        store(row + i, (load(row + i) + load(m_.stream_bias + i)) * load(m_.stream_scale + i));
    });
    float* h = s_.normed.take(tokens_ * m_.width);
    norm_rows(x, m_.layers[0].norm_in, h);
    return x;
  }

  void norm_rows(const float* x, const float* weight, float* h) {
    each_token(m_.width, [&](int64_t t) {
      rms_norm(x + t * m_.width, weight, m_.width, m_.eps, h + t * m_.width);
    });
  }

  // Queries and keys before the convolutions (u), and values.
  void project(const Layer& layer) {
    const float* h = s_.normed.take(tokens_ * m_.width);
    float* u = s_.u.take(tokens_ * channels_);
    float* v = s_.values.take(tokens_ * value_channels_);
    auto& products = e_.products;
    products.clear();
    auto add = [&](const Matrix& w, float* y, int64_t stride) {
      products.add(w, 0, w.rows, h, m_.width, tokens_, y, stride);
    };
    add(layer.query, u, channels_);
    add(layer.key, u + m_.heads * m_.head_dim, channels_);
    add(layer.value_now, v, value_channels_);
    add(layer.value_late, v + half_, value_channels_);
    products.run(e_.pool);
  }

  // Row of u `back` tokens before token t: of this pass, or remembered.
  const float* before(int64_t t, int back, int64_t layer) const {
    int64_t first = b_.starts[sequence_[t]];
    if (t - back >= first) return s_u() + (t - back) * channels_;
    int64_t row = 2 - (back - (t - first));  // the newest remembered row is row 1
    int64_t slot = b_.slots[sequence_[t]];
    return cache_.conv + ((layer * cache_.num_slots + slot) * 2 + row) * channels_;
  }
  const float* s_u() const { return e_.space.u.take(0); }

  // Both convolutions, paper II: depthwise over two tokens, then per head over two tokens.
  void convolve(const Layer& layer, int64_t index) {
    float* pairs = s_.pairs.take(tokens_ * channels_ * 2);
    each_token(channels_ * 2, [&](int64_t t) {
      const float *now = before(t, 0, index), *one = before(t, 1, index), *two = before(t, 2, index);
      float* to = pairs + t * channels_ * 2;
      for (int64_t c = 0; c < channels_; c += LANES) {
        v16 low = load(layer.depthwise + 2 * c), high = load(layer.depthwise + 2 * c + LANES);
        v16 older = evens(low, high), newer = odds(low, high), bias = load(layer.depthwise_bias + c);
        v16 before = older * load(two + c) + newer * load(one + c) + bias;
        v16 current = older * load(one + c) + newer * load(now + c) + bias;
        store(to + 2 * c, zip_low(before, current));
        store(to + 2 * c + LANES, zip_high(before, current));
      }
    });
    float* mixed = s_.mixed.take(tokens_ * channels_);
    int64_t width = m_.head_dim;
    e_.products.clear();
    for (int64_t j = 0; j < m_.heads + m_.key_heads; ++j)
      e_.products.add(layer.conv, j * width, width, pairs + j * width * 2, channels_ * 2, tokens_,
                      mixed + j * width, channels_);
    e_.products.run(e_.pool);
  }

  // QK-mean, norm, temperature and rotation; keys and values go into the cache, queries stay.
  void write_cache(const Layer& layer, int64_t index) {
    const float* u = s_u();
    float* mixed = s_.mixed.take(0);
    each_token(channels_ * 4, [&](int64_t t) {
      finish_heads(layer, u + t * channels_, mixed + t * channels_, position_[t]);
      const CacheLayer& place = cache_.layers[index];
      if (cache_.is_bf16) put_token<uint16_t>(place, index, t);
      else put_token<float>(place, index, t);
    });
  }

  void finish_heads(const Layer& layer, const float* u, float* mixed, int64_t position) {
    int64_t width = m_.head_dim, group = m_.heads / m_.key_heads;
    const float* cos = layer.cos + position * m_.rotary_half;
    const float* sin = layer.sin + position * m_.rotary_half;
    for (int64_t j = 0; j < m_.heads + m_.key_heads; ++j) {
      float* y = mixed + j * width;
      const float* bias = layer.conv_bias + j * width;
      v16 squares = {};
      for (int64_t p = 0; p < width; p += LANES) {
        v16 mean;
        if (j < m_.heads) {
          const float* key = u + (m_.heads + j / group) * width;
          mean = (load(u + j * width + p) + load(key + p)) * 0.5f;
        } else {
          const float* queries = u + (j - m_.heads) * group * width;
          mean = v16{};
          for (int64_t i = 0; i < group; ++i) mean += load(queries + i * width + p);
          mean = (mean * (1.0f / float(group)) + load(u + j * width + p)) * 0.5f;
        }
        v16 x = load(y + p) + load(bias + p) + mean;
        store(y + p, x);
        squares += x * x;
      }
      float length = std::max(std::sqrt(sum(squares)), m_.head_eps);
      // Attention's scale 1/sqrt(P) cancels the query's length sqrt(P).
      float scale = j < m_.heads ? 1.0f / length
                                 : std::sqrt(float(width)) / length * layer.temperature[j - m_.heads];
      for (int64_t p = 0; p < width; p += LANES) store(y + p, load(y + p) * scale);
      for (int64_t r = 0; r < m_.rotary_half; ++r) {
        float a = y[r], b = y[r + m_.rotary_half];
        y[r] = a * cos[r] - b * sin[r];
        y[r + m_.rotary_half] = b * cos[r] + a * sin[r];
      }
    }
  }

  template <class KV>
  void put_token(const CacheLayer& place, int64_t layer, int64_t t) {
    int64_t sequence = sequence_[t], slot = b_.slots[sequence], width = m_.head_dim;
    int64_t block = place.table[slot * cache_.max_blocks + position_[t] / BLOCK];
    int64_t s = position_[t] % BLOCK;
    KV* keys = (KV*)place.keys + block * value_channels_ * BLOCK;
    KV* values = (KV*)place.values + block * value_channels_ * BLOCK;
    const float* k = s_.mixed.take(0) + t * channels_ + m_.heads * width;
    const float* v = s_.values.take(0);
    const float* late = t > b_.starts[sequence]
                            ? v + (t - 1) * value_channels_ + half_
                            : cache_.delayed + (layer * cache_.num_slots + slot) * half_;
    const float* now = v + t * value_channels_;
    for (int64_t c = 0; c < value_channels_; ++c) put(keys + c * BLOCK + s, k[c]);
    for (int64_t head = 0; head < m_.key_heads; ++head) {
      KV* to = values + (head * BLOCK + s) * width;
      for (int64_t c = head * width; c < (head + 1) * width; ++c)
        put(to++, c < half_ ? now[c] : late[c - half_]);
    }
  }

  // What the next pass looks back on, and copies of it where the caller wants them.
  void keep_state(int64_t layer) {
    const float* v = s_.values.take(0);
    auto copy = [&](int64_t t, float* conv, float* delayed) {
      const float *one = before(t, 1, layer), *now = before(t, 0, layer);
      // Row by row and older first: `one` may be the remembered row that is overwritten next.
      std::copy(one, one + channels_, conv);
      std::copy(now, now + channels_, conv + channels_);
      const float* late = v + t * value_channels_ + half_;
      std::copy(late, late + half_, delayed);
    };
    for (int64_t i = 0; i < b_.num_snapshots; ++i) {
      int64_t row = layer * b_.num_snapshots + i;
      copy(b_.snapshots[i], b_.snapshot_conv + row * 2 * channels_, b_.snapshot_delayed + row * half_);
    }
    for (int64_t i = 0; i < b_.num_sequences; ++i) {
      int64_t row = layer * cache_.num_slots + b_.slots[i];
      copy(b_.starts[i + 1] - 1, cache_.conv + row * 2 * channels_, cache_.delayed + row * half_);
    }
  }

  void attend_all(const Layer& layer, int64_t index) {
    float* out = s_.attended.take(tokens_ * m_.heads * m_.head_dim);
    int64_t group = m_.heads / m_.key_heads;
    int64_t rows = tokens_ * group;  // per key head, query heads of a token side by side
    // A piece is a run of queries of one token or of neighbours; longer ones for prompts.
    int64_t piece = tokens_ >= 64 ? MAX_QUERIES : (group + GROUP - 1) / GROUP * GROUP;
    int64_t pieces = (rows + piece - 1) / piece;
    e_.pool.run(pieces * m_.key_heads, [&](int64_t chunk, int) {
      int64_t head = chunk / pieces, first = chunk % pieces * piece;
      int64_t last = std::min(rows, first + piece);
      if (cache_.is_bf16) attend_rows<uint16_t>(layer, index, head, first, last, out);
      else attend_rows<float>(layer, index, head, first, last, out);
    });
    float* branch = s_.branch.take(tokens_ * m_.width);
    e_.products.clear();
    e_.products.add(layer.output, 0, m_.width, out, m_.heads * m_.head_dim, tokens_, branch,
                    m_.width);
    e_.products.run(e_.pool);
  }

  template <class KV>
  void attend_rows(const Layer& layer, int64_t index, int64_t key_head, int64_t first, int64_t last,
                   float* out) {
    int64_t group = m_.heads / m_.key_heads, width = m_.head_dim;
    const CacheLayer& place = cache_.layers[index];
    Query queries[MAX_QUERIES];
    auto query = [&](int64_t row) -> Query {
      int64_t t = row / group, head = key_head * group + row % group, to = position_[t] + 1;
      int64_t from = layer.window ? std::max<int64_t>(0, to - layer.window) : 0;
      return {s_.mixed.take(0) + t * channels_ + head * width, out + (t * m_.heads + head) * width,
              from, to};
    };
    auto table = [&](int32_t sequence) {
      return place.table + b_.slots[sequence] * cache_.max_blocks;
    };
    for (int64_t row = first; row < last;) {
      int32_t sequence = sequence_[row / group];
      int count = 0;
      for (; row < last && sequence_[row / group] == sequence; ++count, ++row)
        queries[count] = query(row);
      Next after;
      if (row < last) {
        Query next = query(row);
        int64_t block = next.from / BLOCK;
        after = {table(sequence_[row / group]) + block,
                 int(std::min<int64_t>(next.to - block * BLOCK, BLOCK))};
      }
      auto run = count > GROUP ? attend<WIDE_GROUP, KV> : attend<GROUP, KV>;
      run(queries, count, (const KV*)place.keys, (const KV*)place.values, table(sequence),
          value_channels_ * BLOCK, key_head * width * BLOCK, int(width), after);
    }
  }

  // Residual scaling, then the norm that follows.
  void rejoin(const Scaling& scaling, float* x, const float* branch, const float* norm) {
    float* h = s_.normed.take(tokens_ * m_.width);
    each_token(m_.width * 2, [&](int64_t t) {
      rejoin_row(scaling, x + t * m_.width, branch + t * m_.width, 1.0f);
      rms_norm(x + t * m_.width, norm, m_.width, m_.eps, h + t * m_.width);
    });
  }

  INLINE void rejoin_row(const Scaling& scaling, float* x, const float* branch, float weight) {
    for (int64_t i = 0; i < m_.width; i += LANES) {
      v16 kept = (load(x + i) + load(scaling.stream_bias + i)) * load(scaling.stream_scale + i);
      v16 joined = load(branch + i) * weight + load(scaling.branch_bias + i);
      store(x + i, joined * load(scaling.branch_scale + i) + kept);
    }
  }

  // The router: latent state averaged over depth, MLP, softmax, biased choice.
  void route(const Layer& layer, int64_t index) {
    int64_t width = m_.router_width, classes = m_.experts + 1;
    const float* h = s_.normed.take(0);
    float* state = s_.state.take(tokens_ * width);
    float* fresh = s_.router.take(tokens_ * width);
    float* hidden = s_.hidden.take(tokens_ * width);
    float* scores = s_.scores.take(tokens_ * classes);
    product(layer.router_down, h, m_.width, fresh, width);
    each_token(width, [&](int64_t t) {
      float *row = state + t * width, *now = fresh + t * width;
      for (int64_t i = 0; i < width; i += LANES) {
        v16 r = load(now + i) + load(layer.router_bias + i);
        if (index > 0) r += load(row + i) * load(layer.router_average + i);
        store(row + i, r);
      }
      rms_norm(row, layer.norm_router, width, m_.eps, now);
    });
    product(layer.router_fc1, fresh, width, hidden, width);
    each_token(width * 2, [&](int64_t t) { gelu(hidden + t * width, layer.fc1_bias, width); });
    product(layer.router_fc2, hidden, width, fresh, width);
    each_token(width * 2, [&](int64_t t) { gelu(fresh + t * width, layer.fc2_bias, width); });
    product(layer.router_out, fresh, width, scores, classes);
    choose(layer, index, scores);
  }

  void product(const Matrix& w, const float* x, int64_t x_width, float* y, int64_t y_width) {
    e_.products.clear();
    e_.products.add(w, 0, w.rows, x, x_width, tokens_, y, y_width);
    e_.products.run(e_.pool);
  }

  void choose(const Layer& layer, int64_t index, const float* scores) {
    int64_t classes = m_.experts + 1;
    float* gate = s_.gate.take(tokens_);
    expert_.resize(tokens_);
    each_token(classes * 32, [&](int64_t t) {
      const float* z = scores + t * classes;
      float top = *std::max_element(z, z + classes), total = 0, best = -INFINITY;
      float probability[256];
      for (int64_t i = 0; i < classes; ++i) total += probability[i] = std::exp(z[i] - top);
      for (int64_t i = 0; i < classes; ++i) {
        float biased = probability[i] / total + layer.balance[i];
        if (biased > best) {
          best = biased;
          expert_[t] = int32_t(i);
        }
      }
      gate[t] = probability[expert_[t]] / total;
      if (b_.experts) b_.experts[t * m_.num_layers + index] = uint8_t(expert_[t]);
    });
  }

  // Tokens sorted by expert; skipped ones come last and are not computed.
  int64_t sort_tokens() {
    first_.assign(m_.experts + 2, 0);
    for (int64_t t = 0; t < tokens_; ++t) ++first_[expert_[t] + 1];
    for (int64_t i = 0; i <= m_.experts; ++i) first_[i + 1] += first_[i];
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    row_.resize(tokens_);
    for (int64_t t = 0; t < tokens_; ++t) row_[t] = next[expert_[t]]++;
    return first_[m_.experts];
  }

  void mix_experts(const Layer& layer, float* x) {
    int64_t rows = sort_tokens(), width = m_.width, inner = m_.expert_width;
    float* h = s_.normed.take(0);
    float* sorted = s_.sorted.take(tokens_ * width);
    float* both = s_.both.take(tokens_ * 2 * inner);
    float* hidden = s_.inner.take(tokens_ * inner);
    float* outer = s_.outer.take(tokens_ * width);
    each_token(width, [&](int64_t t) {
      std::copy(h + t * width, h + (t + 1) * width, sorted + row_[t] * width);
    });
    experts_product(layer.gate_up, 2 * inner, sorted, width, both);
    int64_t piece = std::max<int64_t>(1, 4096 / inner);
    e_.pool.run((rows + piece - 1) / piece, [&](int64_t chunk, int) {
      for (int64_t r = chunk * piece; r < std::min(rows, (chunk + 1) * piece); ++r)
        for (int64_t i = 0; i < inner; i += LANES) {
          v16 g = load(both + r * 2 * inner + i), up = load(both + r * 2 * inner + inner + i);
          store(hidden + r * inner + i, g / (exp(-g) + 1.0f) * up);
        }
    });
    experts_product(layer.down, width, hidden, inner, outer);
    const Layer* next = &layer + 1 < m_.layers + m_.num_layers ? &layer + 1 : nullptr;
    const float* gate = s_.gate.take(0);
    each_token(width * 3, [&](int64_t t) {
      bool skipped = expert_[t] == m_.experts;
      const float* from = skipped ? h + t * width : outer + row_[t] * width;
      float weight = skipped && !m_.identity_skip ? 0.0f : gate[t];
      rejoin_row(layer.after_experts, x + t * width, from, weight);
      rms_norm(x + t * width, next ? next->norm_in : m_.norm, width, m_.eps, h + t * width);
    });
  }

  // The rows of each expert against its own slice of the stack.
  void experts_product(const Matrix& stack, int64_t out, const float* x, int64_t in, float* y) {
    e_.products.clear();
    for (int64_t i = 0; i < m_.experts; ++i)
      e_.products.add(stack, i * out, out, x + first_[i] * in, in, first_[i + 1] - first_[i],
                      y + first_[i] * out, out);
    e_.products.run(e_.pool);
  }

  void head() {
    if (b_.num_outputs == 0) return;
    const float* h = s_.normed.take(0);
    float* final = s_.final.take(b_.num_outputs * m_.width);
    for (int64_t i = 0; i < b_.num_outputs; ++i) {
      const float* row = h + b_.outputs[i] * m_.width;
      std::copy(row, row + m_.width, final + i * m_.width);
    }
    e_.products.clear();
    e_.products.add(m_.embedding, 0, m_.vocab, final, m_.width, b_.num_outputs, b_.logits, m_.vocab);
    e_.products.run(e_.pool);
  }

  Engine& e_;
  const Model& m_;
  Workspace& s_;
  const Cache& cache_;
  const Batch& b_;
  int64_t tokens_, channels_, value_channels_, half_;
  std::vector<int32_t> sequence_, position_, expert_;
  std::vector<int64_t> first_, row_;
};

}  // namespace zaya

extern "C" {
void* zaya_open(const zaya::Model* model, int threads) { return new zaya::Engine(*model, threads); }
void zaya_refresh(void* engine, const zaya::Model* model) {  // the same shape, other weights
  static_cast<zaya::Engine*>(engine)->model = *model;
}
void zaya_close(void* engine) { delete static_cast<zaya::Engine*>(engine); }
void zaya_forward(void* engine, const zaya::Cache* cache, const zaya::Batch* batch) {
  zaya::Pass(*static_cast<zaya::Engine*>(engine), *cache, *batch).run();
}

// One token for each row of logits [N, V]; see sample.h.
void zaya_draw(void* engine, const float* logits, int64_t rows, const float* temperatures,
               const uint8_t* greedy, const float* uniforms, int64_t* tokens, float* logprobs) {
  auto& e = *static_cast<zaya::Engine*>(engine);
  int64_t size = e.model.vocab;
  e.pool.run(rows, [&](int64_t i, int) {
    auto drawn = zaya::draw(logits + i * size, size, temperatures[i], greedy[i], uniforms[i]);
    tokens[i] = drawn.token;
    logprobs[i] = drawn.logprob;
  });
}
}
