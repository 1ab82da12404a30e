// Sixteen floats at a time, through the compiler's vector extensions: any CPU runs it, AVX-512 runs it best.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
typedef int8_t bytes __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(32)));

constexpr int LANES = 16;

static inline floats splat(float x) { return x - floats{}; }

template <class V, class T>
static inline V load(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

static inline void store(float* to, floats v) { std::memcpy(to, &v, sizeof v); }

// Sixteen numbers of a cache or a weight as floats: float, bfloat16 (as uint16_t) or int8_t.
static inline floats widen(const float* from) { return load<floats>(from); }
#ifdef __AVX512F__
// GCC 12 converts small integers one by one unless it is told the instruction.
static inline ints widen(bytes v) { return (ints)_mm512_cvtepi8_epi32((__m128i)v); }
static inline ints widen(halves v) { return (ints)_mm512_cvtepu16_epi32((__m256i)v); }
static inline bytes narrow(ints v) { return (bytes)_mm512_cvtepi32_epi8((__m512i)v); }
#else
static inline ints widen(bytes v) { return __builtin_convertvector(v, ints); }
static inline ints widen(halves v) { return __builtin_convertvector(v, ints); }
static inline bytes narrow(ints v) { return __builtin_convertvector(v, bytes); }
#endif
static inline floats widen(const uint16_t* from) { return (floats)(widen(load<halves>(from)) << 16); }
static inline floats widen(const int8_t* from) { return __builtin_convertvector(widen(load<bytes>(from)), floats); }

static inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
}

static inline floats select(ints mask, floats yes, floats no) { return (floats)((mask & (ints)yes) | (~mask & (ints)no)); }
static inline floats vmax(floats a, floats b) { return select(a > b, a, b); }
static inline floats vmin(floats a, floats b) { return select(a < b, a, b); }
static inline floats vabs(floats a) { return (floats)((ints)a & 0x7fffffff); }

static inline float sum(floats v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

static inline int32_t sum(ints v) {
  int32_t lanes[LANES];
  std::memcpy(lanes, &v, sizeof v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

static inline float top(floats v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}

// To the nearest, ties to even; for numbers of less than 23 bits.
static inline floats nearest(floats v) { return (v + 12582912.0f) - 12582912.0f; }
static inline ints to_ints(floats v) { return __builtin_convertvector(nearest(v), ints); }

// e^x, within two units in the last place from -87 to 88: 2^n times a polynomial of the rest.
static inline floats vexp(floats x) {
  x = vmax(vmin(x, splat(88.0f)), splat(-87.0f));
  const floats n = nearest(x * 1.44269504f);
  const floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  floats p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * (floats)((__builtin_convertvector(n, ints) + 127) << 23);
}

// x Phi(x), with the error function by formula 7.1.26 of Abramowitz and Stegun (within 1.5e-7).
static inline floats gelu(floats x) {
  const floats z = vabs(x) * 0.70710678f;
  const floats t = 1.0f / (1.0f + 0.3275911f * z);
  floats p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const floats tail = 0.5f * p * t * vexp(-z * z);  // 1 - Phi(|x|)
  return select(x > 0.0f, x - x * tail, x * tail);
}
