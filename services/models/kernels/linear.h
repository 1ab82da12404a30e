// y = x W^T + b for a few rows x, from weights packed in blocks of sixteen outputs.
//
// Each output of each row is summed in one fixed order, whatever the other rows are: so a row's bits do not
// depend on its company. int8: weights have a scale an output, and inputs a scale for each group of 64,
// which bounds what one large input can spoil; the sums of a group are integers, and exact.
#pragma once

#if defined(__AVX512VNNI__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "vectors.h"

enum Precision { FP32 = 0, BF16 = 1, INT8 = 2 };

constexpr int GROUP = 64;
constexpr int TILE = 16;  // rows at once: what the registers hold

// weights: FP32 [N/16][K][16]; BF16 [N/16][K/2][16][2]; INT8 [N/16][K/4][16][4], each plus 128.
struct Linear {
  const void* weights;
  const float* scales;  // [N], INT8
  const float* bias;    // [N] or null
  int64_t outputs, inputs;
};

// Rows in the form that a product takes them in; memory of one thread.
struct Inputs {
  float* values;         // FP32 [rows][K]; BF16: as uint16_t; INT8: as int8_t
  float* scales;         // INT8 [rows][K/64]
  int32_t* corrections;  // INT8 [rows][K/64]: minus 128 times the sum of the group
};

static void prepare(Precision precision, const Inputs& to, const float* x, int64_t rows, int64_t inputs) {
  if (precision == FP32) {
    std::memcpy(to.values, x, sizeof(float) * rows * inputs);
  } else if (precision == BF16) {
    uint16_t* values = (uint16_t*)to.values;
    for (int64_t i = 0; i < rows * inputs; i++) values[i] = to_bfloat16(x[i]);
  } else {
    int8_t* values = (int8_t*)to.values;
    for (int64_t g = 0; g < rows * inputs / GROUP; g++, x += GROUP, values += GROUP) {
      floats top = splat(0);
      for (int i = 0; i < GROUP; i += LANES) top = vmax(top, vabs(load<floats>(x + i)));
      float most = 1e-12f;
      for (int i = 0; i < LANES; i++) most = top[i] > most ? top[i] : most;
      const float inverse = 127.0f / most;
      int32_t total = 0;
      for (int i = 0; i < GROUP; i += LANES) {
        const ints rounded = __builtin_convertvector((load<floats>(x + i) * inverse + 12582912.0f) - 12582912.0f, ints);
        const bytes small = __builtin_convertvector(rounded, bytes);
        std::memcpy(values + i, &small, sizeof small);
        for (int j = 0; j < LANES; j++) total += rounded[j];
      }
      to.scales[g] = most / 127.0f;
      to.corrections[g] = -128 * total;
    }
  }
}

static inline floats dot(floats sums, const uint16_t* weights, const uint16_t* x) {
#ifdef __AVX512BF16__
  int32_t pair;
  std::memcpy(&pair, x, 4);
  return (floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_loadu_si512(weights), (__m512bh)_mm512_set1_epi32(pair));
#else
  for (int t = 0; t < 2; t++) {
    floats w;
    for (int i = 0; i < LANES; i++) {
      const uint32_t bits = (uint32_t)weights[2 * i + t] << 16;
      std::memcpy((float*)&w + i, &bits, 4);
    }
    const uint32_t bits = (uint32_t)x[t] << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    sums += w * value;
  }
  return sums;
#endif
}

static inline ints dot(ints sums, const uint8_t* weights, const int8_t* x) {
#ifdef __AVX512VNNI__
  int32_t four;
  std::memcpy(&four, x, 4);
  return (ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_loadu_si512(weights), _mm512_set1_epi32(four));
#else
  for (int i = 0; i < LANES; i++)
    for (int t = 0; t < 4; t++) sums[i] += (int32_t)weights[4 * i + t] * x[t];
  return sums;
#endif
}

