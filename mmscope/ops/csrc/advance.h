// One chunk of tokens, forward: what both passes share.
// Included by kernels.h inside the namespace of one instruction set.

// What a chunk of one block of channels needs; all tiles (chunk, lanes).
template <typename T>
struct Tiles {
  T *x, *raw, *dt, *driven, *y, *z;  // raw is delta + bias, driven dt * x

  Tiles(Arena& arena, const Problem<T>& p) {
    T** tiles[] = {&x, &raw, &dt, &driven, &y, &z};
    for (T** tile : tiles) *tile = arena.take<T>(p.chunk * kLanes<T>);
  }

  // Fills all but z; y with the D skip.
  void read(const Problem<T>& p, const Span& span, const Channels& c,
            const T* D, const T* bias) const {
    read_tile(p.u, span, c, x);
    read_tile(p.delta, span, c, raw);
    const Vec<T> skip = load(D), shift = load(bias);
    for (int64_t i = 0; i < span.size * kLanes<T>; i += kLanes<T>) {
      const Vec<T> sum = load(raw + i) + shift, u = load(x + i);
      const Vec<T> size = p.softplus ? softplus<T>(sum) : sum;
      store<T>(raw + i, sum);
      store<T>(dt + i, size);
      store<T>(driven + i, size * u);
      store<T>(y + i, skip * u);
    }
  }
};

// B and C of N states: rows at time 0, and how far time 1 is.
template <typename T>
struct Inputs {
  const T *B, *C;
  int64_t step;

  Inputs(const Problem<T>& p, const Span& span, int64_t b, int64_t s) {
    const int64_t row = (span.g * p.B + b) * p.L + span.first;
    B = p.Bt + row * p.S + s;
    C = p.Ct + row * p.S + s;
    step = span.step * p.S;
  }
};

// N states through one chunk: y += C h. `state` (N, lanes) is replaced.
// `before` and `decay`, (chunk + 1, N, lanes) and (chunk, N, lanes), are
// filled if KEEP.
template <typename T, int N, bool KEEP>
MMSCOPE_INLINE void advance(const Tiles<T>& tiles, int64_t size,
                            const T* A_log2, Inputs<T> in, T* state,
                            Ahead ahead, T* before, T* decay) {
  constexpr int W = kLanes<T>;
  Vec<T> A[N], h[N];
  for (int n = 0; n < N; ++n) {
    A[n] = load(A_log2 + n * W);
    h[n] = load(state + n * W);
  }
  for (int64_t t = 0; t < size; ++t, in.B += in.step, in.C += in.step) {
    const Vec<T> dt = load(tiles.dt + t * W);
    const Vec<T> driven = load(tiles.driven + t * W);
    Vec<T> y = load(tiles.y + t * W);
    for (int n = 0; n < N; ++n) {
      const Vec<T> factor = exp2(dt * A[n]);
      if (KEEP) {
        store<T>(before + (t * N + n) * W, h[n]);
        store<T>(decay + (t * N + n) * W, factor);
      }
      h[n] = factor * h[n] + driven * in.B[n];
      y += h[n] * in.C[n];
    }
    store<T>(tiles.y + t * W, y);
    ahead.fetch();
  }
  for (int n = 0; n < N; ++n) {
    store<T>(state + n * W, h[n]);
    if (KEEP) store<T>(before + (size * N + n) * W, h[n]);
  }
}

// How many states fit the registers together: 8 of 32, 4 of 16.
constexpr int kForwardStates = sizeof(FloatVec) == 64 ? 8 : 4;
constexpr int kBackwardStates = sizeof(FloatVec) == 64 ? 4 : 2;
