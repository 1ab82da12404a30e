// The attention of one new position of one row and head over everything in its cache.
//
// Keys lie in blocks of sixteen positions, [capacity/16][head_dim][16], so that sixteen scores come out of plain
// multiplications; values lie [capacity][head_dim]. int8 caches have a scale a position.
#pragma once

#include <cmath>

#include "linear.h"

// The cache of one row: [layers][heads] of the above, one after the other.
struct Cache {
  void* keys;
  void* values;
  float* key_scales;    // [layers][heads][capacity], INT8
  float* value_scales;  // [layers][heads][capacity], INT8
  int64_t capacity;     // positions, a multiple of 16
};

static inline void put(float* to, float x, float) { *to = x; }
static inline void put(uint16_t* to, float x, float) { *to = to_bfloat16(x); }
static inline void put(int8_t* to, float x, float inverse) { *to = (int8_t)__builtin_rintf(x * inverse); }

template <class T>
static float scale_of(const float* x, int64_t n) {
  if (sizeof(T) > 1) return 1.0f;
  float most = 1e-12f;
  for (int64_t i = 0; i < n; i++) most = __builtin_fabsf(x[i]) > most ? __builtin_fabsf(x[i]) : most;
  return most / 127.0f;
}

// `place`: layer * heads + head.
template <class T>
static void keep(const Cache& cache, int64_t place, int64_t position, const float* key, const float* value, int64_t dim) {
  const float key_scale = scale_of<T>(key, dim), value_scale = scale_of<T>(value, dim);
  T* keys = (T*)cache.keys + (place * cache.capacity + position / LANES * LANES) * dim + position % LANES;
  T* values = (T*)cache.values + (place * cache.capacity + position) * dim;
  for (int64_t d = 0; d < dim; d++) {
    put(keys + d * LANES, key[d], 1.0f / key_scale);
    put(values + d, value[d], 1.0f / value_scale);
  }
  if (sizeof(T) == 1) {
    cache.key_scales[place * cache.capacity + position] = key_scale;
    cache.value_scales[place * cache.capacity + position] = value_scale;
  }
}

// Adds weight * softmax(query keys) values to `out`; `scores` holds `capacity` floats.
template <class T, int VECTORS>
static void attend(const Cache& cache, int64_t place, int64_t length, const float* query, float weight, float* scores,
                   float* out) {
  constexpr int64_t dim = VECTORS * LANES;
  const T* keys = (const T*)cache.keys + place * cache.capacity * dim;
  const T* values = (const T*)cache.values + place * cache.capacity * dim;
  const float* key_scales = cache.key_scales + place * cache.capacity;
  const float* value_scales = cache.value_scales + place * cache.capacity;
  const float scale = 1.0f / __builtin_sqrtf((float)dim);
  floats tops = splat(-INFINITY);
  for (int64_t first = 0; first < length; first += LANES) {
    floats parts[4] = {splat(0), splat(0), splat(0), splat(0)};
    const T* block = keys + first * dim;
    for (int64_t d = 0; d < dim; d += 4)
      for (int64_t j = 0; j < 4; j++) parts[j] += widen(block + (d + j) * LANES) * query[d + j];
    floats result = ((parts[0] + parts[1]) + (parts[2] + parts[3])) * scale;
    if (sizeof(T) == 1) result *= load<floats>(key_scales + first);
    if (length - first < LANES)  // what lies behind the end was never written
      for (int64_t i = length - first; i < LANES; i++) result[i] = -INFINITY;
    tops = vmax(tops, result);
    store(scores + first, result);
  }
  const float most = top(tops);
  floats totals = splat(0);
  for (int64_t first = 0; first < length; first += LANES) {
    const floats result = load<floats>(scores + first);
    floats powers = vexp(result - most);
    powers = select(result > splat(-INFINITY), powers, splat(0));
    totals += powers;
    if (sizeof(T) == 1 && length - first >= LANES) powers *= load<floats>(value_scales + first);
    store(scores + first, powers);
  }
  if (sizeof(T) == 1)
    for (int64_t i = length / LANES * LANES; i < length; i++) scores[i] *= value_scales[i];
  floats sums[2][VECTORS];
  for (auto& line : sums)
    for (auto& value : line) value = splat(0);
  for (int64_t position = 0; position + 1 < length; position += 2)
    for (int64_t i = 0; i < 2; i++)
      for (int v = 0; v < VECTORS; v++)
        sums[i][v] += widen(values + (position + i) * dim + v * LANES) * scores[position + i];
  if (length % 2)
    for (int v = 0; v < VECTORS; v++) sums[0][v] += widen(values + (length - 1) * dim + v * LANES) * scores[length - 1];
  const float share = weight / sum(totals);
  for (int v = 0; v < VECTORS; v++) store(out + v * LANES, load<floats>(out + v * LANES) + (sums[0][v] + sums[1][v]) * share);
}

template <class T>
static void attend(const Cache& cache, int64_t place, int64_t length, const float* query, int64_t dim, float weight,
                   float* scores, float* out) {
  switch (dim / LANES) {
    case 1: return attend<T, 1>(cache, place, length, query, weight, scores, out);
    case 2: return attend<T, 2>(cache, place, length, query, weight, scores, out);
    case 3: return attend<T, 3>(cache, place, length, query, weight, scores, out);
    case 4: return attend<T, 4>(cache, place, length, query, weight, scores, out);
    case 5: return attend<T, 5>(cache, place, length, query, weight, scores, out);
    case 6: return attend<T, 6>(cache, place, length, query, weight, scores, out);
    case 8: return attend<T, 8>(cache, place, length, query, weight, scores, out);
  }
}