// ROWS rows by BLOCKS blocks of sixteen outputs; the sums stay in registers.
template <Precision precision, int ROWS, int BLOCKS>
static inline void multiply(const Linear& layer, const Inputs& in, int64_t row, int64_t block, floats (&sums)[ROWS][BLOCKS]) {
  const int64_t inputs = layer.inputs;
  for (auto& line : sums)
    for (auto& value : line) value = splat(0);
  if constexpr (precision == FP32) {
    const float* weights = (const float*)layer.weights + block * inputs * LANES;
    const float* x = in.values + row * inputs;
    for (int64_t k = 0; k < inputs; k++)
      for (int b = 0; b < BLOCKS; b++) {
        const floats w = load<floats>(weights + (b * inputs + k) * LANES);
        for (int r = 0; r < ROWS; r++) sums[r][b] += w * x[r * inputs + k];
      }
  } else if constexpr (precision == BF16) {
    const uint16_t* weights = (const uint16_t*)layer.weights + block * inputs * LANES;
    const uint16_t* x = (const uint16_t*)in.values + row * inputs;
    for (int64_t k = 0; k < inputs; k += 2)
      for (int b = 0; b < BLOCKS; b++)
        for (int r = 0; r < ROWS; r++)
          sums[r][b] = dot(sums[r][b], weights + (b * inputs + k) * LANES, x + r * inputs + k);
  } else {
    const uint8_t* weights = (const uint8_t*)layer.weights + block * inputs * LANES;
    const int8_t* x = (const int8_t*)in.values + row * inputs;
    const int64_t groups = inputs / GROUP;
    for (int64_t g = 0; g < groups; g++) {
      ints whole[ROWS][BLOCKS];
      for (int r = 0; r < ROWS; r++)
        for (int b = 0; b < BLOCKS; b++) whole[r][b] = ints{} + in.corrections[(row + r) * groups + g];
      for (int64_t k = g * GROUP; k < (g + 1) * GROUP; k += 4)
        for (int b = 0; b < BLOCKS; b++)
          for (int r = 0; r < ROWS; r++)
            whole[r][b] = dot(whole[r][b], weights + (b * inputs + k) * LANES, x + r * inputs + k);
      for (int r = 0; r < ROWS; r++)
        for (int b = 0; b < BLOCKS; b++)
          sums[r][b] += __builtin_convertvector(whole[r][b], floats) * in.scales[(row + r) * groups + g];
    }
  }
}

enum Finish { PLAIN, ADD, GELU, RELU };

template <Precision precision, int ROWS, int BLOCKS>
static void tile(const Linear& layer, const Inputs& in, int64_t row, int64_t block, float* y, Finish finish) {
  floats sums[ROWS][BLOCKS];
  multiply<precision, ROWS, BLOCKS>(layer, in, row, block, sums);
  for (int b = 0; b < BLOCKS; b++) {
    const int64_t first = (block + b) * LANES;
    for (int r = 0; r < ROWS; r++) {
      floats result = sums[r][b];
      if constexpr (precision == INT8) result *= load<floats>(layer.scales + first);
      if (layer.bias) result += load<floats>(layer.bias + first);
      float* to = y + (row + r) * layer.outputs + first;
      if (finish == ADD) result += load<floats>(to);
      if (finish == GELU) result = gelu(result);
      if (finish == RELU) result = vmax(result, splat(0));
      store(to, result);
    }
  }
}

template <Precision precision, int ROWS>
static void tiles(const Linear& layer, const Inputs& in, int64_t row, int64_t block, int64_t end, float* y, Finish finish) {
  // With few rows several blocks at once keep the multipliers busy.
  constexpr int BLOCKS = ROWS <= 4 ? 4 : ROWS <= 8 ? 2 : 1;
  for (; block + BLOCKS <= end; block += BLOCKS) tile<precision, ROWS, BLOCKS>(layer, in, row, block, y, finish);
  for (; block < end; block++) tile<precision, ROWS, 1>(layer, in, row, block, y, finish);
}

template <Precision precision, int ROWS = TILE>
static void rest(const Linear& layer, const Inputs& in, int64_t row, int64_t rows, int64_t block, int64_t end, float* y,
                 Finish finish) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return tiles<precision, ROWS>(layer, in, row, block, end, y, finish);
    rest<precision, ROWS - 1>(layer, in, row, rows, block, end, y, finish);
  }
}

// The share of one thread: some of the outputs of all rows. `y` is [rows][N].
static void multiply(Precision precision, const Linear& layer, const Inputs& in, int64_t rows, float* y, Finish finish,
                     int thread, int threads) {
  const int64_t blocks = layer.outputs / LANES;
  const int64_t begin = blocks * thread / threads, end = blocks * (thread + 1) / threads;
  // A strip of blocks that stays in the second-level cache is read once for each tile of rows.
  constexpr int64_t STRIP = 8;
  for (int64_t block = begin; block < end; block += rows > TILE ? STRIP : end - begin) {
    const int64_t last = rows > TILE && block + STRIP < end ? block + STRIP : end;
    for (int64_t row = 0; row < rows; row += TILE) {
      const int64_t count = rows - row < TILE ? rows - row : TILE;
      if (precision == FP32) rest<FP32>(layer, in, row, count, block, last, y, finish);
      if (precision == BF16) rest<BF16>(layer, in, row, count, block, last, y, finish);
      if (precision == INT8) rest<INT8>(layer, in, row, count, block, last, y, finish);
    }
  }
}
