// A helper that loses its core for 5 ms, once in so many milliseconds: how many rounds of a hundred
// does it still take part in? Chunks sleep, so that no core is needed to try it.
#include <cstdio>
#include <cstdlib>

#include "pool.h"

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

int main(int, char** argv) {
  const Milliseconds apart(std::atol(argv[1]));
  zaya::Pool pool(2);
  long rounds = 0, shared = 0;
  const auto begun = Clock::now();
  auto stalled = begun;
  for (; Clock::now() - begun < Milliseconds(1500); ++rounds) {
    std::atomic<bool> helped{false};
    pool.run(8, [&](int64_t, int thread) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (thread == 0) return;
      helped = true;
      if (Clock::now() - stalled < apart) return;
      std::this_thread::sleep_for(Milliseconds(5));
      stalled = Clock::now();
    });
    shared += helped;
  }
  std::printf("%ld", 100 * shared / rounds);
}
