// Many short rounds on a pool: every chunk of a round must be worked on once, and in its own round.
#include <cstdio>
#include <cstdlib>

#include "pool.h"

int main(int, char** argv) {
  zaya::Pool pool(3);
  long wrong = 0;
  for (long round = 0; round < std::atol(argv[1]); ++round) {
    int chunks = 2 + int(round % 6);
    std::atomic<int> calls{0}, seen{0};
    pool.run(chunks, [&](int64_t chunk, int) {
      ++calls;
      seen |= 1 << chunk;
    });
    wrong += calls != chunks || seen != (1 << chunks) - 1;
  }
  std::printf("%ld", wrong);
}
