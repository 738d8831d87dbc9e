// The mean of directions that were scanned apart, gated, row by row: the same
// operations as `finish`, in the same order.
// Included by kernels.h inside the namespace of one instruction set.

template <typename T>
struct MergeScratch {
  T *z, *out;  // (Dim)
  uintptr_t end;

  MergeScratch(Arena arena, const Problem<T>& p)
      : z(arena.take<T>(p.Dim)), out(arena.take<T>(p.Dim)), end(arena.at) {}
};

template <typename T>
size_t merge_bytes(const Problem<T>& p) {
  return MergeScratch<T>(Arena{0}, p).end;
}

// z may be null.
template <typename T, typename Lanes>
MMSCOPE_INLINE void merge_lanes(const Problem<T>& p, const Tokens& task,
                                int64_t l, const T* z, T* out, int64_t c,
                                Lanes lanes) {
  Vec<T> sum = lanes.get(row_at<T>(p.sums, 0, task.b, l) + c);
  for (int64_t g = 1; g < p.G; ++g)
    sum = lanes.get(row_at<T>(p.sums, g, task.b, l) + c) + sum;
  sum = sum * (T(1) / p.G);
  if (z) {
    const Vec<T> gate = lanes.get(z + c);
    sum = sum * gate * sigmoid<T>(gate);
  }
  lanes.put(out + c, sum);
}

// `sums` holds every direction, (G, B, L, Dim).
template <typename T>
void merge(const Problem<T>& p, const Tokens& task, void* memory) {
  const MergeScratch<T> s(Arena{reinterpret_cast<uintptr_t>(memory)}, p);
  for (int64_t l = task.first; l < task.last; ++l) {
    const T* z =
        p.z.data ? read_row_at(p.z, 0, task.b, l, p.Dim, s.z) : nullptr;
    T* out = begin_row(p.out, 0, task.b, l, s.out);
    int64_t c = 0;
    for (; c + kLanes<T> <= p.Dim; c += kLanes<T>)
      merge_lanes<T>(p, task, l, z, out, c, Whole<T>());
    if (c < p.Dim) merge_lanes<T>(p, task, l, z, out, c, Part<T>{p.Dim - c});
    finish_row(p.out, 0, task.b, l, p.Dim, s.out);
  }
}
