// Several products at once, cut into pieces of similar cost and shared among threads.
#pragma once
#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "matmul.h"
#include "pool.h"

namespace zaya {

// Memory that grows to the largest pass and is kept.
class Buffer {
 public:
  float* take(int64_t size) {
    if (size > size_) {
      data_.reset(new (std::align_val_t(64)) float[size]);
      size_ = size;
    }
    return data_.get();
  }

 private:
  struct Free { void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); } };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};

// One product of a set: rows [row, row + count) of W against m rows of x.
struct Product {
  const Matrix* w;
  int64_t row;
  int64_t count;
  const float* x;
  int64_t x_stride;
  int64_t m;
  float* y;
  int64_t y_stride;
  int64_t prepared = 0;  // where the rows of x in W's layout begin, bytes into the buffer

  Layout layout() const { return {Format(w->format), w->cols}; }
  const char* weights(int64_t n) const { return (const char*)w->data + (row + n) * w->row_bytes(); }
};

class Products {
 public:
  Products(int threads, int64_t most_cols) : scratch_(threads), shares_(threads) {
    for (Buffer& buffer : scratch_) buffer.take(PANEL * most_cols);
  }
  void clear() { list_.clear(); }
  void add(const Matrix& w, int64_t row, int64_t count, const float* x, int64_t x_stride, int64_t m,
           float* y, int64_t y_stride) {
    if (m > 0) list_.push_back({&w, row, count, x, x_stride, m, y, y_stride});
  }
  void run(Pool& pool) {
    prepare(pool);
    cut(pool.threads());
    pool.run(int64_t(pieces_.size()), [this](int64_t, int thread) { work(thread); });
  }

 private:
  // Rows [first, last) of W against rows [from, to) of x.
  struct Piece { int64_t product, first, last, from, to; };
  // Pieces [first, last) that a thread still has before it, as last << 32 | first.
  struct alignas(64) Share { std::atomic<uint64_t> range{0}; };

  // Lay out the rows of x for the formats that want it.
  void prepare(Pool& pool) {
    int64_t size = 0;
    fills_.clear();
    for (size_t i = 0; i < list_.size(); ++i) {
      Product& p = list_[i];
      if (p.w->format == FP32) continue;
      const Product* before = i ? &list_[i - 1] : nullptr;
      if (before && before->x == p.x && before->w->format == p.w->format && before->m == p.m) {
        p.prepared = before->prepared;
        continue;
      }
      p.prepared = size;
      int64_t some = std::max<int64_t>(1, 16384 / p.w->cols);
      for (int64_t m = 0; m < p.m; m += some)
        fills_.push_back({int64_t(i), 0, 0, m, std::min(p.m, m + some)});
      size += p.m * p.layout().row_bytes();
    }
    auto* to = (char*)inputs_.take((size + 3) / 4);
    pool.run(int64_t(fills_.size()), [&](int64_t chunk, int) {
      const Piece& fill = fills_[chunk];
      const Product& p = list_[fill.product];
      Layout layout = p.layout();
      for (int64_t m = fill.from; m < fill.to; ++m)
        layout.fill(p.x + m * p.x_stride, to + p.prepared + m * layout.row_bytes());
    });
  }

  // What a row of W costs: its weights to read, or with many tokens the arithmetic.
  static int64_t row_cost(const Product& p) { return p.w->cols * std::max<int64_t>(1, p.m / 8); }

  // Long pieces stream best, but every thread should get several, and none wait for the last: where
  // one panel costs too much, the rows of x are cut as well. Each thread begins with a run of its
  // own, so that it fetches ahead what it will really read.
  void cut(int threads) {
    int64_t total = 0;
    for (const Product& p : list_) total += p.count * row_cost(p);
    int64_t cost = std::clamp<int64_t>(total / (threads * PIECES), 1 << 14, 1 << 17);
    pieces_.clear();
    for (size_t index = 0; index < list_.size(); ++index) {
      const Product& p = list_[index];
      int64_t panels = cost / (row_cost(p) * PANEL), cuts = 1;
      if (panels == 0) cuts = std::max<int64_t>(1, std::min(row_cost(p) * PANEL / cost, p.m / 96));
      int64_t piece = std::max<int64_t>(1, panels) * PANEL, rows = (p.m + cuts - 1) / cuts;
      for (int64_t n = 0; n < p.count; n += piece)
        for (int64_t m = 0; m < p.m; m += rows)
          pieces_.push_back({int64_t(index), n, std::min(n + piece, p.count), m,
                             std::min(m + rows, p.m)});
    }
    uint64_t count = pieces_.size();
    for (int i = 0; i < threads; ++i) {
      uint64_t first = count * i / threads, last = count * (i + 1) / threads;
      shares_[i].range.store(last << 32 | first, std::memory_order_relaxed);
    }
  }

  // One piece: the next of this thread's own, or else the last of another's. As many calls as there
  // are pieces, so each finds one.
  void work(int thread) {
    constexpr uint64_t ONE_LAST = uint64_t(1) << 32;
    int threads = int(shares_.size());
    for (int i = 0;; ++i) {
      int owner = (thread + i) % threads;
      auto& range = shares_[owner].range;
      uint64_t seen = range.load(std::memory_order_acquire);
      while (uint32_t(seen) < seen >> 32) {
        bool own = owner == thread;
        if (!range.compare_exchange_weak(seen, own ? seen + 1 : seen - ONE_LAST)) continue;
        int64_t first = uint32_t(seen), last = int64_t(seen >> 32) - 1;
        int64_t piece = own ? first : last, next = own ? first + 1 : last - 1;
        bool more = first < last;
        compute(pieces_[piece], more ? &pieces_[next] : nullptr, thread);
        return;
      }
    }
  }

  void compute(const Piece& piece, const Piece* next, int thread) {
    const Product& p = list_[piece.product];
    Rows rows{(const char*)p.x, p.x_stride * int64_t(sizeof(float)), p.y - p.row, p.y_stride};
    if (p.w->format != FP32) {
      rows.x = (const char*)inputs_.take(0) + p.prepared + Layout::HEAD;
      rows.x_bytes = p.layout().row_bytes();
    }
    const char* ahead = nullptr;
    if (next && next->from == 0) ahead = list_[next->product].weights(next->first);
    times(*p.w, p.row + piece.first, p.row + piece.last, rows.from(piece.from),
          piece.to - piece.from, ahead, scratch_[thread].take(0));
  }

  static constexpr int64_t PIECES = 8;  // for every thread at least
  std::vector<Product> list_;
  std::vector<Piece> pieces_, fills_;
  std::vector<Buffer> scratch_;
  std::vector<Share> shares_;
  Buffer inputs_;
};

}  // namespace zaya
