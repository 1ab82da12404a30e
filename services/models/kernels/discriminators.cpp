// AudioCraft's discriminators over windows of audio: what services/models/discriminators_native.py calls.
//
// An image is planes of [row][column][channel], a plane for each group of the layer that reads it, with that layer's
// padding around it. So what a kernel's row covers is contiguous, and an output is a product of a few such stretches.
// Layers with few outputs fill a vector with several columns: their stretch is longer, with zeros in the weights.
//
// Each output is one sum in one fixed order, and a thread takes a sub-discriminator through a whole window: the bits of
// a window depend neither on the windows beside it nor on the threads.

#include <algorithm>
#include <omp.h>
#include <vector>

#include "vectors.h"

#ifdef __AVX512F__
constexpr int ROWS = 12, PANELS = 2;
#else
constexpr int ROWS = 6, PANELS = 1;
#endif
constexpr int64_t BLOCK = 8 * ROWS;  // sums whose inputs stay in the cache while the panels of weights pass

struct Layer {
  // [group][panel][kernel row][length][16]; of the last layer [kernel row][length], and sums run along it.
  const float* weights;
  const float* bias;           // [group][panel][16]
  int64_t groups, inputs, outputs;  // channels of one group
  int64_t taps, dilation, row_stride;  // rows of the kernel, how far apart, and how far one sum is from the next
  int64_t kernel, stride;              // columns of the kernel, and of a step
  int64_t padding_rows, padding_columns;
  int64_t packed, panels, length;  // columns in one vector; vectors for the outputs; floats of a stretch
};

enum Front { PERIOD, WAVE, SPECTRUM };

struct Sub {
  int64_t front, parameter;  // the period; the samples mirrored at each end; the length of the transform
  int64_t hop;               // SPECTRUM
  const Layer* layers;
  int64_t layer_count;
  double slope;
};

struct Image {
  float* data;
  int64_t rows, columns, channels, planes, padding_rows, padding_columns, pitch, plane;

  float* at(int64_t p, int64_t row, int64_t column) const {
    return data + p * plane + (row + padding_rows) * pitch + (column + padding_columns) * channels;
  }
};

struct Rooms {
  std::vector<float> both[2];
  std::vector<float> logits;
  std::vector<int64_t> lanes;
};
static thread_local Rooms rooms;

// The image that a layer reads, in one of the two rooms; everything around it is zero.
static Image open_image(const Layer& reader, int64_t rows, int64_t columns, int room) {
  Image image{nullptr, rows, columns, reader.inputs, reader.groups, reader.padding_rows, reader.padding_columns, 0, 0};
  image.pitch = (columns + 2 * image.padding_columns) * image.channels;
  // A last vector of several columns, or of a stretch that is no multiple of 16, reads past the end.
  const int64_t slack = reader.length + LANES, body = (rows + 2 * image.padding_rows) * image.pitch;
  image.plane = body + slack;
  std::vector<float>& memory = rooms.both[room];
  if ((int64_t)memory.size() < image.plane * image.planes) memory.resize(image.plane * image.planes);
  image.data = memory.data();
  const int64_t side = image.padding_columns * image.channels, band = image.padding_rows * image.pitch;
  for (int64_t p = 0; p < image.planes; p++) {
    float* plane = image.data + p * image.plane;
    std::fill_n(plane, band, 0.0f);
    std::fill_n(plane + body - band, band + slack, 0.0f);
    for (int64_t row = 0; side && row < rows; row++) {
      float* line = plane + band + row * image.pitch;
      std::fill_n(line, side, 0.0f);
      std::fill_n(line + image.pitch - side, side, 0.0f);
    }
  }
  return image;
}

template <int C>
static inline void sum_up(const Layer& l, int64_t group, int64_t panel, int64_t tap_step, const float* const* x,
                          floats (&sums)[ROWS][C]) {
  const int64_t size = l.taps * l.length * LANES, first = group * l.panels + panel;
  const float* weights = l.weights + first * size;
#pragma GCC unroll 2
  for (int c = 0; c < C; c++) {
    const floats bias = load<floats>(l.bias + (first + c) * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) sums[r][c] = bias;
  }
  for (int64_t tap = 0; tap < l.taps; tap++)
    for (int64_t k = tap * tap_step, end = k + l.length; k < end; k++, weights += LANES) {
      floats w[C];
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) w[c] = load<floats>(weights + c * size);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; r++) {
        const floats value = splat(x[r][k]);
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) sums[r][c] += w[c] * value;
      }
    }
}

