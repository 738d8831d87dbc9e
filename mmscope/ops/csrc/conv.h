// The convolution, forward and backward: both directions of a token from one
// neighbourhood of 2 taps - 1 rows, which stay in the first-level cache.
// Included by kernels.h inside the namespace of one instruction set. K is the
// number of taps, or 0 for any.

template <typename T>
struct ConvScratch {
  int64_t window;  // rows of a neighbourhood
  T *zeros, *x, *d0, *d1, *spare0, *spare1;  // x, d0, d1: (window, Dim)
  const T **near, **after, **before;         // (window), (taps), (taps)
  uintptr_t end;

  ConvScratch(Arena arena, const ConvProblem<T>& p)
      : window(2 * p.taps - 1),
        zeros(arena.take<T>(p.Dim)),
        x(arena.take<T>(window * p.Dim)),
        d0(arena.take<T>(window * p.Dim)),
        d1(arena.take<T>(window * p.Dim)),
        spare0(arena.take<T>(p.Dim)),
        spare1(arena.take<T>(p.Dim)),
        near(arena.take<const T*>(window)),
        after(arena.take<const T*>(p.taps)),
        before(arena.take<const T*>(p.taps)),
        end(arena.at) {}

  // The slot of row l, of a ring; l is at least -window.
  T* slot(T* ring, const ConvProblem<T>& p, int64_t l) const {
    return ring + (l + window) % window * p.Dim;
  }
};

template <typename T>
size_t conv_bytes(const ConvProblem<T>& p) {
  return ConvScratch<T>(Arena{0}, p).end;
}

// `near` becomes the rows around t; all but the last were there before unless
// `fresh`.
template <typename T>
void move_to(const ConvProblem<T>& p, const ConvScratch<T>& s, int64_t b,
             int64_t t, bool fresh) {
  for (int64_t i = 0; i + 1 < s.window && !fresh; ++i)
    s.near[i] = s.near[i + 1];
  for (int64_t i = fresh ? 0 : s.window - 1; i < s.window; ++i) {
    const int64_t l = t - (p.taps - 1) + i;
    const bool inside = l >= 0 && l < p.L;
    s.near[i] = inside ? read_row_at(p.x, 0, b, l, p.Dim, s.slot(s.x, p, l))
                       : s.zeros;
  }
}

// The convolution, before SiLU, of direction g and the channels from c on.
template <typename T, int K, typename Lanes>
MMSCOPE_INLINE Vec<T> convolve(const ConvProblem<T>& p, const T* const* near,
                               int64_t g, int64_t c, Lanes lanes) {
  const int64_t taps = K ? K : p.taps;
  Vec<T> y = lanes.get(p.bias + g * p.Dim + c);
  for (int64_t k = 0; k < taps; ++k)
    y += lanes.get(p.weight + (g * taps + k) * p.Dim + c) *
         lanes.get(near[g ? 2 * taps - 2 - k : k] + c);
  return y;
}

template <typename T, int K, typename Lanes>
MMSCOPE_INLINE void conv_lanes(const ConvProblem<T>& p, const T* const* near,
                               T* out0, T* out1, int64_t c, Lanes lanes) {
  const Vec<T> y0 = convolve<T, K>(p, near, 0, c, lanes);
  const Vec<T> y1 = convolve<T, K>(p, near, 1, c, lanes);
  lanes.put(out0 + c, y0 * sigmoid<T>(y0));
  lanes.put(out1 + c, y1 * sigmoid<T>(y1));
}

template <typename T, int K>
void conv_forward_taps(const ConvProblem<T>& p, const Tokens& task,
                       void* memory) {
  const ConvScratch<T> s(Arena{reinterpret_cast<uintptr_t>(memory)}, p);
  fill(s.zeros, p.Dim, T(0));
  for (int64_t t = task.first; t < task.last; ++t) {
    move_to(p, s, task.b, t, t == task.first);
    T* out0 = begin_row(p.out, 0, task.b, t, s.spare0);
    T* out1 = begin_row(p.out, 1, task.b, t, s.spare1);
    int64_t c = 0;
    for (; c + kLanes<T> <= p.Dim; c += kLanes<T>)
      conv_lanes<T, K>(p, s.near, out0, out1, c, Whole<T>());
    if (c < p.Dim)
      conv_lanes<T, K>(p, s.near, out0, out1, c, Part<T>{p.Dim - c});
    finish_row(p.out, 0, task.b, t, p.Dim, s.spare0);
    finish_row(p.out, 1, task.b, t, p.Dim, s.spare1);
  }
}

template <typename T>
void conv_forward(const ConvProblem<T>& p, const Tokens& task, void* memory) {
  if (p.taps == 4)
    conv_forward_taps<T, 4>(p, task, memory);
  else
    conv_forward_taps<T, 0>(p, task, memory);
}

// -------------------------------------------------------------- backward ----

