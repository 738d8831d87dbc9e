// The backward pass.
// Included by kernels.h inside the namespace of one instruction set.

// Tiles of the backward pass: also the gradients of y, of driven and of dt
// (without ln 2), and of z, but for the factor y.
template <typename T>
struct GradTiles : Tiles<T> {
  T *dy, *d_driven, *d_dt, *dz;

  GradTiles(Arena& arena, const Problem<T>& p) : Tiles<T>(arena, p) {
    T** tiles[] = {&dy, &d_driven, &d_dt, &dz};
    for (T** tile : tiles) *tile = arena.take<T>(p.chunk * kLanes<T>);
  }
};

// Tiles of all blocks, but states of only N at a time: those of a chunk of
// 32 tokens, with their gradients, fit the first-level cache.
template <typename T>
struct BackwardScratch {
  static constexpr int N = kBackwardStates, W = kLanes<T>;
  Weights<T> weights;
  T *before, *decay;       // (chunk + 1, N, lanes), (chunk, N, lanes)
  T *dB, *dC, *spare;      // (chunk, N, lanes)
  T *carry, *dA;           // (blocks, S, lanes)
  T *dD, *dbias;           // (blocks, lanes)
  uintptr_t tiles_at, tiles_bytes, end;

  BackwardScratch(Arena arena, const Problem<T>& p, const Task& task)
      : weights(arena, p, blocks<T>(task)),
        before(arena.take<T>((p.chunk + 1) * N * W)),
        decay(arena.take<T>(p.chunk * N * W)),
        dB(arena.take<T>(p.chunk * N * W)),
        dC(arena.take<T>(p.chunk * N * W)),
        spare(arena.take<T>(p.chunk * N * W)),
        carry(arena.take<T>(blocks<T>(task) * p.S * W)),
        dA(arena.take<T>(blocks<T>(task) * p.S * W)),
        dD(arena.take<T>(blocks<T>(task) * W)),
        dbias(arena.take<T>(blocks<T>(task) * W)),
        tiles_at(arena.at) {
    GradTiles<T>(arena, p);
    tiles_bytes = arena.at - tiles_at;
    end = tiles_at + blocks<T>(task) * tiles_bytes;
  }

  GradTiles<T> tiles(const Problem<T>& p, int64_t block) const {
    Arena arena{tiles_at + block * tiles_bytes};
    return GradTiles<T>(arena, p);
  }
};

template <typename T>
size_t backward_bytes(const Problem<T>& p, const Task& task) {
  return BackwardScratch<T>(Arena{0}, p, task).end;
}

// N states, back through one chunk. g is the gradient of a state; `carry` is
// what the chunk after sends back to the last one, and is replaced. Adds to
// d_driven, d_dt and dA, and per lane to dB and dC.
template <typename T, int N>
MMSCOPE_INLINE void retreat(const BackwardScratch<T>& s,
                            const GradTiles<T>& tiles, int64_t size,
                            const T* A_log2, Inputs<T> in, T* carry, T* dA) {
  constexpr int W = kLanes<T>;
  Vec<T> A[N], back[N], slope[N], after[N];
  for (int n = 0; n < N; ++n) {
    A[n] = load(A_log2 + n * W);
    back[n] = load(carry + n * W);
    slope[n] = load(dA + n * W);
    after[n] = load(s.before + (size * N + n) * W);
  }
  in.B += (size - 1) * in.step, in.C += (size - 1) * in.step;
  for (int64_t t = size - 1; t >= 0; --t, in.B -= in.step, in.C -= in.step) {
    const Vec<T> dy = load(tiles.dy + t * W), dt = load(tiles.dt + t * W);
    const Vec<T> driven = load(tiles.driven + t * W);
    Vec<T> d_driven = load(tiles.d_driven + t * W);
    Vec<T> d_dt = load(tiles.d_dt + t * W);
    for (int n = 0; n < N; ++n) {
      const int64_t at = (t * N + n) * W;
      const Vec<T> g = dy * in.C[n] + back[n];
      store<T>(s.dC + at, dy * after[n] + load(s.dC + at));
      store<T>(s.dB + at, driven * g + load(s.dB + at));
      d_driven += g * in.B[n];
      back[n] = g * load(s.decay + at);
      after[n] = load(s.before + at);
      const Vec<T> exponent = back[n] * after[n];
      d_dt += exponent * A[n];
      slope[n] += exponent * dt;
    }
    store<T>(tiles.d_driven + t * W, d_driven);
    store<T>(tiles.d_dt + t * W, d_dt);
  }
  for (int n = 0; n < N; ++n) {
    store<T>(carry + n * W, back[n]);
    store<T>(dA + n * W, slope[n]);
  }
}