// Sixteen lanes to where they belong; `run` of them are neighbours there too.
static inline void scatter(float* to, const int64_t* offsets, int64_t run, floats v) {
  if (run == LANES) {
    store(to + offsets[0], v);
    return;
  }
  float lanes[LANES];
  store(lanes, v);
  if (run == 4)
    for (int i = 0; i < LANES; i += 4) std::memcpy(to + offsets[i], lanes + i, 4 * sizeof(float));
  else if (run == 8)
    for (int i = 0; i < LANES; i += 8) std::memcpy(to + offsets[i], lanes + i, 8 * sizeof(float));
  else
    for (int i = 0; i < LANES; i++)
      if (offsets[i] >= 0) to[offsets[i]] = lanes[i];
}

// Where each lane of each panel goes in the target, from the place of its first column; -1: nowhere.
static int64_t place_lanes(const Layer& l, const Image& target, std::vector<int64_t>& offsets) {
  offsets.assign(l.groups * l.panels * LANES, -1);
  for (int64_t g = 0; g < l.groups; g++)
    for (int64_t panel = 0; panel < l.panels; panel++)
      for (int64_t lane = 0; lane < LANES; lane++) {
        const int64_t column = l.packed > 1 ? lane / l.outputs : 0;
        const int64_t output = l.packed > 1 ? lane % l.outputs : panel * LANES + lane;
        if (column >= l.packed || output >= l.outputs) continue;
        const int64_t channel = g * l.outputs + output;
        offsets[(g * l.panels + panel) * LANES + lane] =
            channel / target.channels * target.plane + column * target.channels + channel % target.channels;
      }
  for (int64_t run : {16, 8, 4}) {
    bool fits = true;
    for (size_t i = 0; i < offsets.size(); i++)
      fits = fits && offsets[i] >= 0 && (i % run == 0 || offsets[i] == offsets[i - 1] + 1);
    if (fits) return run;
  }
  return 1;
}

struct Step {
  const Layer& layer;
  const Image &source, &target;
  const int64_t* lanes;
  int64_t run, tiles;  // tiles: sums in a row
  float slope;
};

template <int C>
static void convolve_block(const Step& s, int64_t group, int64_t panel, int64_t from, int64_t to) {
  const Layer& l = s.layer;
  const int64_t tap_step = l.dilation * s.source.pitch, row_step = l.row_stride * s.source.pitch;
  const int64_t step = l.packed * l.stride * l.inputs;
  for (int64_t first = from; first < to; first += ROWS) {
    const int64_t here = std::min<int64_t>(ROWS, to - first);
    const float* x[ROWS];
    float* y[ROWS];
    int64_t room[ROWS];  // columns left in the row
    for (int64_t r = 0; r < ROWS; r++) {
      const int64_t index = first + std::min(r, here - 1), row = index / s.tiles, tile = index % s.tiles;
      x[r] = s.source.data + group * s.source.plane + row * row_step + tile * step;
      y[r] = s.target.at(0, row, tile * l.packed);
      room[r] = s.target.columns - tile * l.packed;
    }
    floats sums[ROWS][C];
    sum_up<C>(l, group, panel, tap_step, x, sums);
    for (int64_t r = 0; r < here; r++)
      for (int c = 0; c < C; c++) {
        const floats v = select(sums[r][c] > 0.0f, sums[r][c], sums[r][c] * s.slope);
        const int64_t* offsets = s.lanes + (group * l.panels + panel + c) * LANES;
        if (room[r] >= l.packed) {
          scatter(y[r], offsets, s.run, v);
          continue;
        }
        float lanes[LANES];
        store(lanes, v);
        for (int64_t i = 0; i < room[r] * l.outputs; i++) y[r][offsets[i]] = lanes[i];
      }
  }
}

static void convolve(const Layer& l, const Image& source, const Image& target, double slope) {
  const int64_t run = place_lanes(l, target, rooms.lanes);
  const Step s{l, source, target, rooms.lanes.data(), run, (target.columns + l.packed - 1) / l.packed, (float)slope};
  const int64_t total = target.rows * s.tiles;
  for (int64_t group = 0; group < l.groups; group++)
    for (int64_t from = 0; from < total; from += BLOCK) {
      const int64_t to = std::min(total, from + BLOCK);
      int64_t panel = 0;
      for (; panel + PANELS <= l.panels; panel += PANELS) convolve_block<PANELS>(s, group, panel, from, to);
      for (; panel < l.panels; panel++) convolve_block<1>(s, group, panel, from, to);
    }
}