// d becomes the gradient before SiLU; its products with the rows that were
// read are added to `sums` (taps + 1, Dim) if SUM.
template <typename T, int K, bool SUM, typename Lanes>
MMSCOPE_INLINE void silu_lanes(const ConvProblem<T>& p, const T* const* near,
                               const T* grad, T* d, T* sums, int64_t g,
                               int64_t c, Lanes lanes) {
  const int64_t taps = K ? K : p.taps;
  const Vec<T> y = convolve<T, K>(p, near, g, c, lanes);
  const Vec<T> share = sigmoid<T>(y);
  const Vec<T> dy =
      lanes.get(grad + c) * share * (y * (T(1) - share) + T(1));
  lanes.put(d + c, dy);
  if (!SUM) return;
  for (int64_t k = 0; k < taps; ++k) {
    T* at = sums + k * p.Dim + c;
    const Vec<T> x = lanes.get(near[g ? 2 * taps - 2 - k : k] + c);
    lanes.put(at, lanes.get(at) + dy * x);
  }
  T* at = sums + taps * p.Dim + c;
  lanes.put(at, lanes.get(at) + dy);
}

template <typename T, int K, bool SUM>
void silu_backward(const ConvProblem<T>& p, const T* const* near,
                   const T* grad, T* d, T* sums, int64_t g) {
  int64_t c = 0;
  for (; c + kLanes<T> <= p.Dim; c += kLanes<T>)
    silu_lanes<T, K, SUM>(p, near, grad, d, sums, g, c, Whole<T>());
  if (c < p.Dim)
    silu_lanes<T, K, SUM>(p, near, grad, d, sums, g, c, Part<T>{p.Dim - c});
}

// dx of a token, from the tokens after it that read it in direction 0 and
// those before it in direction 1, the nearest first.
template <typename T, int K, typename Lanes>
MMSCOPE_INLINE void dx_lanes(const ConvProblem<T>& p, const T* const* after,
                             const T* const* before, T* dx, int64_t c,
                             Lanes lanes) {
  const int64_t taps = K ? K : p.taps;
  Vec<T> sum{};
  for (int64_t j = 0; j < taps; ++j) {
    const T* weight = p.weight + (taps - 1 - j) * p.Dim + c;
    sum += lanes.get(weight) * lanes.get(after[j] + c);
    sum += lanes.get(weight + taps * p.Dim) * lanes.get(before[j] + c);
  }
  lanes.put(dx + c, sum);
}

template <typename T, int K>
void write_dx(const ConvProblem<T>& p, const ConvScratch<T>& s, int64_t b,
              int64_t t) {
  for (int64_t j = 0; j < p.taps; ++j) {
    s.after[j] = s.slot(s.d0, p, t + j);
    s.before[j] = s.slot(s.d1, p, t - j);
  }
  T* dx = begin_row(p.dx, 0, b, t, s.spare0);
  int64_t c = 0;
  for (; c + kLanes<T> <= p.Dim; c += kLanes<T>)
    dx_lanes<T, K>(p, s.after, s.before, dx, c, Whole<T>());
  if (c < p.Dim)
    dx_lanes<T, K>(p, s.after, s.before, dx, c, Part<T>{p.Dim - c});
  finish_row(p.dx, 0, b, t, p.Dim, s.spare0);
}

// Tokens near the task's ends are read by its own and by its neighbours:
// their gradients are computed in both tasks, and summed in one.
template <typename T, int K>
void conv_backward_taps(const ConvProblem<T>& p, const Tokens& task, T* sums,
                        void* memory) {
  const ConvScratch<T> s(Arena{reinterpret_cast<uintptr_t>(memory)}, p);
  const int64_t halo = p.taps - 1, begin = task.first - halo;
  fill(s.zeros, p.Dim, T(0));
  fill(sums, 2 * (p.taps + 1) * p.Dim, T(0));
  for (int64_t t = begin; t < task.last + halo; ++t) {
    const bool own = t >= task.first && t < task.last;
    move_to(p, s, task.b, t, t == begin);
    for (int64_t g = 0; g < 2; ++g) {
      T* d = s.slot(g ? s.d1 : s.d0, p, t);
      T* to = sums + g * (p.taps + 1) * p.Dim;
      if (t < 0 || t >= p.L) {
        fill(d, p.Dim, T(0));
        continue;
      }
      const T* grad = read_row_at(p.grad, g, task.b, t, p.Dim, s.spare0);
      if (own)
        silu_backward<T, K, true>(p, s.near, grad, d, to, g);
      else
        silu_backward<T, K, false>(p, s.near, grad, d, to, g);
    }
    if (t - halo >= task.first) write_dx<T, K>(p, s, task.b, t - halo);
  }
}

template <typename T>
void conv_backward(const ConvProblem<T>& p, const Tokens& task, T* sums,
                   void* memory) {
  if (p.taps == 4)
    conv_backward_taps<T, 4>(p, task, sums, memory);
  else
    conv_backward_taps<T, 0>(p, task, sums, memory);
}
