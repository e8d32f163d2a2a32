// Sixteen floats at a time, in the compiler's portable vector types: AVX-512, AVX2 and NEON alike.
//
// Every product of the model is summed the same way whatever the batch is: sixteen running sums
// along the row, added up by one fixed tree. That is what makes a token's numbers independent of
// the tokens computed beside it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace zaya {

constexpr int LANES = 16;
typedef float v16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef float v4u __attribute__((vector_size(16), aligned(4)));

#define INLINE inline __attribute__((always_inline))
// Before a loop over an array of vectors that must stay in registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#define EVENS(a, b) \
  __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODDS(a, b) \
  __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
INLINE v16 splat(float x) { return x - v16{}; }
INLINE v16 load(const float* p) { return *reinterpret_cast<const v16*>(p); }
INLINE void store(float* p, v16 x) { *reinterpret_cast<v16*>(p) = x; }

// bfloat16 is the upper half of a float.
INLINE float widen(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

// Sixteen small integers, widened. The compilers' own conversion of a quarter of a vector goes
// through scalars, hence the instructions by name.
#if defined(__AVX512F__)
INLINE i16 widen16(const uint16_t* p) {
  return (i16)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
}
INLINE i16 widen16(const int8_t* p) {
  return (i16)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
}
INLINE i16 widen16(const uint8_t* p) {
  return (i16)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
}
INLINE v16 pick(v16 table, i16 index) {  // of each index the lower four bits
  return (v16)_mm512_permutexvar_ps((__m512i)index, (__m512)table);
}
#else
template <class Small>
INLINE i16 widen16(const Small* p) {
  i16 wide;
  for (int i = 0; i < LANES; ++i) wide[i] = p[i];
  return wide;
}
INLINE v16 pick(v16 table, i16 index) {
  v16 found;
  for (int i = 0; i < LANES; ++i) found[i] = table[index[i] & 15];
  return found;
}
#endif
INLINE v16 load(const uint16_t* p) { return (v16)(widen16(p) << 16); }

// 32 small integers as 16-bit ones, and dot products of such: lane i gets the products of elements
// 2i and 2i + 1, exactly.
typedef int16_t s32 __attribute__((vector_size(64), aligned(2)));
#if defined(__AVX512BW__)
INLINE s32 widen32(const int8_t* p) {
  return (s32)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
INLINE s32 widen32(const uint8_t* p) {
  return (s32)_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
INLINE i16 dot(i16 sum, s32 a, s32 b) {
#if defined(__AVX512VNNI__)
  return (i16)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
  return sum + (i16)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#endif
}
#else
template <class Small>
INLINE s32 widen32(const Small* p) {
  s32 wide;
  for (int i = 0; i < 2 * LANES; ++i) wide[i] = p[i];
  return wide;
}
INLINE i16 dot(i16 sum, s32 a, s32 b) {
  for (int i = 0; i < LANES; ++i) sum[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return sum;
}
#endif
INLINE s32 load(const int16_t* p) { return *reinterpret_cast<const s32*>(p); }
INLINE i16 load(const int32_t* p) { return *reinterpret_cast<const i16*>(p); }
INLINE uint16_t narrow(float x) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE void put(float* p, float x) { *p = x; }
INLINE void put(uint16_t* p, float x) { *p = narrow(x); }

// The second where one is no number, as the instructions have it; compilers do not always see them.
#if defined(__AVX512F__)
INLINE v16 maximum(v16 a, v16 b) { return (v16)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE v16 minimum(v16 a, v16 b) { return (v16)_mm512_min_ps((__m512)a, (__m512)b); }
#else
INLINE v16 maximum(v16 a, v16 b) { return a > b ? a : b; }
INLINE v16 minimum(v16 a, v16 b) { return a < b ? a : b; }
#endif

INLINE float sum(v16 x) {
  v8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
         __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  v4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
struct Add {
  INLINE v16 operator()(v16 a, v16 b) const { return a + b; }
};
struct Max {
  INLINE v16 operator()(v16 a, v16 b) const { return maximum(a, b); }
};
// Join two vectors and fold them by half at one level of that tree: of every WIDTH lanes the lower
// half keeps sums (or largest) of `a`, the upper half those of `b`. One shuffle and one blend, as only
// one of the processor's ports shuffles.
#if defined(__AVX512F__)
template <int WIDTH, class Join = Add> INLINE v16 fold(v16 a, v16 b) {
  constexpr __mmask16 upper = WIDTH == 16 ? 0xff00 : WIDTH == 8 ? 0xf0f0 : WIDTH == 4 ? 0xcccc : 0xaaaa;
  constexpr int H = WIDTH / 2;
  constexpr auto at = [](int i) { return i % WIDTH < H ? i + H : 16 + i - H; };
  const i16 across = {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7),
                      at(8), at(9), at(10), at(11), at(12), at(13), at(14), at(15)};
  v16 kept = (v16)_mm512_mask_blend_ps(upper, (__m512)a, (__m512)b);
  return Join()(kept, (v16)_mm512_permutex2var_ps((__m512)a, (__m512i)across, (__m512)b));
}
#else
template <int WIDTH, class Join = Add> INLINE v16 fold(v16 a, v16 b) {
  v16 kept, across;
  for (int i = 0; i < 16; ++i) {
    int half = WIDTH / 2;
    kept[i] = i % WIDTH < half ? a[i] : b[i];
    across[i] = i % WIDTH < half ? a[i + half] : b[i - half];
  }
  return Join()(kept, across);
}
#endif
// Lane i holds the sum of vector i: each level takes one bit of i, the first level the highest.
INLINE v16 sum16(const v16* x) {
  v16 a[8], b[4];
  for (int i = 0; i < 8; ++i) a[i] = fold<16>(x[i], x[i + 8]);
  for (int i = 0; i < 4; ++i) b[i] = fold<8>(a[i], a[i + 4]);
  return fold<2>(fold<4>(b[0], b[2]), fold<4>(b[1], b[3]));
}
// The same for four or eight vectors, sums or largest: the last levels make copies, then dropped.
template <int N, class Join = Add> INLINE v16 across(const v16* x) {
  static_assert(N == 4 || N == 8);
  v16 a[4], b;
  if constexpr (N == 8) {
    for (int i = 0; i < 4; ++i) a[i] = fold<16, Join>(x[i], x[i + 4]);
    b = fold<4, Join>(fold<8, Join>(a[0], a[2]), fold<8, Join>(a[1], a[3]));
  } else {
    for (int i = 0; i < 2; ++i) a[i] = fold<16, Join>(x[i], x[i + 2]);
    b = fold<8, Join>(a[0], a[1]);
    b = fold<4, Join>(b, b);
  }
  b = fold<2, Join>(b, b);
  for (int copies = LANES / N; copies > 1; copies /= 2) b = EVENS(b, b);
  return b;
}
INLINE float largest(v16 x) {
  v8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  v8 b = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  a = a > b ? a : b;
  v4 c = __builtin_shufflevector(a, a, 0, 1, 2, 3), d = __builtin_shufflevector(a, a, 4, 5, 6, 7);
  c = c > d ? c : d;
  float e = c[0] > c[2] ? c[0] : c[2], f = c[1] > c[3] ? c[1] : c[3];
  return e > f ? e : f;
}
INLINE bool same(v16 a, v16 b) { return largest(a == b ? v16{} : splat(1.0f)) == 0.0f; }

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
  return (v16)((i16)p + ((i16)sum << 23));  // n added to the exponent
}

// The same for x <= 0: 0 where that is too small for a float, NaN where x is.
INLINE v16 exp_below(v16 x) { return x >= splat(-87.0f) ? exp(x) : maximum(v16{}, x); }

// The error function to 4e-7, relative: a quotient of polynomials in x^2, fitted on [0, 3.92].
INLINE v16 erf(v16 x) {
  x = maximum(x, splat(-3.92f));
  x = x < splat(3.92f) ? x : splat(3.92f);
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
