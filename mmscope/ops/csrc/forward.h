// The forward pass.
// Included by kernels.h inside the namespace of one instruction set.

template <typename T>
struct ForwardScratch {
  Weights<T> weights;
  Tiles<T> tiles;
  T *state, *peaks;  // (blocks, S, lanes), (chunk, lanes)

  ForwardScratch(Arena arena, const Problem<T>& p, const Task& task)
      : weights(arena, p, blocks<T>(task)),
        tiles(arena, p),
        state(arena.take<T>(blocks<T>(task) * p.S * kLanes<T>)),
        peaks(arena.take<T>(p.chunk * kLanes<T>)),
        end(arena.at) {}

  uintptr_t end;
};

template <typename T>
size_t forward_bytes(const Problem<T>& p, const Task& task) {
  return ForwardScratch<T>(Arena{0}, p, task).end;
}

// tile = larger(tile, y), for the lanes that are channels
template <typename T>
void raise_peaks(const T* y, const Span& span, const Channels& c, T* tile) {
  constexpr int W = kLanes<T>;
  T real[W];
  for (int i = 0; i < W; ++i) real[i] = i < c.size ? 1 : 0;
  // chosen and not added: a lane without channel is NaN where B is infinite
  const Vec<T> is_real = load(real), none = splat(T(-INFINITY));
  for (int64_t i = 0; i < span.size * W; i += W)
    store<T>(tile + i, larger<T>(load(tile + i),
                                 is_real > T(0) ? load(y + i) : none));
}

// peaks (L) = larger(peaks, lanes of the tile)
template <typename T>
void write_peaks(const T* tile, const Span& span, bool first, T* peaks) {
  constexpr int W = kLanes<T>;
  for (int64_t t = 0; t < span.size; ++t) {
    T& peak = peaks[span.first + t * span.step];
    T most = first ? tile[t * W] : peak;
    for (int i = 0; i < W; ++i) {
      const T value = tile[t * W + i];
      most = value <= most || most != most ? most : value;
    }
    peak = most;
  }
}

// Add the directions up, then scale and gate.
template <typename T>
void finish(const Problem<T>& p, const Tiles<T>& tiles, const Span& span,
            const Channels& c) {
  constexpr int W = kLanes<T>;
  T* y = tiles.y;
  if (p.merge && span.g > 0) {
    read_tile(p.sums, span, c, tiles.x);
    for (int64_t i = 0; i < span.size * W; i += W)
      store<T>(y + i, load(y + i) + load(tiles.x + i));
  }
  if (p.merge && span.g + 1 < p.G) {
    write_tile(y, span, c, p.sums);
    return;
  }
  if (p.merge && p.G > 1)
    for (int64_t i = 0; i < span.size * W; i += W)
      store<T>(y + i, load(y + i) * (T(1) / p.G));
  if (p.z.data) {
    read_tile(p.z, span, c, tiles.z);
    for (int64_t i = 0; i < span.size * W; i += W) {
      const Vec<T> z = load(tiles.z + i);
      store<T>(y + i, load(y + i) * z * sigmoid<T>(z));
    }
  }
  write_tile(y, span, c, p.out);
}

// N states at a time from s on, as long as N are left; returns the next.
template <typename T, int N>
int64_t forward_states(const Problem<T>& p, const ForwardScratch<T>& scratch,
                       const Span& span, const Channels& c, int64_t block,
                       int64_t s) {
  constexpr int W = kLanes<T>;
  for (; s + N <= p.S; s += N) {
    Ahead ahead;
    if (s == 0) {
      ahead.add(p.u, span, c, 1, p.chunk);
      ahead.add(p.delta, span, c, 1, p.chunk);
      ahead.add(p.z, span, c, 1, p.chunk);
      if (span.g) ahead.add(p.sums, span, c, 1, p.chunk);
    }
    const int64_t at = (block * p.S + s) * W;
    advance<T, N, false>(scratch.tiles, span.size, scratch.weights.A_log2 + at,
                         Inputs<T>(p, span, c.b, s), scratch.state + at,
                         ahead, nullptr, nullptr);
  }
  return s;
}

template <typename T>
void forward(const Problem<T>& p, const Task& task, T* peaks, void* memory) {
  constexpr int W = kLanes<T>;
  ForwardScratch<T> s(Arena{reinterpret_cast<uintptr_t>(memory)}, p, task);
  const int64_t count = blocks<T>(task);
  for (int64_t g = 0; g < p.G; ++g) {
    s.weights.read(p, task, g);
    fill(s.state, count * p.S * W, T(0));
    for (int64_t begin = 0; begin < p.L; begin += p.chunk) {
      const Span span(p, g, begin / p.chunk);
      fill(s.peaks, span.size * W, T(-INFINITY));
      for (int64_t k = 0; k < count; ++k) {
        const Channels c = channels<T>(task, k);
        if (p.starts)
          for (int64_t n = 0; n < p.S; ++n)
            write_row(s.state + (k * p.S + n) * W, c.size,
                      start_of(p, span, c) + n * p.Dim);
        s.tiles.read(p, span, c, s.weights.D + k * W, s.weights.bias + k * W);
        const int64_t n =
            forward_states<T, kForwardStates>(p, s, span, c, k, 0);
        forward_states<T, 1>(p, s, span, c, k, n);
        if (peaks) raise_peaks(s.tiles.y, span, c, s.peaks);
        finish(p, s.tiles, span, c);
      }
      if (peaks) write_peaks(s.peaks, span, g == 0, peaks);
    }
  }
}
