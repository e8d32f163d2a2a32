// Every function of vec.h against plain loops; prints the names of those that differ.
#include <cstdio>
#include <random>

#include "vec.h"

using namespace zaya;

static std::mt19937 random_bits(1);
static float number() { return std::normal_distribution<float>()(random_bits); }

static void check(const char* name, bool right) {
  if (!right) std::printf("%s ", name);
}

template <class V, class Of>
static bool each(V x, Of of) {
  for (int i = 0; i < LANES; ++i)
    if (!(x[i] == of(i)) && !(x[i] != x[i] && of(i) != of(i))) return false;
  return true;
}

// The sum of some numbers by the tree that halves them.
static float tree(const float* x, int count) {
  float half[LANES];
  if (count == 1) return x[0];
  for (int i = 0; i < count / 2; ++i) half[i] = x[i] + x[i + count / 2];
  return tree(half, count / 2);
}

static void check_arithmetic(const float* a, const float* b) {
  v16 x = load(a), y = load(b);
  check("add", each(x + y, [&](int i) { return a[i] + b[i]; }));
  check("subtract", each(1.0f - x, [&](int i) { return 1.0f - a[i]; }));
  check("multiply", each(x * y, [&](int i) { return a[i] * b[i]; }));
  check("divide", each(x / y, [&](int i) { return a[i] / b[i]; }));
  check("negate", each(-x, [&](int i) { return -a[i]; }));
  check("select", each(select(x > y, x, y * 2.0f), [&](int i) { return a[i] > b[i] ? a[i] : b[i] * 2; }));
  check("maximum", each(maximum(x, y), [&](int i) { return a[i] > b[i] ? a[i] : b[i]; }));
  check("minimum", each(minimum(x, y), [&](int i) { return a[i] < b[i] ? a[i] : b[i]; }));
  v16 none = splat(NAN);
  check("maximum with NaN", each(maximum(none, y), [&](int i) { return b[i]; }) && !same(maximum(y, none), y));
  check("root", each(root(x * x), [&](int i) { return std::sqrt(a[i] * a[i]); }));
  check("same", same(x, x) && !same(x, y));
  check("sum", sum(x) == tree(a, LANES));
  float most = a[0];
  for (int i = 1; i < LANES; ++i) most = a[i] > most ? a[i] : most;
  check("largest", largest(x) == most);
}

static void check_orders(const float* a, const float* b) {
  v16 x = load(a), y = load(b);
  auto both = [&](int i) { return i < LANES ? a[i] : b[i - LANES]; };
  check("evens", each(evens(x, y), [&](int i) { return both(2 * i); }));
  check("odds", each(odds(x, y), [&](int i) { return both(2 * i + 1); }));
  check("zip_low", each(zip_low(x, y), [&](int i) { return i % 2 ? b[i / 2] : a[i / 2]; }));
  check("zip_high", each(zip_high(x, y), [&](int i) { return i % 2 ? b[8 + i / 2] : a[8 + i / 2]; }));
}

static void check_trees(const float* many) {
  v16 rows[LANES];
  piece pieces[PIECE];
  for (int i = 0; i < LANES; ++i) rows[i] = load(many + i * LANES);
  auto row = [&](int i) { return tree(many + i * LANES, LANES); };
  check("sum16", each(sum16(rows), row));
  v16 four = across<4>(rows), eight = across<8>(rows), tops = across<8, Max>(rows);
  for (int i = 0; i < 8; ++i) {
    check("across 8", eight[i] == row(i) && tops[i] == largest(rows[i]));
    if (i < 4) check("across 4", four[i] == row(i));
  }
  for (int i = 0; i < PIECE; ++i) pieces[i] = load_piece(many + i * PIECE);
  piece all = fold_all(pieces);
  for (int i = 0; i < PIECE; ++i) pieces[i] = load_piece(many + i * PIECE);
  piece half = fold_half(pieces);
  for (int i = 0; i < PIECE; ++i) {
    check("fold_all", all[i] == tree(many + i * PIECE, PIECE));
    if (i < PIECE / 2) check("fold_half", half[i] == tree(many + i * PIECE, PIECE));
  }
  piece left = load_piece(many), right = load_piece(many + PIECE), added = left;
  added = add_product(added, left, right);
  for (int i = 0; i < PIECE; ++i)
    check("add_product", std::fabs(added[i] - (many[i] + many[i] * many[PIECE + i])) < 1e-5f);
}

static void check_integers() {
  uint16_t wide[2 * LANES];
  int8_t signed_bytes[2 * LANES];
  uint8_t bytes[2 * LANES];
  int16_t a[2 * LANES], b[2 * LANES];
  for (int i = 0; i < 2 * LANES; ++i) {
    wide[i] = uint16_t(random_bits());
    signed_bytes[i] = int8_t(random_bits());
    bytes[i] = uint8_t(random_bits());
    a[i] = int16_t(random_bits()) / 256;
    b[i] = int16_t(random_bits());
  }
  check("widen16", each(widen16(wide), [&](int i) { return int32_t(wide[i]); }));
  check("widen16 signed", each(widen16(signed_bytes), [&](int i) { return int32_t(signed_bytes[i]); }));
  check("widen16 bytes", each(widen16(bytes), [&](int i) { return int32_t(bytes[i]); }));
  check("bf16", each(load(wide), [&](int i) { return widen(wide[i]); }));
  check("to_floats", each(to_floats(widen16(signed_bytes)), [&](int i) { return float(signed_bytes[i]); }));
  check("shifts", each(widen16(bytes) << 3 >> 1 & 255, [&](int i) { return (bytes[i] << 3 >> 1) & 255; }));
  short_piece low = widen_shorts(signed_bytes), high = widen_shorts(bytes);
  whole_piece start = widen_piece(wide), sums = dot(start, load_piece(a), load_piece(b));
  for (int i = 0; i < 2 * PIECE; ++i) check("widen_shorts", low[i] == signed_bytes[i] && high[i] == bytes[i]);
  for (int i = 0; i < PIECE; ++i)
    check("dot", sums[i] == wide[i] + a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1]);
}

static void check_functions() {
  for (float x = -90.0f; x < 90.0f; x += 0.37f) {
    double wanted = std::exp(double(std::fmin(std::fmax(x, -87.0f), 88.0f)));
    check("exp", std::fabs(exp(splat(x))[5] / wanted - 1.0) < 4e-7);
    check("exp_below", x > 0.0f || exp_below(splat(x))[11] == (x < -87.0f ? 0.0f : exp(splat(x))[0]));
  }
  for (float x = -5.0f; x < 5.0f; x += 0.013f)
    check("erf", std::fabs(erf(splat(x))[3] - std::erf(double(x))) < 1e-6);
  check("exp_below of NaN", std::isnan(exp_below(splat(NAN))[9]));
}

int main() {
  float a[LANES * LANES], b[LANES];
  for (int round = 0; round < 100; ++round) {
    for (float& x : a) x = number();
    for (float& x : b) x = number();
    check_arithmetic(a, b);
    check_orders(a, b);
    check_trees(a);
    check_integers();
  }
  check_functions();
}
