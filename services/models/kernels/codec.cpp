// A convolutional codec in the middle of a stream: what services/models/native_codec.py calls.
//
// Data is [time][channels]. A layer reads a buffer: what it kept of the inputs before, then the new ones. Its slot in
// the stream's memory holds what it kept. Several streams that are equally far go through together.

#include <cstdlib>
#include <omp.h>
#include <vector>

#include "convolution.h"

enum Kind { CONVOLVE, ACTIVATE, ADD, RECUR };

struct Op {
  int64_t kind, source, target;
  int64_t slot;     // of what is kept of the source; -1: nothing
  int64_t stride;   // CONVOLVE
  int64_t upsample; // CONVOLVE: rows of the target for each sum
  int64_t history;  // CONVOLVE: inputs that the end of a piece will want
  int64_t elu;      // CONVOLVE: the outputs go through ELU
  Product product;  // CONVOLVE; RECUR: of the inputs
  Product state;    // RECUR: of its own outputs
};

struct Buffer {
  int64_t channels;
  int64_t slot;  // of what stands before the new rows; -1: nothing
  int64_t room;  // memory that buffers share which are never in use together
};

struct Counts {
  int64_t kept, used, received;
};

struct Network {
  const Op* ops;
  int64_t op_count;
  const Buffer* buffers;
  int64_t buffer_count;
  const int64_t* slots;  // where each begins in a stream's memory
  int64_t slot_count, room_count;
};

struct Plan {
  std::vector<int64_t> kept, fresh, sums;  // rows before the new ones, new rows; of each op, windows
};

static void run_plan(const Network& n, const Counts* before, Counts* after, int64_t rows, Plan& plan) {
  plan.kept.assign(n.buffer_count, 0);
  plan.fresh.assign(n.buffer_count, 0);
  plan.sums.assign(n.op_count, 0);
  for (int64_t b = 0; b < n.buffer_count; b++)
    if (n.buffers[b].slot >= 0) plan.kept[b] = before[n.buffers[b].slot].kept;
  for (int64_t s = 0; s < n.slot_count; s++) after[s] = before[s];
  plan.fresh[0] = rows;
  for (int64_t i = 0; i < n.op_count; i++) {
    const Op& op = n.ops[i];
    const int64_t fresh = plan.fresh[op.source];
    if (op.kind == CONVOLVE) {
      Counts& c = after[op.slot];
      const int64_t total = c.kept + fresh, span = (op.product.kernel - 1) * op.product.dilation + 1;
      const int64_t count = total - c.used < span ? 0 : (total - c.used - span) / op.stride + 1;
      const int64_t end = c.used + count * op.stride;
      const int64_t begin = std::max<int64_t>(0, std::min(end, total - op.history));
      c = {total - begin, end - begin, c.received + fresh};
      plan.sums[i] = count;
      plan.fresh[op.target] = count * op.upsample;
    } else if (op.kind == ADD) {
      if (op.slot >= 0) after[op.slot].kept += fresh - plan.fresh[op.target];
    } else {
      plan.fresh[op.target] = fresh;
    }
  }
}

// The rooms of one thread's calls; they grow to what the longest call needed.
struct Rooms {
  std::vector<std::vector<float>> all;
  std::vector<float> gates;
};

static thread_local Rooms rooms;

struct Call {
  const Network& network;
  const Plan& plan;
  int64_t streams;
  float* const* memories;
  const Counts* before;
  const Counts* after;
  std::vector<float*> bases;  // [buffer][stream]
  float* gates;

  float* base(int64_t buffer, int64_t stream) const { return bases[buffer * streams + stream]; }
  float* fresh(int64_t buffer, int64_t stream) const {
    return base(buffer, stream) + plan.kept[buffer] * network.buffers[buffer].channels;
  }
  float* slot(int64_t index, int64_t stream) const { return memories[stream] + network.slots[index]; }
};

