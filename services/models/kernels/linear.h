// y = x W^T + b for a few rows x, from weights packed in blocks of sixteen outputs.
//
// Each output of each row is summed in one fixed order, whatever the other rows are: so a row's bits do not
// depend on its company. int8: weights have a scale an output, and inputs a scale for each group of 64,
// which bounds what one large input can spoil; the sums of a group are integers, and exact.
#pragma once

#include "vectors.h"

enum Precision { FP32 = 0, BF16 = 1, INT8 = 2 };

constexpr int GROUP = 64;  // inputs that are summed up at a time
constexpr int TILE = 8;    // rows at once

// weights: [N/16][K/n][16][n], where n values fill four bytes: 1 float, 2 bfloat16, or 4 int8 (each plus 128).
struct Linear {
  const void* weights;
  const float* scales;  // [N], INT8
  const float* bias;    // [N] or null
  int64_t outputs, inputs;
};

// Rows in the form that a product takes them in; memory of one thread.
struct Inputs {
  uint32_t* units;       // [rows/8][K/n][8]: n values of eight rows side by side
  float* scales;         // INT8 [K/64][rows]
  int32_t* corrections;  // INT8 [K/64][rows]: minus 128 times the sum of the group
  float* sums;           // [rows][4][16]
};

constexpr int64_t per_unit(Precision precision) { return precision == FP32 ? 1 : precision == BF16 ? 2 : 4; }

static void quantise(const Inputs& to, const float* x, int64_t row, int64_t rows, int64_t inputs, uint32_t* units) {
  for (int64_t g = 0; g < inputs / GROUP; g++) {
    floats tops = splat(0);
    for (int i = 0; i < GROUP; i += LANES) tops = vmax(tops, vabs(load<floats>(x + g * GROUP + i)));
    const float most = top(tops) + 1e-12f;
    ints totals = {};
    for (int i = 0; i < GROUP; i += LANES) {
      const ints rounded = to_ints(load<floats>(x + g * GROUP + i) * (127.0f / most));
      totals += rounded;
      const bytes small = narrow(rounded);
      for (int j = 0; j < LANES; j += 4) std::memcpy(units + (g * GROUP + i + j) / 4 * TILE, (const char*)&small + j, 4);
    }
    to.scales[g * rows + row] = most / 127.0f;
    to.corrections[g * rows + row] = -128 * sum(totals);
  }
}

static void prepare(Precision precision, const Inputs& to, const float* x, int64_t rows, int64_t inputs) {
  for (int64_t row = 0; row < rows; row++, x += inputs) {
    uint32_t* units = to.units + row / TILE * TILE * (inputs / per_unit(precision)) + row % TILE;
    if (precision == FP32)
      for (int64_t k = 0; k < inputs; k++) std::memcpy(units + k * TILE, x + k, 4);
    else if (precision == BF16)
      for (int64_t k = 0; k < inputs; k += 2)
        units[k / 2 * TILE] = to_bfloat16(x[k]) | (uint32_t)to_bfloat16(x[k + 1]) << 16;
    else
      quantise(to, x, row, rows, inputs, units);
  }
}

static inline floats dot(floats sums, const float* weights, uint32_t unit) {
  float x;
  std::memcpy(&x, &unit, 4);
  return sums + load<floats>(weights) * x;
}

static inline floats dot(floats sums, const uint16_t* weights, uint32_t unit) {
#ifdef __AVX512BF16__
  return (floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_loadu_si512(weights), (__m512bh)_mm512_set1_epi32(unit));
#else
  const ints pairs = load<ints>(weights);
  const uint32_t low = unit << 16, high = unit & 0xffff0000;
  float first, second;
  std::memcpy(&first, &low, 4);
  std::memcpy(&second, &high, 4);
  return sums + (floats)(pairs << 16) * first + (floats)(pairs & (int32_t)0xffff0000) * second;
#endif
}

static inline ints dot(ints sums, const uint8_t* weights, uint32_t unit) {
#ifdef __AVX512VNNI__
  return (ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_loadu_si512(weights), _mm512_set1_epi32(unit));
#else
  const ints quads = load<ints>(weights);
  for (int t = 0; t < 4; t++) sums += (quads >> (8 * t) & 255) * (int32_t)(int8_t)(unit >> (8 * t));
  return sums;
#endif
}

template <Precision precision>
struct Types;
template <>
struct Types<FP32> {
  using Weight = float;
  using Sum = floats;
};
template <>
struct Types<BF16> {
  using Weight = uint16_t;
  using Sum = floats;
};
template <>
struct Types<INT8> {
  using Weight = uint8_t;
  using Sum = ints;
};

