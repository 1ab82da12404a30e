// One step of a decoder-only transformer for a few rows, each with its own cache: what services/models/native.py calls.
//
// All threads go through the layers together and meet at barriers. What is small (norms, rounding the inputs of a
// product) every thread does for itself: that is cheaper than one more meeting.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <omp.h>
#include <type_traits>

#include "attention.h"

struct Norm {
  const float* weight;
  const float* bias;
  double eps;
};

struct Layer {
  Norm norm1;
  Linear qkv, out;
  Norm norm_cross;
  Linear query, key_value, cross_out;
  Norm norm2;
  Linear up, down;
};

struct Model {
  const Layer* layers;
  int64_t layer_count, dim, heads, hidden;
  int64_t precision, crossed, relu;
  Norm out_norm;  // weight null where there is none
  Linear head;
};

struct Source {
  Cache cache;
  int64_t length;
  double weight;
};

// Positions of one row that come in together, in order.
struct Run {
  Cache cache;
  const Source* sources;
  int64_t source_count;
  int64_t position;  // of the first
  int64_t count;
};

struct Scratch {
  Inputs inputs;
  float* normed;
  float* scores;
};

static int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static char* take(char*& from, int64_t bytes) {
  char* start = from;
  from += padded(bytes);
  return start;
}

// Hands out the memory of one thread; without any, says how much it takes.
static Scratch scratch(const Model& model, int64_t rows, int64_t longest, char* memory, int64_t* bytes = nullptr) {
  const int64_t widest = std::max(model.hidden, model.dim), tiled = (rows + TILE - 1) / TILE * TILE;
  char* rest = memory;
  Scratch made;
  made.inputs.units = (uint32_t*)take(rest, tiled * widest * 4);
  made.inputs.scales = (float*)take(rest, rows * (widest / GROUP) * 4);
  made.inputs.corrections = (int32_t*)take(rest, rows * (widest / GROUP) * 4);
  made.inputs.sums = (float*)take(rest, rows * 4 * LANES * 4);
  made.normed = (float*)take(rest, rows * model.dim * 4);
  made.scores = (float*)take(rest, (longest + LANES) * 4);
  if (bytes) *bytes = rest - memory;
  return made;
}

static void normalise(const Norm& norm, const float* x, int64_t rows, int64_t dim, float* y) {
  for (int64_t row = 0; row < rows; row++, x += dim, y += dim) {
    floats total = splat(0), squares = splat(0);
    for (int64_t i = 0; i < dim; i += LANES) total += load<floats>(x + i);
    const float mean = sum(total) / dim;
    for (int64_t i = 0; i < dim; i += LANES) {
      const floats off = load<floats>(x + i) - mean;
      squares += off * off;
    }
    const float inverse = 1.0f / std::sqrt(sum(squares) / dim + (float)norm.eps);
    for (int64_t i = 0; i < dim; i += LANES)
      store(y + i, (load<floats>(x + i) - mean) * inverse * load<floats>(norm.weight + i) + load<floats>(norm.bias + i));
  }
}

// Calls `work` with a pointer of the type of the cache.
template <class Work>
static void typed(int64_t precision, Work work) {
  if (precision == FP32) work((float*)nullptr);
  if (precision == BF16) work((uint16_t*)nullptr);
  if (precision == INT8) work((int8_t*)nullptr);
}

static void self_attention(const Model& model, int64_t layer, const Run* runs, int64_t run_count, const float* qkv,
                           float* attended, float* scores, int thread, int threads) {
  const int64_t heads = model.heads, dim = model.dim, size = dim / heads, items = run_count * heads;
  int64_t item = 0, first = 0;
  for (int64_t r = 0; r < run_count; first += runs[r++].count)
    for (int64_t head = 0; head < heads; head++, item++) {
      // One thread has all positions of a row and head, for each reads what those before it left.
      if (item < items * thread / threads || item >= items * (thread + 1) / threads) continue;
      const Run& run = runs[r];
      for (int64_t i = 0; i < run.count; i++) {
        const float* row = qkv + (first + i) * 3 * dim + head * size;
        float* out = attended + (first + i) * dim + head * size;
        std::memset(out, 0, sizeof(float) * size);
        typed(model.precision, [&](auto* type) {
          using T = std::remove_pointer_t<decltype(type)>;
          const int64_t place = layer * heads + head, position = run.position + i;
          keep<T>(run.cache, place, position, row + dim, row + 2 * dim, size);
          attend<T>(run.cache, place, position + 1, row, size, 1.0f, scores, out);
        });
      }
    }
}

static void cross_attention(const Model& model, int64_t layer, const Run* runs, int64_t run_count, const float* queries,
                            float* attended, float* scores, int thread, int threads) {
  const int64_t heads = model.heads, dim = model.dim, size = dim / heads;
  int64_t item = 0, first = 0;
  for (int64_t r = 0; r < run_count; first += runs[r++].count)
    for (int64_t i = 0; i < runs[r].count; i++)
      for (int64_t head = 0; head < heads; head++, item++) {
        if (item % threads != thread) continue;
        const int64_t at = (first + i) * dim + head * size;
        std::memset(attended + at, 0, sizeof(float) * size);
        for (int64_t s = 0; s < runs[r].source_count; s++) {
          const Source& source = runs[r].sources[s];
          typed(model.precision, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            attend<T>(source.cache, layer * heads + head, source.length, queries + at, size, (float)source.weight, scores,
                      attended + at);
          });
        }
      }
}