static void convolve(const Call& call, int64_t index, int thread, int threads) {
  const Op& op = call.network.ops[index];
  const int64_t count = call.plan.sums[index], total = count * call.streams, wide = panels(op.product);
  const int64_t used = call.before[op.slot].used, step = op.stride * op.product.fan_in;
  int64_t first = 0, last = total, from = 0, to = wide;
  if (total >= 4 * ROWS * threads || wide < threads) {
    const int64_t share = (total + threads - 1) / threads;
    first = std::min(total, thread * share), last = std::min(total, first + share);
  } else {
    from = wide * thread / threads, to = wide * (thread + 1) / threads;
  }
  // So many rows at once that their windows stay in the cache while the weights pass.
  const int64_t block = std::max<int64_t>(4, 32768 / std::max<int64_t>(1, step) / ROWS) * ROWS;
  const Ending ending = op.elu ? ELU : PLAIN;
  for (; first < last; first += block)
    // So few panels at once that their weights stay in the cache while the rows pass.
    for (int64_t panel = from; panel < to; panel += 2) {
      const int64_t until = std::min(last, first + block);
      int64_t end = std::min(to, panel + 2);
      if (until - first <= ROWS) panel = from, end = to;
      for (int64_t row = first; row < until; row += ROWS) {
        const float* x[ROWS];
        float* y[ROWS];
        const int64_t here = std::min<int64_t>(ROWS, until - row);
        for (int64_t r = 0; r < here; r++) {
          const int64_t stream = (row + r) / count, window = (row + r) % count;
          x[r] = call.base(op.source, stream) + used * op.product.fan_in + window * step;
          y[r] = call.fresh(op.target, stream) + window * op.product.fan_out;
        }
        multiply(op.product, x, y, here, panel, end, ending);
      }
      if (end == to) break;
    }
}

static void share_of(int64_t total, int thread, int threads, int64_t& from, int64_t& to) {
  from = total * thread / threads, to = total * (thread + 1) / threads;
}

static void activate(const Call& call, const Op& op, int thread, int threads) {
  int64_t from, to;
  share_of(call.plan.fresh[op.source] * call.network.buffers[op.source].channels, thread, threads, from, to);
  for (int64_t s = 0; s < call.streams; s++) {
    const float* x = call.fresh(op.source, s);
    float* y = call.fresh(op.target, s);
    int64_t i = from;
    for (; i + LANES <= to; i += LANES) store(y + i, elu(load<floats>(x + i)));
    for (; i < to; i++) y[i] = elu(splat(x[i]))[0];
  }
}

static void add(const Call& call, const Op& op, int thread, int threads) {
  int64_t from, to;
  share_of(call.plan.fresh[op.target] * call.network.buffers[op.target].channels, thread, threads, from, to);
  for (int64_t s = 0; s < call.streams; s++) {
    const float* x = op.slot >= 0 ? call.base(op.source, s) : call.fresh(op.source, s);
    float* y = call.fresh(op.target, s);
    for (int64_t i = from; i < to; i++) y[i] += x[i];
  }
}

static inline floats sigmoid(floats x) { return 1.0f / (1.0f + vexp(-x)); }
static inline floats hyperbolic(floats x) { return 2.0f / (1.0f + vexp(-2.0f * x)) - 1.0f; }