// The gradient of y from that of the output, and of z but for the factor y.
template <typename T>
void gate_backward(const Problem<T>& p, const GradTiles<T>& tiles,
                   const Span& span, const Channels& c) {
  constexpr int W = kLanes<T>;
  read_tile(p.grad, span, c, tiles.dy);
  if (p.z.data) read_tile(p.z, span, c, tiles.z);
  const T scale = p.merge ? T(1) / p.G : T(1);
  for (int64_t i = 0; i < span.size * W; i += W) {
    Vec<T> dy = load(tiles.dy + i) * scale;
    if (p.z.data) {
      const Vec<T> z = load(tiles.z + i), share = sigmoid<T>(z);
      store<T>(tiles.dz + i, dy * share * (z * (T(1) - share) + T(1)));
      dy *= z * share;
    }
    store<T>(tiles.dy + i, dy);
  }
}

// dz is what all directions add up to.
template <typename T>
void write_dz(const Problem<T>& p, const GradTiles<T>& tiles,
              const Span& span, const Channels& c) {
  constexpr int W = kLanes<T>;
  if (span.g > 0)
    read_tile(p.dz_sums, span, c, tiles.z);
  else
    fill(tiles.z, span.size * W, T(0));
  for (int64_t i = 0; i < span.size * W; i += W)
    store<T>(tiles.z + i, load(tiles.dz + i) * load(tiles.y + i) +
                              load(tiles.z + i));
  write_tile(tiles.z, span, c, span.g + 1 == p.G ? p.dz : p.dz_sums);
}

// du and ddelta, and the block's share of dD and dbias.
template <typename T>
void input_backward(const Problem<T>& p, const BackwardScratch<T>& s,
                    const GradTiles<T>& tiles, const Span& span,
                    const Channels& c, int64_t block) {
  constexpr int W = kLanes<T>;
  const Vec<T> skip = load(s.weights.D + block * W);
  Vec<T> dD = load(s.dD + block * W), dbias = load(s.dbias + block * W);
  for (int64_t i = 0; i < span.size * W; i += W) {
    const Vec<T> d_driven = load(tiles.d_driven + i), dy = load(tiles.dy + i);
    const Vec<T> x = load(tiles.x + i), raw = load(tiles.raw + i);
    Vec<T> d_dt = load(tiles.d_dt + i) * kLn2<T> + d_driven * x;
    if (p.softplus) d_dt = raw > T(20) ? d_dt : d_dt * sigmoid<T>(raw);
    dD += dy * x;
    dbias += d_dt;
    store<T>(tiles.d_dt + i, d_dt);
    store<T>(tiles.d_driven + i, d_driven * load(tiles.dt + i) + dy * skip);
  }
  store<T>(s.dD + block * W, dD);
  store<T>(s.dbias + block * W, dbias);
  write_tile(tiles.d_driven, span, c, p.du);
  write_tile(tiles.d_dt, span, c, p.ddelta);
}

template <typename T>
void add_pairs(const T* MMSCOPE_RESTRICT from, T* MMSCOPE_RESTRICT to,
               int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i] + from[2 * i + 1];
}

// Sum the lanes of (size, N, lanes), which is overwritten, as is `spare`;
// write the sums to N of the S columns of (G, L, S).
template <typename T, int N>
void write_lane_sums(T* values, T* spare, const Problem<T>& p,
                     const Span& span, T* to) {
  const int64_t rows = span.size * N;
  for (int64_t n = rows * kLanes<T> / 2; n >= rows; n /= 2) {
    add_pairs(values, spare, n);
    T* sums = spare;
    spare = values;
    values = sums;
  }
  for (int64_t t = 0; t < span.size; ++t)
    for (int n = 0; n < N; ++n)
      to[(span.g * p.L + span.first + t * span.step) * p.S + n] =
          values[t * N + n];
}

