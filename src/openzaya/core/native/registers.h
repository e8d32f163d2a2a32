// The processor's own vectors (AVX-512, AVX, NEON or SSE), and numbers of 64 bytes made of one, two or
// four of them. Compilers keep only the processor's own vectors in registers: larger ones of their
// portable types live in memory, hence pairs.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)
#define REGISTER_BYTES 64
#elif defined(__AVX__)
#define REGISTER_BYTES 32
#else
#define REGISTER_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))
// Before a loop over an array of vectors that must stay in registers.
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

namespace zaya {

constexpr int LANES = 16, PIECE = REGISTER_BYTES / 4, PARTS = LANES / PIECE;
typedef float piece __attribute__((vector_size(REGISTER_BYTES), aligned(4)));
typedef int32_t whole_piece __attribute__((vector_size(REGISTER_BYTES), aligned(4)));
typedef int16_t short_piece __attribute__((vector_size(REGISTER_BYTES), aligned(2)));
typedef uint16_t unsigned_piece __attribute__((vector_size(REGISTER_BYTES), aligned(2)));

template <class Half> struct Pair {
  Half low, high;
  INLINE auto operator[](int i) const {
    constexpr int count = sizeof(Half) / sizeof(low[0]);
    return i < count ? low[i] : high[i - count];
  }
};
template <class Half> Pair(Half, Half) -> Pair<Half>;

// Sixteen floats, and sixteen integers.
#if REGISTER_BYTES == 64
typedef piece v16;
typedef whole_piece i16;
#elif REGISTER_BYTES == 32
typedef Pair<piece> v16;
typedef Pair<whole_piece> i16;
#else
typedef Pair<Pair<piece>> v16;
typedef Pair<Pair<whole_piece>> i16;
#endif

template <class V> using Element = std::remove_cvref_t<decltype(std::declval<V>()[0])>;
template <class S> concept Number = std::is_arithmetic_v<S>;

#define OPERATOR(OP)                                                                               \
  template <class H> INLINE auto operator OP(Pair<H> a, Pair<H> b) {                               \
    return Pair{a.low OP b.low, a.high OP b.high};                                                 \
  }                                                                                                \
  template <class H, Number S> INLINE auto operator OP(Pair<H> a, S b) {                           \
    return Pair{a.low OP Element<H>(b), a.high OP Element<H>(b)};                                  \
  }                                                                                                \
  template <class H, Number S> INLINE auto operator OP(S a, Pair<H> b) {                           \
    return Pair{Element<H>(a) OP b.low, Element<H>(a) OP b.high};                                  \
  }
OPERATOR(+) OPERATOR(-) OPERATOR(*) OPERATOR(/) OPERATOR(&) OPERATOR(|) OPERATOR(<<) OPERATOR(>>)
OPERATOR(<) OPERATOR(>) OPERATOR(<=) OPERATOR(>=) OPERATOR(==)
#undef OPERATOR
template <class H> INLINE Pair<H> operator-(Pair<H> a) { return {-a.low, -a.high}; }
template <class H, class B> INLINE Pair<H>& operator+=(Pair<H>& a, B b) { return a = a + b; }
template <class H, class B> INLINE Pair<H>& operator*=(Pair<H>& a, B b) { return a = a * b; }

// A vector of its parts.
template <class Make> INLINE auto from_parts(Make make) {
  if constexpr (PARTS == 1) return make(0);
  else if constexpr (PARTS == 2) return Pair{make(0), make(1)};
  else return Pair{Pair{make(0), make(1)}, Pair{make(2), make(3)}};
}

// A number in every lane.
INLINE piece spread(float x) { return x - piece{}; }
INLINE v16 splat(float x) { return from_parts([=](int) { return spread(x); }); }

INLINE piece load_piece(const float* p) { return *reinterpret_cast<const piece*>(p); }
INLINE whole_piece load_piece(const int32_t* p) { return *reinterpret_cast<const whole_piece*>(p); }
INLINE short_piece load_piece(const int16_t* p) { return *reinterpret_cast<const short_piece*>(p); }
INLINE void store_piece(float* p, piece x) { *reinterpret_cast<piece*>(p) = x; }
INLINE void store_piece(int32_t* p, whole_piece x) { *reinterpret_cast<whole_piece*>(p) = x; }
INLINE v16 load(const float* p) { return from_parts([&](int i) { return load_piece(p + i * PIECE); }); }
INLINE i16 load(const int32_t* p) { return from_parts([&](int i) { return load_piece(p + i * PIECE); }); }
template <class T, class V> INLINE void store(T* p, V x) { store_piece(p, x); }
template <class T, class H> INLINE void store(T* p, Pair<H> x) {
  store(p, x.low);
  store(p + sizeof(H) / sizeof(T), x.high);
}

// Where there are only sixteen registers, compilers load factors again for each product and store sums
// to make room, so that they are told what to do: keep a factor, and add a product to a sum in place.
#if defined(__x86_64__) && defined(__FMA__) && REGISTER_BYTES == 32
INLINE piece keep(piece x) {
  asm volatile("" : "+x"(x));
  return x;
}
INLINE piece add_product(piece sum, piece a, piece b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}
#else
INLINE piece keep(piece x) { return x; }
INLINE piece add_product(piece sum, piece a, piece b) { return sum + a * b; }
#endif

// `a` where the mask is set, else `b`.
template <class M, class V> INLINE V select(M mask, V a, V b) { return mask ? a : b; }
template <class M, class H> INLINE Pair<H> select(Pair<M> mask, Pair<H> a, Pair<H> b) {
  return {select(mask.low, a.low, b.low), select(mask.high, a.high, b.high)};
}

// The same bits as another type, and the same numbers.
INLINE piece float_bits(whole_piece x) { return (piece)x; }
INLINE whole_piece int_bits(piece x) { return (whole_piece)x; }
INLINE piece to_floats(whole_piece x) { return __builtin_convertvector(x, piece); }
template <class H> INLINE auto float_bits(Pair<H> x) { return Pair{float_bits(x.low), float_bits(x.high)}; }
template <class H> INLINE auto int_bits(Pair<H> x) { return Pair{int_bits(x.low), int_bits(x.high)}; }
template <class H> INLINE auto to_floats(Pair<H> x) { return Pair{to_floats(x.low), to_floats(x.high)}; }

// The larger and the smaller; the second where one is no number, as the instructions have it, which
// compilers do not always see.
#if REGISTER_BYTES == 64
INLINE piece maximum(piece a, piece b) { return (piece)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE piece minimum(piece a, piece b) { return (piece)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE piece root(piece x) { return (piece)_mm512_sqrt_ps((__m512)x); }
#elif REGISTER_BYTES == 32
INLINE piece maximum(piece a, piece b) { return (piece)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE piece minimum(piece a, piece b) { return (piece)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE piece root(piece x) { return (piece)_mm256_sqrt_ps((__m256)x); }
#else
INLINE piece maximum(piece a, piece b) { return a > b ? a : b; }
INLINE piece minimum(piece a, piece b) { return a < b ? a : b; }
INLINE piece root(piece x) {
  UNROLL for (int i = 0; i < PIECE; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
#endif
template <class H> INLINE Pair<H> maximum(Pair<H> a, Pair<H> b) {
  return {maximum(a.low, b.low), maximum(a.high, b.high)};
}
template <class H> INLINE Pair<H> minimum(Pair<H> a, Pair<H> b) {
  return {minimum(a.low, b.low), minimum(a.high, b.high)};
}
template <class H> INLINE Pair<H> root(Pair<H> x) { return {root(x.low), root(x.high)}; }

// Small integers, widened. The compilers' own conversion of a part of a vector goes through scalars,
// hence the instructions by name.
#if REGISTER_BYTES == 64
INLINE whole_piece widen_piece(const uint16_t* p) {
  return (whole_piece)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
}
INLINE whole_piece widen_piece(const int8_t* p) {
  return (whole_piece)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
}
INLINE whole_piece widen_piece(const uint8_t* p) {
  return (whole_piece)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
}
#elif defined(__AVX2__)
INLINE whole_piece widen_piece(const uint16_t* p) {
  return (whole_piece)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
}
INLINE whole_piece widen_piece(const int8_t* p) {
  return (whole_piece)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
INLINE whole_piece widen_piece(const uint8_t* p) {
  return (whole_piece)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
#else
template <class Small> INLINE whole_piece widen_piece(const Small* p) {
  whole_piece wide;
  UNROLL for (int i = 0; i < PIECE; ++i) wide[i] = p[i];
  return wide;
}
#endif
template <class Small> INLINE i16 widen16(const Small* p) {
  return from_parts([&](int i) { return widen_piece(p + i * PIECE); });
}

#if REGISTER_BYTES == 64
INLINE short_piece widen_shorts(const int8_t* p) {
  return (short_piece)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
INLINE short_piece widen_shorts(const uint8_t* p) {
  return (short_piece)_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
#elif defined(__AVX2__)
INLINE short_piece widen_shorts(const int8_t* p) {
  return (short_piece)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
}
INLINE short_piece widen_shorts(const uint8_t* p) {
  return (short_piece)_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
}
#else
template <class Small> INLINE short_piece widen_shorts(const Small* p) {
  short_piece wide;
  UNROLL for (int i = 0; i < 2 * PIECE; ++i) wide[i] = p[i];
  return wide;
}
#endif

// Dot products of short integers: lane i gets the products of elements 2i and 2i + 1, exactly.
INLINE whole_piece dot(whole_piece sum, short_piece a, short_piece b) {
#if defined(__AVX512VNNI__) && REGISTER_BYTES == 64
  return (whole_piece)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif REGISTER_BYTES == 64
  return sum + (whole_piece)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return sum + (whole_piece)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__) && REGISTER_BYTES == 16
  return sum + (whole_piece)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  UNROLL for (int i = 0; i < PIECE; ++i) sum[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return sum;
#endif
}

// The even elements of two vectors one after the other, the odd ones, and both in turns: the pairs of
// the first halves, and of the second.
#define PICK(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#if REGISTER_BYTES == 64
INLINE piece evens(piece a, piece b) {
  return PICK(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
INLINE piece odds(piece a, piece b) {
  return PICK(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
INLINE piece zip_low(piece a, piece b) {
  return PICK(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
INLINE piece zip_high(piece a, piece b) {
  return PICK(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif REGISTER_BYTES == 32
INLINE piece evens(piece a, piece b) { return PICK(0, 2, 4, 6, 8, 10, 12, 14); }
INLINE piece odds(piece a, piece b) { return PICK(1, 3, 5, 7, 9, 11, 13, 15); }
INLINE piece zip_low(piece a, piece b) { return PICK(0, 8, 1, 9, 2, 10, 3, 11); }
INLINE piece zip_high(piece a, piece b) { return PICK(4, 12, 5, 13, 6, 14, 7, 15); }
#else
INLINE piece evens(piece a, piece b) { return PICK(0, 2, 4, 6); }
INLINE piece odds(piece a, piece b) { return PICK(1, 3, 5, 7); }
INLINE piece zip_low(piece a, piece b) { return PICK(0, 4, 1, 5); }
INLINE piece zip_high(piece a, piece b) { return PICK(2, 6, 3, 7); }
#endif
#undef PICK
template <class H> INLINE Pair<H> evens(Pair<H> a, Pair<H> b) {
  return {evens(a.low, a.high), evens(b.low, b.high)};
}
template <class H> INLINE Pair<H> odds(Pair<H> a, Pair<H> b) {
  return {odds(a.low, a.high), odds(b.low, b.high)};
}
template <class H> INLINE Pair<H> zip_low(Pair<H> a, Pair<H> b) {
  return {zip_low(a.low, b.low), zip_high(a.low, b.low)};
}
template <class H> INLINE Pair<H> zip_high(Pair<H> a, Pair<H> b) {
  return {zip_low(a.high, b.high), zip_high(a.high, b.high)};
}

}  // namespace zaya
