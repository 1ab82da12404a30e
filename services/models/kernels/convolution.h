// Convolutions over time as products of windows: rows of [time][channels] data are contiguous, so a window is a row.
//
// Each output is one sum in one fixed order, whatever rows and columns share the call: a stream's bits depend neither
// on its company nor on how its piece is cut.
#pragma once

#include <algorithm>

#include "vectors.h"

#ifdef __AVX512F__
constexpr int ROWS = 8, SUMS = 16;
#else
constexpr int ROWS = 6, SUMS = 6;
#endif

// weights: [fan_out/16][kernel * fan_in][16], outputs padded by zeros; bias: padded likewise.
// Where fan_out is at most FEW, weights are [fan_out][kernel * fan_in] and sums run along the window.
struct Product {
  const float* weights;
  const float* bias;
  int64_t fan_in, fan_out, kernel, dilation;
};

constexpr int64_t FEW = 4;
#ifndef AHEAD
#define AHEAD 96
#endif

static bool is_narrow(const Product& p) {
  return p.fan_out <= FEW && p.dilation == 1 && p.kernel * p.fan_in % LANES == 0;
}

static int64_t panels(const Product& p) { return is_narrow(p) ? 1 : (p.fan_out + LANES - 1) / LANES; }

static inline floats elu(floats x) { return select(x > 0.0f, x, vexp(x) - 1.0f); }

enum Ending { PLAIN, ELU, ADDED };  // what is done with a sum: stored, stored through ELU, added to what is there

template <int R, int C>
static void tile(const Product& p, const float* const* x, float* const* y, int64_t panel, Ending ending) {
  const int64_t inputs = p.kernel * p.fan_in;
  const bool merged = p.dilation == 1;
  const int64_t taps = merged ? 1 : p.kernel, length = merged ? inputs : p.fan_in, step = p.dilation * p.fan_in;
  const float* weights = p.weights + panel * inputs * LANES;
  floats sums[R][C];
#pragma GCC unroll 8
  for (int c = 0; c < C; c++) {
    const floats bias = ending == ADDED ? splat(0) : load<floats>(p.bias + (panel + c) * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) sums[r][c] = bias;
  }
  // A chunk of few rows waits for its weights: they come from the last cache, and pages end their own prefetch.
  const auto pass = [&](int64_t tap, int64_t from, int64_t to, int64_t ahead) {
    for (int64_t k = from; k < to; k++, weights += LANES) {
      floats w[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) {
        w[c] = load<floats>(weights + c * inputs * LANES);
        __builtin_prefetch(weights + c * inputs * LANES + ahead);
      }
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        const floats value = splat(x[r][tap * step + k]);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) sums[r][c] += w[c] * value;
      }
    }
  };
  for (int64_t tap = 0; tap < taps; tap++) {
    // What follows the end of a panel is the next tile's, C panels on.
    const int64_t inside = std::clamp<int64_t>(inputs - AHEAD - tap * length, 0, length);
    pass(tap, 0, inside, AHEAD * LANES);
    pass(tap, inside, length, (AHEAD + (C - 1) * inputs) * LANES);
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      float* to = y[r] + (panel + c) * LANES;
      const int64_t width = std::min<int64_t>(LANES, p.fan_out - (panel + c) * LANES);
      floats sum = sums[r][c];
      if (ending == ELU) sum = elu(sum);
      if (width == LANES) {
        store(to, ending == ADDED ? sum + load<floats>(to) : sum);
        continue;
      }
      float lanes[LANES];
      store(lanes, sum);
      for (int64_t i = 0; i < width; i++) to[i] = ending == ADDED ? to[i] + lanes[i] : lanes[i];
    }
}

template <int R, int C>
static int64_t tiles(const Product& p, const float* const* x, float* const* y, int64_t from, int64_t to, Ending ending) {
  if constexpr (C > 1 && R * C > SUMS) {
    return tiles<R, C / 2>(p, x, y, from, to, ending);
  } else {
    for (; from + C <= to; from += C) tile<R, C>(p, x, y, from, ending);
    if constexpr (C > 1) return tiles<R, C / 2>(p, x, y, from, to, ending);
    return from;
  }
}

template <int R>
static void rows_of(const Product& p, const float* const* x, float* const* y, int64_t count, int64_t from, int64_t to,
                    Ending ending) {
  if (count == R)
    tiles<R, 8>(p, x, y, from, to, ending);
  else if constexpr (R > 1)
    rows_of<R - 1>(p, x, y, count, from, to, ending);
}

static void narrow(const Product& p, const float* x, float* y, Ending ending) {
  const int64_t inputs = p.kernel * p.fan_in;
  for (int64_t o = 0; o < p.fan_out; o++) {
    floats sums = splat(0);
    for (int64_t k = 0; k < inputs; k += LANES) sums += load<floats>(x + k) * load<floats>(p.weights + o * inputs + k);
    const float total = sum(sums) + (ending == ADDED ? y[o] : p.bias[o]);
    y[o] = ending == ELU && total < 0 ? elu(splat(total))[0] : total;
  }
}

// Panels from..to of at most ROWS rows.
static void multiply(const Product& p, const float* const* x, float* const* y, int64_t count, int64_t from, int64_t to,
                     Ending ending) {
  if (is_narrow(p)) {
    if (from < to)
      for (int64_t r = 0; r < count; r++) narrow(p, x[r], y[r], ending);
  } else {
    rows_of<ROWS>(p, x, y, count, from, to, ending);
  }
}
