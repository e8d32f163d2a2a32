// Sixteen floats at a time, whatever the processor's own vectors hold.
//
// Every product of the model is summed the same way whatever the batch is: running sums along the row,
// as many as a register has lanes, added up by one fixed tree. That is what makes a token's numbers
// independent of the tokens computed beside it.
#pragma once
#include <cmath>
#include <cstring>

#include "registers.h"

namespace zaya {

// bfloat16 is the upper half of a float.
INLINE float widen(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}
INLINE uint16_t narrow(float x) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE piece load_piece(const uint16_t* p) { return float_bits(widen_piece(p) << 16); }
INLINE v16 load(const uint16_t* p) { return float_bits(widen16(p) << 16); }
INLINE piece spread_bf16(const uint16_t* p) {  // one number in every lane
#if defined(__AVX2__) && REGISTER_BYTES == 32
  return float_bits((whole_piece)_mm256_set1_epi16(int16_t(*p)) << 16);
#else
  return spread(widen(*p));
#endif
}
INLINE void put(float* p, float x) { *p = x; }
INLINE void put(uint16_t* p, float x) { *p = narrow(x); }

// A vector's lanes, folded by half until one is left.
struct Add {
  template <class V> INLINE V operator()(V a, V b) const { return a + b; }
};
struct Max {
  template <class V> INLINE V operator()(V a, V b) const { return a > b ? a : b; }
  template <class H> INLINE Pair<H> operator()(Pair<H> a, Pair<H> b) const { return maximum(a, b); }
  INLINE piece operator()(piece a, piece b) const { return maximum(a, b); }
};
template <class V> INLINE auto low_half(V x) {
  if constexpr (sizeof x == 64) return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  else return __builtin_shufflevector(x, x, 0, 1, 2, 3);
}
template <class V> INLINE auto high_half(V x) {
  if constexpr (sizeof x == 64) return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  else return __builtin_shufflevector(x, x, 4, 5, 6, 7);
}
template <class H> INLINE H low_half(Pair<H> x) { return x.low; }
template <class H> INLINE H high_half(Pair<H> x) { return x.high; }
template <class Join, class V> INLINE float joined(V x) {
  if constexpr (sizeof x > 16) return joined<Join>(Join()(low_half(x), high_half(x)));
  else return Join()(Join()(x[0], x[2]), Join()(x[1], x[3]));
}
INLINE float sum(v16 x) { return joined<Add>(x); }
INLINE float largest(v16 x) { return joined<Max>(x); }
INLINE bool same(v16 a, v16 b) { return largest(select(a == b, v16{}, splat(1.0f))) == 0.0f; }

// Join two vectors and fold them by half at one level of that tree: of every WIDTH lanes the lower
// half keeps sums (or largest) of `a`, the upper half those of `b`. One shuffle and one blend, as only
// one of the processor's ports shuffles.
template <int WIDTH> struct Folded {  // which lane of `a`, then `b`, meets lane i: its own, the other
  static constexpr int H = WIDTH / 2;
  static constexpr int own(int i) { return i % WIDTH < H ? i : PIECE + i; }
  static constexpr int other(int i) { return i % WIDTH < H ? i + H : PIECE + i - H; }
};
template <int WIDTH, class Join = Add> INLINE piece fold(piece a, piece b) {
  using At = Folded<WIDTH>;
#if REGISTER_BYTES == 64
  constexpr __mmask16 upper = WIDTH == 16 ? 0xff00 : WIDTH == 8 ? 0xf0f0 : WIDTH == 4 ? 0xcccc : 0xaaaa;
  const whole_piece other = {At::other(0),  At::other(1),  At::other(2),  At::other(3),
                             At::other(4),  At::other(5),  At::other(6),  At::other(7),
                             At::other(8),  At::other(9),  At::other(10), At::other(11),
                             At::other(12), At::other(13), At::other(14), At::other(15)};
  piece kept = (piece)_mm512_mask_blend_ps(upper, (__m512)a, (__m512)b);
  return Join()(kept, (piece)_mm512_permutex2var_ps((__m512)a, (__m512i)other, (__m512)b));
#elif REGISTER_BYTES == 32
  piece kept = __builtin_shufflevector(a, b, At::own(0), At::own(1), At::own(2), At::own(3),
                                       At::own(4), At::own(5), At::own(6), At::own(7));
  piece across = __builtin_shufflevector(a, b, At::other(0), At::other(1), At::other(2), At::other(3),
                                         At::other(4), At::other(5), At::other(6), At::other(7));
  return Join()(kept, across);
#else
  piece kept = __builtin_shufflevector(a, b, At::own(0), At::own(1), At::own(2), At::own(3));
  piece across =
      __builtin_shufflevector(a, b, At::other(0), At::other(1), At::other(2), At::other(3));
  return Join()(kept, across);
#endif
}
template <int WIDTH, class Join = Add, class H> INLINE Pair<H> fold(Pair<H> a, Pair<H> b) {
  if constexpr (WIDTH * sizeof(float) == sizeof a)
    return {Join()(a.low, a.high), Join()(b.high, b.low)};
  else return {fold<WIDTH, Join>(a.low, b.low), fold<WIDTH, Join>(a.high, b.high)};
}
// Lane i holds the sum of piece i: each level takes one bit of i, the first level the highest.
template <int WIDTH = PIECE> INLINE piece fold_all(piece* x) {
  UNROLL for (int i = 0; i < WIDTH / 2; ++i) x[i] = fold<WIDTH>(x[i], x[i + WIDTH / 2]);
  if constexpr (WIDTH > 2) return fold_all<WIDTH / 2>(x);
  else return x[0];
}
// The same for half as many: the last level makes copies, then dropped.
template <int WIDTH = PIECE> INLINE piece fold_half(piece* x) {
  UNROLL for (int i = 0; i < WIDTH / 4; ++i) x[i] = fold<WIDTH>(x[i], x[i + WIDTH / 4]);
  if constexpr (WIDTH > 4) return fold_half<WIDTH / 2>(x);
  x[0] = fold<2>(x[0], x[0]);
  return evens(x[0], x[0]);
}
// The same for sixteen vectors.
INLINE piece to_piece(piece x) { return x; }
template <class H> INLINE piece to_piece(Pair<H> x) { return to_piece(x.low + x.high); }
INLINE v16 sum16(const v16* x) {
  return from_parts([&](int part) __attribute__((always_inline)) {
    piece sums[PIECE];
    UNROLL for (int i = 0; i < PIECE; ++i) sums[i] = to_piece(x[part * PIECE + i]);
    return fold_all(sums);
  });
}
// The same for four or eight vectors, sums or largest: the last levels make copies, then dropped.
template <int N, class Join = Add> INLINE v16 across(const v16* x) {
  static_assert(N == 4 || N == 8);
  v16 a[4], b;
  if constexpr (N == 8) {
    UNROLL for (int i = 0; i < 4; ++i) a[i] = fold<16, Join>(x[i], x[i + 4]);
    b = fold<4, Join>(fold<8, Join>(a[0], a[2]), fold<8, Join>(a[1], a[3]));
  } else {
    UNROLL for (int i = 0; i < 2; ++i) a[i] = fold<16, Join>(x[i], x[i + 2]);
    b = fold<8, Join>(a[0], a[1]);
    b = fold<4, Join>(b, b);
  }
  b = fold<2, Join>(b, b);
  UNROLL for (int copies = LANES / N; copies > 1; copies /= 2) b = evens(b, b);
  return b;
}

// e^x to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
INLINE v16 exp(v16 x) {
  x = minimum(maximum(x, splat(-87.0f)), splat(88.0f));
  // Adding 1.5 * 2^23 rounds to a whole number n, which the lowest bits of the sum then hold.
  const v16 magic = splat(12582912.0f);
  v16 sum = x * 1.44269504088896341f + magic, n = sum - magic;
  v16 r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  v16 p = splat(0.00138145f);
  p = p * r + 0.00836875f;
  p = p * r + 0.04166839f;
  p = p * r + 0.1666652f;
  p = p * r + 0.49999993f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return float_bits(int_bits(p) + (int_bits(sum) << 23));  // n added to the exponent
}

// The same for x <= 0: 0 where that is too small for a float, NaN where x is.
INLINE v16 exp_below(v16 x) { return select(x >= splat(-87.0f), exp(x), maximum(v16{}, x)); }

// The error function to 4e-7, relative: a quotient of polynomials in x^2, fitted on [0, 3.92].
INLINE v16 erf(v16 x) {
  x = maximum(x, splat(-3.92f));
  x = select(x < splat(3.92f), x, splat(3.92f));
  v16 u = x * x;
  v16 p = splat(2.0347326881164918e-06f);
  p = p * u + 0.0002874801284633577f;
  p = p * u + 0.0038683535531163216f;
  p = p * u + 0.053060565143823624f;
  p = p * u + 0.19276465475559235f;
  p = p * u + 1.128378987312317f;
  v16 q = splat(3.807065513683483e-05f);
  q = q * u + 0.001188121736049652f;
  q = q * u + 0.015172349289059639f;
  q = q * u + 0.11508486419916153f;
  q = q * u + 0.5041648745536804f;
  q = q * u + 1.0f;
  return x * p / q;
}

}  // namespace zaya
