// Memory, the split into chunks and blocks, and tiles in scan order.
// Included by kernels.h inside the namespace of one instruction set.

// Hands out aligned pieces of the scratch; from address 0 it only counts.
struct Arena {
  uintptr_t at;

  template <typename T>
  T* take(size_t count) {
    T* piece = reinterpret_cast<T*>(at);
    at += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

template <typename T>
void fill(T* values, int64_t count, T value) {
  for (int64_t i = 0; i < count; ++i) values[i] = value;
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Tokens of one chunk of one direction: row `first + t * step` at time t.
struct Span {
  int64_t g, index, first, step, size;

  template <typename T>
  Span(const Problem<T>& p, int64_t g, int64_t index) : g(g), index(index) {
    const int64_t begin = index * p.chunk;
    first = p.reverse[g] ? p.L - 1 - begin : begin;
    step = p.reverse[g] ? -1 : 1;
    size = smaller(p.chunk, p.L - begin);
  }
};

// Channels of one vector; `size` of them are real.
struct Channels {
  int64_t b, first, size;
};

template <typename T>
Channels channels(const Task& task, int64_t block) {
  const int64_t first = task.first + block * kLanes<T>;
  return {task.b, first, smaller(kLanes<T>, task.last - first)};
}

template <typename T>
int64_t blocks(const Task& task) {
  return (task.last - task.first + kLanes<T> - 1) / kLanes<T>;
}

// ---------------------------------------------------------------- tiles ----

inline float from_bf16(uint16_t bits) {
  return bitcast<float>(uint32_t(bits) << 16);
}

inline uint16_t to_bf16(float value) {
  const uint32_t bits = bitcast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return value == value ? rounded : 0x7fc0;
}

template <typename T>
inline void read_row(const T* row, int64_t size, T* lanes) {
  if (size == kLanes<T>) {
    std::memcpy(lanes, row, sizeof(Vec<T>));
  } else {
    for (int64_t i = 0; i < kLanes<T>; ++i) lanes[i] = i < size ? row[i] : 0;
  }
}

template <typename T>
inline void read_row(const uint16_t* row, int64_t size, T* lanes) {
  if (size == kLanes<T>) {
    for (int64_t i = 0; i < kLanes<T>; ++i) lanes[i] = from_bf16(row[i]);
  } else {
    for (int64_t i = 0; i < kLanes<T>; ++i)
      lanes[i] = i < size ? from_bf16(row[i]) : 0;
  }
}

template <typename T>
inline void write_row(const T* lanes, int64_t size, T* row) {
  if (size == kLanes<T>) {
    std::memcpy(row, lanes, sizeof(Vec<T>));
  } else {
    for (int64_t i = 0; i < size; ++i) row[i] = lanes[i];
  }
}

template <typename T>
inline void write_row(const T* lanes, int64_t size, uint16_t* row) {
  if (size == kLanes<T>) {
    for (int64_t i = 0; i < kLanes<T>; ++i) row[i] = to_bf16(lanes[i]);
  } else {
    for (int64_t i = 0; i < size; ++i) row[i] = to_bf16(lanes[i]);
  }
}

template <typename U>
U* row_of(const Rows& rows, const Span& span, const Channels& c) {
  return static_cast<U*>(rows.data) + span.g * rows.g + c.b * rows.b +
         span.first * rows.l + c.first;
}

// tile (size, lanes) in scan order; lanes that are no channel become 0
template <typename T>
void read_tile(const Rows& rows, const Span& span, const Channels& c,
               T* tile) {
  const int64_t step = span.step * rows.l;
  if (rows.bf16) {
    const uint16_t* row = row_of<uint16_t>(rows, span, c);
    for (int64_t t = 0; t < span.size; ++t)
      read_row(row + t * step, c.size, tile + t * kLanes<T>);
  } else {
    const T* row = row_of<T>(rows, span, c);
    for (int64_t t = 0; t < span.size; ++t)
      read_row(row + t * step, c.size, tile + t * kLanes<T>);
  }
}

template <typename T>
void write_tile(const T* tile, const Span& span, const Channels& c,
                const Rows& rows) {
  const int64_t step = span.step * rows.l;
  if (rows.bf16) {
    uint16_t* row = row_of<uint16_t>(rows, span, c);
    for (int64_t t = 0; t < span.size; ++t)
      write_row(tile + t * kLanes<T>, c.size, row + t * step);
  } else {
    T* row = row_of<T>(rows, span, c);
    for (int64_t t = 0; t < span.size; ++t)
      write_row(tile + t * kLanes<T>, c.size, row + t * step);
  }
}

// Rows that the next chunk will read, fetched into the second-level cache
// while this one is computed: rows are far apart, and the hardware is late.
struct Ahead {
  static constexpr int kMost = 5;
  const char* row[kMost];
  int64_t step[kMost];
  int count = 0;

  void add(const Rows& rows, const Span& span, const Channels& c,
           int64_t chunks_on, int64_t chunk) {
    if (!rows.data) return;
    const int64_t bytes = rows.bytes;
    const int64_t from = span.first + chunks_on * chunk * span.step;
    const int64_t at = span.g * rows.g + c.b * rows.b + from * rows.l;
    row[count] = static_cast<const char*>(rows.data) + (at + c.first) * bytes;
    step[count++] = span.step * rows.l * bytes;
  }

  void fetch() {
    for (int i = 0; i < count; ++i) {
      MMSCOPE_PREFETCH(row[i]);
      row[i] += step[i];
    }
  }
};

// the states (S, Dim) before a chunk
template <typename T>
T* start_of(const Problem<T>& p, const Span& span, const Channels& c) {
  const int64_t chunks = (p.L + p.chunk - 1) / p.chunk;
  const int64_t index = (span.g * p.B + c.b) * chunks + span.index;
  return p.starts + index * p.S * p.Dim + c.first;
}

// -------------------------------------------------------------- weights ----

// Weights of one direction for the channels of a task, lanes innermost.
template <typename T>
struct Weights {
  T *A_log2, *D, *bias;  // (blocks, S, lanes), (blocks, lanes), the same

  Weights(Arena& arena, const Problem<T>& p, int64_t blocks)
      : A_log2(arena.take<T>(blocks * p.S * kLanes<T>)),
        D(arena.take<T>(blocks * kLanes<T>)),
        bias(arena.take<T>(blocks * kLanes<T>)) {}

  void read(const Problem<T>& p, const Task& task, int64_t g) const {
    for (int64_t k = 0; k < blocks<T>(task); ++k) {
      const Channels c = channels<T>(task, k);
      const int64_t at = g * p.Dim + c.first, to = k * kLanes<T>;
      for (int64_t i = 0; i < kLanes<T>; ++i) {
        const bool real = i < c.size;
        D[to + i] = real && p.D ? p.D[at + i] : 0;
        bias[to + i] = real && p.bias ? p.bias[at + i] : 0;
        for (int64_t s = 0; s < p.S; ++s)
          A_log2[(k * p.S + s) * kLanes<T> + i] =
              real ? p.A[(at + i) * p.S + s] * kLog2E<T> : 0;
      }
    }
  }
};