extern "C" {

// Takes the embeddings `x` [rows][dim] of all runs, one after the other, through the model, in place. `picked` names
// the rows whose `logits` [picked_count][heads.outputs] are wanted. Returns 0, or 1 where memory is short.
int antiphon_step(const Model* model, const Run* runs, int64_t run_count, float* x, int64_t rows, const int64_t* picked,
                  int64_t picked_count, float* logits, int64_t thread_count) {
  const Precision precision = (Precision)model->precision;
  const int64_t dim = model->dim, hidden = model->hidden;
  int64_t longest = 0;
  for (int64_t r = 0; r < run_count; r++) {
    longest = std::max(longest, runs[r].position + runs[r].count);
    for (int64_t s = 0; s < runs[r].source_count; s++) longest = std::max(longest, runs[r].sources[s].length);
  }
  int64_t own;
  scratch(*model, rows, longest, nullptr, &own);
  const int64_t shared = padded(rows * 3 * dim * 4) + padded(rows * dim * 4) + padded(rows * hidden * 4);
  char* memory = (char*)std::aligned_alloc(64, own * thread_count + shared);
  if (!memory) return 1;
  char* rest = memory + own * thread_count;
  float* wide = (float*)take(rest, rows * 3 * dim * 4);
  float* attended = (float*)take(rest, rows * dim * 4);
  float* middle = (float*)take(rest, rows * hidden * 4);
#pragma omp parallel num_threads((int)thread_count)
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const Scratch mine = scratch(*model, rows, longest, memory + own * thread);
    auto product = [&](const Linear& linear, const float* from, float* to, Finish finish) {
      prepare(precision, mine.inputs, from, rows, linear.inputs);
      multiply(precision, linear, mine.inputs, rows, to, finish, thread, threads);
#pragma omp barrier
    };
    for (int64_t index = 0; index < model->layer_count; index++) {
      const Layer& layer = model->layers[index];
      normalise(layer.norm1, x, rows, dim, mine.normed);
      product(layer.qkv, mine.normed, wide, PLAIN);
      self_attention(*model, index, runs, run_count, wide, attended, mine.scores, thread, threads);
#pragma omp barrier
      product(layer.out, attended, x, ADD);
      if (model->crossed) {
        normalise(layer.norm_cross, x, rows, dim, mine.normed);
        product(layer.query, mine.normed, wide, PLAIN);
        cross_attention(*model, index, runs, run_count, wide, attended, mine.scores, thread, threads);
#pragma omp barrier
        product(layer.cross_out, attended, x, ADD);
      }
      normalise(layer.norm2, x, rows, dim, mine.normed);
      product(layer.up, mine.normed, middle, model->relu ? RELU : GELU);
      product(layer.down, middle, x, ADD);
    }
#pragma omp single
    for (int64_t i = 0; i < picked_count; i++) {
      const float* from = x + picked[i] * dim;
      float* to = wide + i * dim;
      if (model->out_norm.weight)
        normalise(model->out_norm, from, 1, dim, to);
      else
        std::memcpy(to, from, sizeof(float) * dim);
    }
    prepare(precision, mine.inputs, wide, picked_count, dim);
    multiply(precision, model->head, mine.inputs, picked_count, logits, PLAIN, thread, threads);
  }
  std::free(memory);
  return 0;
}

// Projects a source [length][dim] for the cross-attention of every layer, into `to`.
int antiphon_project(const Model* model, const float* source, int64_t length, const Cache* to, int64_t thread_count) {
  const Precision precision = (Precision)model->precision;
  const int64_t dim = model->dim, heads = model->heads, size = dim / heads;
  int64_t own;
  scratch(*model, length, length, nullptr, &own);
  char* memory = (char*)std::aligned_alloc(64, own * thread_count + padded(length * 2 * dim * 4));
  if (!memory) return 1;
  float* projected = (float*)(memory + own * thread_count);
#pragma omp parallel num_threads((int)thread_count)
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const Scratch mine = scratch(*model, length, length, memory + own * thread);
    prepare(precision, mine.inputs, source, length, dim);
    for (int64_t layer = 0; layer < model->layer_count; layer++) {
      multiply(precision, model->layers[layer].key_value, mine.inputs, length, projected, PLAIN, thread, threads);
#pragma omp barrier
      for (int64_t item = thread; item < length * heads; item += threads) {
        const float* row = projected + item / heads * 2 * dim + item % heads * size;
        typed(precision, [&](auto* type) {
          using T = std::remove_pointer_t<decltype(type)>;
          keep<T>(*to, layer * heads + item % heads, item / heads, row, row + dim, size);
        });
      }
#pragma omp barrier
    }
  }
  std::free(memory);
  return 0;
}
}