// The gates are input, forget, output, cell; a slot holds the state, then the cell.
static void recur(const Call& call, const Op& op, int thread, int threads) {
  const int64_t width = op.state.fan_in, steps = call.plan.fresh[op.source], streams = call.streams;
  const int64_t wide = panels(op.product), rows = steps * streams;
  int64_t from, to, left, right;
  share_of(wide, thread, threads, from, to);
  share_of(width / LANES, thread, threads, left, right);
  const float* x[ROWS];
  float* y[ROWS];
  for (int64_t panel = from; panel < to; panel += 2)
    for (int64_t row = 0; row < rows; row += ROWS) {
      const int64_t here = std::min<int64_t>(ROWS, rows - row);
      for (int64_t r = 0; r < here; r++) {
        x[r] = call.fresh(op.source, (row + r) / steps) + (row + r) % steps * width;
        y[r] = call.gates + (row + r) * 4 * width;
      }
      multiply(op.product, x, y, here, panel, std::min(to, panel + 2), PLAIN);
    }
#pragma omp barrier
  for (int64_t step = 0; step < steps; step++) {
    for (int64_t row = 0; row < streams; row += ROWS) {
      const int64_t here = std::min<int64_t>(ROWS, streams - row);
      for (int64_t r = 0; r < here; r++) {
        x[r] = call.slot(op.slot, row + r);
        y[r] = call.gates + ((row + r) * steps + step) * 4 * width;
      }
      multiply(op.state, x, y, here, from, to, ADDED);
    }
#pragma omp barrier
    for (int64_t s = 0; s < streams; s++) {
      const float* gates = call.gates + (s * steps + step) * 4 * width;
      float *state = call.slot(op.slot, s), *cell = state + width, *out = call.fresh(op.target, s) + step * width;
      for (int64_t i = left * LANES; i < right * LANES; i += LANES) {
        const floats entered = sigmoid(load<floats>(gates + i)) * hyperbolic(load<floats>(gates + 3 * width + i));
        const floats held = entered + sigmoid(load<floats>(gates + width + i)) * load<floats>(cell + i);
        const floats made = sigmoid(load<floats>(gates + 2 * width + i)) * hyperbolic(held);
        store(cell + i, held), store(state + i, made), store(out + i, made);
      }
    }
#pragma omp barrier
  }
}

static void run(const Call& call, int thread, int threads) {
  const Network& n = call.network;
  for (int64_t i = 0; i < n.op_count; i++) {
    const Op& op = n.ops[i];
    const int64_t before = n.buffers[op.target].slot;
    if (!thread && before >= 0 && op.kind != ADD)
      for (int64_t s = 0; s < call.streams; s++)
        std::memcpy(call.base(op.target, s), call.slot(before, s),
                    sizeof(float) * call.plan.kept[op.target] * n.buffers[op.target].channels);
    if (op.kind == CONVOLVE)
      convolve(call, i, thread, threads);
    else if (op.kind == ACTIVATE)
      activate(call, op, thread, threads);
    else if (op.kind == ADD)
      add(call, op, thread, threads);
    else
      recur(call, op, thread, threads);
#pragma omp barrier
    // What a source kept; its room is not given to the target of the next op.
    if (!thread && op.slot >= 0 && op.kind != RECUR) {
      const int64_t channels = n.buffers[op.source].channels, kept = call.after[op.slot].kept;
      const int64_t end = call.plan.kept[op.source] + call.plan.fresh[op.source];
      for (int64_t s = 0; s < call.streams; s++)
        std::memcpy(call.slot(op.slot, s), call.base(op.source, s) + (end - kept) * channels,
                    sizeof(float) * kept * channels);
    }
  }
}

extern "C" int64_t codec_rows(const Network* network, const Counts* counts, int64_t rows) {
  Plan plan;
  std::vector<Counts> after(network->slot_count);
  run_plan(*network, counts, after.data(), rows, plan);
  return plan.fresh[network->buffer_count - 1];
}