// The last layer has one output: its sums run along the stretches.
static void finish(const Layer& l, const Image& source, int64_t rows, int64_t columns, double* logit, double* sigmoid) {
  const int64_t count = rows * columns, tap_step = l.dilation * source.pitch;
  std::vector<float>& logits = rooms.logits;
  if ((int64_t)logits.size() < count + LANES) logits.resize(count + LANES);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t column = 0; column < columns; column++) {
      const float* x = source.data + row * l.row_stride * source.pitch + column * l.stride * l.inputs;
      const float* weights = l.weights;
      floats sums = splat(0);
      for (int64_t tap = 0; tap < l.taps; tap++)
        for (int64_t k = 0; k < l.length; k += LANES, weights += LANES)
          sums += load<floats>(x + tap * tap_step + k) * load<floats>(weights);
      logits[row * columns + column] = sum(sums) + l.bias[0];
    }
  double total = 0, share = 0;
  for (int64_t i = 0; i < count; i += LANES) {
    const floats v = load<floats>(logits.data() + i), s = 1.0f / (1.0f + vexp(-v));
    for (int64_t lane = 0; lane < std::min<int64_t>(LANES, count - i); lane++) total += v[lane], share += s[lane];
  }
  *logit = total / count, *sigmoid = share / count;
}

static int64_t mirrored(int64_t index, int64_t length) {
  if (index < 0) return -index;
  return index < length ? index : 2 * (length - 1) - index;
}

static Image enter(const Sub& sub, const float* input, int64_t samples) {
  const Layer& first = sub.layers[0];
  if (sub.front == SPECTRUM) {
    const int64_t frames = (samples - sub.parameter) / sub.hop + 1, bins = sub.parameter / 2 + 1;
    const Image image = open_image(first, frames, bins, 0);
    for (int64_t row = 0; row < frames; row++) std::copy_n(input + row * 2 * bins, 2 * bins, image.at(0, row, 0));
    return image;
  }
  if (sub.front == WAVE) {
    const Image image = open_image(first, 1, samples + 2 * sub.parameter, 0);
    float* line = image.at(0, 0, 0);
    for (int64_t i = 0; i < image.columns; i++) line[i] = input[mirrored(i - sub.parameter, samples)];
    return image;
  }
  const int64_t period = sub.parameter;
  const Image image = open_image(first, period, (samples + period - 1) / period, 0);
  for (int64_t row = 0; row < period; row++) {
    float* line = image.at(0, row, 0);
    for (int64_t i = 0; i < image.columns; i++) line[i] = input[mirrored(i * period + row, samples)];
  }
  return image;
}

static void listen(const Sub& sub, const float* input, int64_t samples, double* logit, double* sigmoid) {
  Image source = enter(sub, input, samples);
  for (int64_t i = 0; i < sub.layer_count; i++) {
    const Layer& l = sub.layers[i];
    const int64_t rows = (source.rows + 2 * l.padding_rows - l.dilation * (l.taps - 1) - 1) / l.row_stride + 1;
    const int64_t columns = (source.columns + 2 * l.padding_columns - l.kernel) / l.stride + 1;
    if (i + 1 == sub.layer_count) {
      finish(l, source, rows, columns, logit, sigmoid);
      return;
    }
    const Image target = open_image(sub.layers[i + 1], rows, columns, (i + 1) % 2);
    convolve(l, source, target, sub.slope);
    source = target;
  }
}

// inputs: [window][sub], the samples or the spectrum that each reads; logits, sigmoids: [window][sub], their means.
extern "C" int64_t discriminators_listen(const Sub* subs, int64_t sub_count, const float* const* inputs,
                                         int64_t windows, int64_t samples, double* logits, double* sigmoids,
                                         int64_t threads) {
  int64_t failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)threads) if (threads > 1) reduction(+ : failed)
  for (int64_t task = 0; task < windows * sub_count; task++) {
    try {
      listen(subs[task % sub_count], inputs[task], samples, logits + task, sigmoids + task);
    } catch (const std::bad_alloc&) {
      failed++;
    }
  }
  return failed;
}