// N states at a time from n on, as long as N are left: forward again from
// the start of the chunk, then back; returns the next.
template <typename T, int N>
int64_t backward_states(const Problem<T>& p, const BackwardScratch<T>& s,
                        const Span& span, const Task& task, int64_t n, T* dB,
                        T* dC) {
  constexpr int W = kLanes<T>;
  for (; n + N <= p.S; n += N) {
    fill(s.dB, span.size * N * W, T(0));
    fill(s.dC, span.size * N * W, T(0));
    for (int64_t k = 0; k < blocks<T>(task); ++k) {
      const Channels c = channels<T>(task, k);
      const GradTiles<T> tiles = s.tiles(p, k);
      const Inputs<T> in(p, span, c.b, n);
      Ahead ahead;
      if (n == 0) {
        const Rows* streams[] = {&p.u, &p.delta, &p.z, &p.grad};
        for (const Rows* rows : streams)
          ahead.add(*rows, span, c, -1, p.chunk);
        if (span.g) ahead.add(p.dz_sums, span, c, -1, p.chunk);
        for (int64_t i = 0; i < p.S && span.index; ++i)
          MMSCOPE_PREFETCH(start_of(p, span, c) - (p.S - i) * p.Dim);
      }
      T state[N * W];
      for (int i = 0; i < N; ++i)
        read_row(start_of(p, span, c) + (n + i) * p.Dim, c.size,
                 state + i * W);
      const int64_t at = (k * p.S + n) * W;
      advance<T, N, true>(tiles, span.size, s.weights.A_log2 + at, in, state,
                          ahead, s.before, s.decay);
      retreat<T, N>(s, tiles, span.size, s.weights.A_log2 + at, in,
                    s.carry + at, s.dA + at);
    }
    write_lane_sums<T, N>(s.dB, s.spare, p, span, dB + n);
    write_lane_sums<T, N>(s.dC, s.spare, p, span, dC + n);
  }
  return n;
}

template <typename T>
void write_weights(const Problem<T>& p, const BackwardScratch<T>& s,
                   const Task& task, int64_t g) {
  constexpr int W = kLanes<T>;
  for (int64_t k = 0; k < blocks<T>(task); ++k) {
    const Channels c = channels<T>(task, k);
    const int64_t to = (c.b * p.G + g) * p.Dim + c.first;
    for (int64_t i = 0; i < c.size; ++i) {
      p.dD[to + i] = s.dD[k * W + i];
      p.dbias[to + i] = s.dbias[k * W + i];
      for (int64_t n = 0; n < p.S; ++n)
        p.dA[(to + i) * p.S + n] = s.dA[(k * p.S + n) * W + i];
    }
  }
}

template <typename T>
void chunk_backward(const Problem<T>& p, const BackwardScratch<T>& s,
                    const Span& span, const Task& task, T* dB, T* dC) {
  constexpr int W = kLanes<T>;
  for (int64_t k = 0; k < blocks<T>(task); ++k) {
    const Channels c = channels<T>(task, k);
    const GradTiles<T> tiles = s.tiles(p, k);
    tiles.read(p, span, c, s.weights.D + k * W, s.weights.bias + k * W);
    gate_backward(p, tiles, span, c);
    fill(tiles.d_driven, span.size * W, T(0));
    fill(tiles.d_dt, span.size * W, T(0));
  }
  const int64_t n =
      backward_states<T, kBackwardStates>(p, s, span, task, 0, dB, dC);
  backward_states<T, 1>(p, s, span, task, n, dB, dC);
  for (int64_t k = 0; k < blocks<T>(task); ++k) {
    const Channels c = channels<T>(task, k);
    if (p.z.data) write_dz(p, s.tiles(p, k), span, c);
    input_backward(p, s, s.tiles(p, k), span, c, k);
  }
}

template <typename T>
void backward(const Problem<T>& p, const Task& task, T* dB, T* dC,
              void* memory) {
  constexpr int W = kLanes<T>;
  BackwardScratch<T> s(Arena{reinterpret_cast<uintptr_t>(memory)}, p, task);
  const int64_t lanes = blocks<T>(task) * W;
  for (int64_t g = 0; g < p.G; ++g) {
    s.weights.read(p, task, g);
    fill(s.carry, lanes * p.S, T(0));
    fill(s.dA, lanes * p.S, T(0));
    fill(s.dD, lanes, T(0));
    fill(s.dbias, lanes, T(0));
    for (int64_t index = (p.L - 1) / p.chunk; index >= 0; --index)
      chunk_backward(p, s, Span(p, g, index), task, dB, dC);
    write_weights(p, s, task, g);
  }
}
