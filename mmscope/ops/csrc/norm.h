// RMSNorm, forward and backward.
// Included by kernels.h inside the namespace of one instruction set.

template <typename T>
struct NormScratch {
  T *x, *out;  // (width)
  uintptr_t end;

  NormScratch(Arena arena, const NormProblem<T>& p)
      : x(arena.take<T>(p.width)),
        out(arena.take<T>(p.width)),
        end(arena.at) {}
};

template <typename T>
size_t norm_bytes(const NormProblem<T>& p) {
  return NormScratch<T>(Arena{0}, p).end;
}

template <typename T>
MMSCOPE_INLINE T add_lanes(Vec<T> v) {
  T lanes[kLanes<T>];
  store<T>(lanes, v);
  for (int half = kLanes<T> / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// sum of a * b * c over the row; c may be null, for a * b
template <typename T>
T dot(const T* a, const T* b, const T* c, int64_t width) {
  constexpr int W = kLanes<T>;
  Vec<T> sum{};
  int64_t i = 0;
  for (; i + W <= width; i += W)
    sum += load(a + i) * load(b + i) * (c ? load(c + i) : splat(T(1)));
  if (i < width) {
    const Part<T> part{width - i};
    sum += part.get(a + i) * part.get(b + i) *
           (c ? part.get(c + i) : splat(T(1)));
  }
  return add_lanes<T>(sum);
}

template <typename T>
void norm_forward(const NormProblem<T>& p, const Tokens& task, void* memory) {
  const NormScratch<T> s(Arena{reinterpret_cast<uintptr_t>(memory)}, p);
  for (int64_t l = task.first; l < task.last; ++l) {
    const T* MMSCOPE_RESTRICT x = read_row_at(p.x, 0, 0, l, p.width, s.x);
    T* MMSCOPE_RESTRICT out = begin_row(p.out, 0, 0, l, s.out);
    const T mean = dot<T>(x, x, nullptr, p.width) / p.width;
    const T scale = T(1) / std::sqrt(mean + T(p.eps));
    for (int64_t i = 0; i < p.width; ++i) out[i] = x[i] * scale * p.weight[i];
    finish_row(p.out, 0, 0, l, p.width, s.out);
    p.scale[l] = scale;
  }
}

template <typename T>
void norm_backward(const NormProblem<T>& p, const Tokens& task, T* sums,
                   void* memory) {
  const NormScratch<T> s(Arena{reinterpret_cast<uintptr_t>(memory)}, p);
  fill(sums, p.width, T(0));
  T* MMSCOPE_RESTRICT to = sums;
  for (int64_t l = task.first; l < task.last; ++l) {
    const T* MMSCOPE_RESTRICT x = row_at<T>(p.x, 0, 0, l);
    const T* grad = read_row_at(p.grad, 0, 0, l, p.width, s.x);
    T* MMSCOPE_RESTRICT dx = row_at<T>(p.dx, 0, 0, l);
    const T scale = p.scale[l];
    const T along = dot<T>(grad, p.weight, x, p.width) / p.width;
    const T back = along * scale * scale * scale;
    for (int64_t i = 0; i < p.width; ++i) {
      dx[i] = grad[i] * p.weight[i] * scale - x[i] * back;
      to[i] += grad[i] * x[i] * scale;
    }
  }
}
