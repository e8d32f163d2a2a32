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
INLINE uint16_t narrow(float x) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE void put(float* p, float x) { *p = x; }
INLINE void put(uint16_t* p, float x) { *p = narrow(x); }

INLINE float sum(v16 x) {
  v8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
         __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  v4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
// The sums of four vectors by the same tree, at half the shuffles.
INLINE v4 sum4(const v16* x) {
  auto fold8 = [](v16 a, v16 b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  };
  v16 ab = fold8(x[0], x[1]), cd = fold8(x[2], x[3]);
  v16 all = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
            __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  all += __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return v4{all[0], all[4], all[8], all[12]};
}
INLINE v16 maximum(v16 a, v16 b) { return a > b ? a : b; }
INLINE float largest(v16 x) {
  v8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  v8 b = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  a = a > b ? a : b;
  v4 c = __builtin_shufflevector(a, a, 0, 1, 2, 3), d = __builtin_shufflevector(a, a, 4, 5, 6, 7);
  c = c > d ? c : d;
  float e = c[0] > c[2] ? c[0] : c[2], f = c[1] > c[3] ? c[1] : c[3];
  return e > f ? e : f;
}

// e^x to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
INLINE v16 exp(v16 x) {
  x = maximum(x, splat(-87.0f));
  x = x < splat(88.0f) ? x : splat(88.0f);
  const v16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  v16 n = (x * 1.44269504088896341f + magic) - magic;
  v16 r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  v16 p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  i16 power = (__builtin_convertvector(n, i16) + 127) << 23;
  return p * (v16)power;
}

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