// One group of inputs, ROWS rows from `row` on, BLOCKS blocks of sixteen outputs: adds to in.sums.
template <Precision precision, int ROWS, int BLOCKS>
static inline void add_group(const Linear& layer, const Inputs& in, int64_t row, int64_t rows, int64_t block, int64_t group) {
  using Weight = typename Types<precision>::Weight;
  using Sum = typename Types<precision>::Sum;
  constexpr int64_t n = per_unit(precision), steps = GROUP / n;
  const int64_t stride = layer.inputs * LANES;
  const Weight* weights = (const Weight*)layer.weights + block * stride + group * GROUP * LANES;
  const uint32_t* units = in.units + row * (layer.inputs / n) + group * steps * TILE;
  float* to = in.sums + row * 4 * LANES;
  Sum sums[ROWS][BLOCKS];
  for (int r = 0; r < ROWS; r++)
    for (int b = 0; b < BLOCKS; b++) {
      if constexpr (precision == INT8)
        sums[r][b] = ints{} + in.corrections[group * rows + row + r];
      else
        sums[r][b] = load<floats>(to + (r * 4 + b) * LANES);
    }
  for (int64_t step = 0; step < steps; step++, weights += n * LANES, units += TILE)
    for (int r = 0; r < ROWS; r++)
      for (int b = 0; b < BLOCKS; b++) sums[r][b] = dot(sums[r][b], weights + b * stride, units[r]);
  for (int r = 0; r < ROWS; r++)
    for (int b = 0; b < BLOCKS; b++) {
      floats result;
      float* at = to + (r * 4 + b) * LANES;
      if constexpr (precision == INT8)
        result = load<floats>(at) + __builtin_convertvector(sums[r][b], floats) * in.scales[group * rows + row + r];
      else
        result = sums[r][b];
      store(at, result);
    }
}

template <Precision precision, int BLOCKS, int ROWS = TILE>
static inline void add_rest(const Linear& layer, const Inputs& in, int64_t row, int64_t rows, int64_t block, int64_t group) {
  if constexpr (ROWS > 0) {
    if (rows - row == ROWS) return add_group<precision, ROWS, BLOCKS>(layer, in, row, rows, block, group);
    add_rest<precision, BLOCKS, ROWS - 1>(layer, in, row, rows, block, group);
  }
}

enum Finish { PLAIN, ADD, GELU, RELU };

// All rows, BLOCKS blocks. A group of weights is read from memory once, and from the first cache for further tiles.
template <Precision precision, int BLOCKS>
static void columns(const Linear& layer, const Inputs& in, int64_t rows, int64_t block, float* y, Finish finish) {
  std::memset(in.sums, 0, sizeof(float) * rows * 4 * LANES);
  for (int64_t group = 0; group < layer.inputs / GROUP; group++) {
    int64_t row = 0;
    for (; row + TILE <= rows; row += TILE) add_group<precision, TILE, BLOCKS>(layer, in, row, rows, block, group);
    add_rest<precision, BLOCKS, TILE - 1>(layer, in, row, rows, block, group);
  }
  for (int b = 0; b < BLOCKS; b++) {
    const int64_t first = (block + b) * LANES;
    for (int64_t row = 0; row < rows; row++) {
      floats result = load<floats>(in.sums + (row * 4 + b) * LANES);
      if constexpr (precision == INT8) result *= load<floats>(layer.scales + first);
      if (layer.bias) result += load<floats>(layer.bias + first);
      float* to = y + row * layer.outputs + first;
      if (finish == ADD) result += load<floats>(to);
      if (finish == GELU) result = gelu(result);
      if (finish == RELU) result = vmax(result, splat(0));
      store(to, result);
    }
  }
}

template <Precision precision>
static void share(const Linear& layer, const Inputs& in, int64_t rows, float* y, Finish finish, int64_t block, int64_t end) {
  // With few rows, more blocks at once keep the multipliers busy.
  if (rows <= TILE / 2)
    for (; block + 4 <= end; block += 4) columns<precision, 4>(layer, in, rows, block, y, finish);
  for (; block + 2 <= end; block += 2) columns<precision, 2>(layer, in, rows, block, y, finish);
  for (; block < end; block++) columns<precision, 1>(layer, in, rows, block, y, finish);
}

// The share of one thread: some of the outputs of all rows. `y` is [rows][N].
static void multiply(Precision precision, const Linear& layer, const Inputs& in, int64_t rows, float* y, Finish finish,
                     int thread, int threads) {
  const int64_t blocks = layer.outputs / LANES;
  const int64_t begin = blocks * thread / threads, end = blocks * (thread + 1) / threads;
  if (precision == FP32) share<FP32>(layer, in, rows, y, finish, begin, end);
  if (precision == BF16) share<BF16>(layer, in, rows, y, finish, begin, end);
  if (precision == INT8) share<INT8>(layer, in, rows, y, finish, begin, end);
}