// Pushes so many rows of each stream; all have the same kept and used. outputs: [stream][codec_rows][channels].
extern "C" void codec_push(const Network* network, int64_t streams, float* const* memories, Counts* const* counts,
                           const float* const* inputs, int64_t rows, float* outputs, int64_t threads) {
  const Network& n = *network;
  Plan plan;
  std::vector<Counts> before(counts[0], counts[0] + n.slot_count), after(n.slot_count);
  run_plan(n, before.data(), after.data(), rows, plan);
  rooms.all.resize(std::max<size_t>(rooms.all.size(), n.room_count));
  Call call{n, plan, streams, memories, before.data(), after.data(), {}, nullptr};
  call.bases.resize(n.buffer_count * streams);
  int64_t gates = 0;
  for (int64_t i = 0; i < n.op_count; i++)
    if (n.ops[i].kind == RECUR)
      gates = std::max(gates, plan.fresh[n.ops[i].source] * streams * n.ops[i].product.fan_out);
  if ((int64_t)rooms.gates.size() < gates) rooms.gates.resize(gates);
  call.gates = rooms.gates.data();
  for (int pass = 0; pass < 2; pass++)  // sizes first: a room that grows moves
    for (int64_t b = 0; b < n.buffer_count; b++) {
      const int64_t size = (plan.kept[b] + plan.fresh[b]) * n.buffers[b].channels;
      std::vector<float>& room = rooms.all[n.buffers[b].room];
      if (!pass && (int64_t)room.size() < size * streams + LANES) room.resize(size * streams + LANES);
      for (int64_t s = 0; pass && s < streams; s++)
        call.bases[b * streams + s] = b + 1 == n.buffer_count ? outputs + s * size : room.data() + s * size;
    }
  for (int64_t s = 0; s < streams; s++) {
    if (n.buffers[0].slot >= 0)
      std::memcpy(call.base(0, s), call.slot(n.buffers[0].slot, s), sizeof(float) * plan.kept[0] * n.buffers[0].channels);
    std::memcpy(call.fresh(0, s), inputs[s], sizeof(float) * rows * n.buffers[0].channels);
  }
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  run(call, omp_get_thread_num(), omp_get_num_threads());
  for (int64_t s = 0; s < streams; s++)
    for (int64_t i = 0; i < n.slot_count; i++)
      counts[s][i] = {after[i].kept, after[i].used, counts[s][i].received + after[i].received - before[i].received};
}

struct Book {
  Product scores;  // 2 x e - e e
  const float* entries;
};

// Codes [book][row] of vectors [row][dimension].
extern "C" void codec_quantise(const Book* books, int64_t book_count, const float* vectors, int64_t rows,
                               int64_t* codes, int64_t threads) {
  const int64_t dimension = books[0].scores.fan_in, wide = panels(books[0].scores);
#pragma omp parallel num_threads((int)threads) if (threads > 1)
  {
    std::vector<float> scores(ROWS * wide * LANES), rests(ROWS * dimension);
    int64_t from, to;
    share_of(rows, omp_get_thread_num(), omp_get_num_threads(), from, to);
    for (int64_t row = from; row < to; row += ROWS) {
      const int64_t here = std::min<int64_t>(ROWS, to - row);
      const float* x[ROWS];
      float* y[ROWS];
      std::copy_n(vectors + row * dimension, here * dimension, rests.begin());
      for (int64_t r = 0; r < here; r++) {
        x[r] = rests.data() + r * dimension;
        y[r] = scores.data() + r * wide * LANES;
      }
      for (int64_t b = 0; b < book_count; b++) {
        multiply(books[b].scores, x, y, here, 0, wide, PLAIN);
        for (int64_t r = 0; r < here; r++) {
          int64_t best = 0;
          const int64_t size = books[b].scores.fan_out;
          floats tops = load<floats>(y[r]);
          ints where = {};
          int64_t i = LANES;
          for (; i + LANES <= size; i += LANES) {
            const floats v = load<floats>(y[r] + i);
            const ints more = v > tops;
            tops = select(more, v, tops);
            where = (more & (ints{} + (int32_t)i)) | (~more & where);
          }
          for (int lane = 0; lane < LANES; lane++) {
            const int64_t code = where[lane] + lane;
            if (tops[lane] > y[r][best] || (tops[lane] == y[r][best] && code < best)) best = code;
          }
          codes[b * rows + row + r] = best;
          float* rest = rests.data() + r * dimension;
          const float* entry = books[b].entries + best * dimension;
          for (int64_t k = 0; k < dimension; k++) rest[k] -= entry[k];
        }
      }
    }
  }
}
