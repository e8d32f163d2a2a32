// Threads that help when they have a core, and are not waited for when they have none.
//
// Work is cut into chunks that the caller and its helpers take one by one; a helper that the system
// does not run takes nothing, where fixed shares per thread, as OpenMP deals them, would wait for the
// slowest. A helper may still lose its core in the middle of a chunk: after such a wait the caller
// works alone for a while, longer each time it happens again soon.
#pragma once
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#else
#define RELAX() std::this_thread::yield()
#endif

namespace zaya {

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads < 1 ? 1 : threads) {
    for (int i = 1; i < threads_; ++i) helpers_.emplace_back([this, i] { help(i); });
  }
  ~Pool() {
    stop_.store(true);
    ticket_.fetch_add(uint64_t(1) << 32);
    ticket_.notify_all();
    for (auto& helper : helpers_) helper.join();
  }
  int threads() const { return threads_; }

  // Call work(chunk, thread) for every chunk in [0, chunks); returns when all are done.
  template <class Work>
  void run(int64_t chunks, Work&& work) {
    int64_t begun = threads_ == 1 || chunks <= 1 ? 0 : now_us();
    if (begun == 0 || begun < alone_until_) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) work(chunk, 0);
      return;
    }
    call_.store([](void* at, int64_t chunk, int thread) {
      (*static_cast<std::remove_reference_t<Work>*>(at))(chunk, thread);
    }, std::memory_order_relaxed);
    work_.store(&work, std::memory_order_relaxed);
    chunks_.store(chunks, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(generation << 32 | uint64_t(chunks), std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst)) ticket_.notify_all();
    int64_t own = take(generation, 0);
    int64_t idle_since = now_us();
    for (int spins = 0; done_.load(std::memory_order_acquire) < chunks; ++spins) {
      if (spins < 2000) RELAX();
      else sched_yield();  // a helper holds a chunk but not a core
    }
    judge(now_us() - idle_since, (idle_since - begun) / std::max<int64_t>(own, 1));
  }

 private:
  using Call = void (*)(void*, int64_t, int);

  static int64_t now_us() {
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  }

  // Decide from the wait at the end of a run, and the time of a chunk, whether helpers help. A wait
  // after long calm is chance, not a process that wants the core.
  void judge(int64_t waited_us, int64_t chunk_us) {
    if (waited_us <= 200 + 4 * chunk_us) return;
    int64_t now = now_us();
    alone_us_ = now - alone_until_ > CALM_US ? ALONE_US : std::min(2 * alone_us_, MOST_ALONE_US);
    alone_until_ = now + alone_us_;
  }

  // Take chunks of one generation until none is left; returns how many.
  int64_t take(uint64_t generation, int thread) {
    int64_t taken = 0;
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (ticket >> 32 == generation) {
      Call call = call_.load(std::memory_order_relaxed);
      void* work = work_.load(std::memory_order_relaxed);
      int64_t left = int64_t(ticket & 0xffffffff);
      if (left == 0) return taken;
      int64_t chunk = chunks_.load(std::memory_order_relaxed) - left;
      // Winning the exchange proves that what was read above belongs to this generation: the caller
      // writes the next one's only when this chunk, too, is done. The count that is left must be part
      // of the ticket for that: a finished generation's ticket can then not be won any more.
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      call(work, chunk, thread);
      ++taken;
      done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
    return taken;
  }

  void help(int thread) {
    uint64_t seen = 0;
    while (!stop_.load(std::memory_order_relaxed)) {
      uint64_t ticket = ticket_.load(std::memory_order_acquire);
      for (int spins = 0; ticket >> 32 == seen && spins < 3000; ++spins) {
        RELAX();
        ticket = ticket_.load(std::memory_order_acquire);
      }
      while (ticket >> 32 == seen) {
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        ticket = ticket_.load(std::memory_order_seq_cst);
        if (ticket >> 32 == seen) ticket_.wait(ticket, std::memory_order_acquire);
        sleeping_.fetch_sub(1, std::memory_order_relaxed);
        ticket = ticket_.load(std::memory_order_acquire);
      }
      seen = ticket >> 32;
      take(seen, thread);
    }
  }

  int threads_;
  std::vector<std::thread> helpers_;
  alignas(64) std::atomic<uint64_t> ticket_{0};  // generation << 32 | chunks left
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> work_{nullptr};
  std::atomic<int64_t> chunks_{0};
  static constexpr int64_t ALONE_US = 2'000, MOST_ALONE_US = 200'000, CALM_US = 50'000;
  int64_t alone_until_ = 0, alone_us_ = ALONE_US;  // of the caller only
};

}  // namespace zaya
