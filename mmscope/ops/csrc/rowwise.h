// For kernels that go row by row: a token with all its channels.
// Included by kernels.h inside the namespace of one instruction set.

// A vector of channels, and one of which only `size` lanes are real.
template <typename T>
struct Whole {
  static MMSCOPE_INLINE Vec<T> get(const T* row) { return load(row); }
  static MMSCOPE_INLINE void put(T* row, Vec<T> v) { store<T>(row, v); }
};

template <typename T>
struct Part {
  int64_t size;

  MMSCOPE_INLINE Vec<T> get(const T* row) const {
    T lanes[kLanes<T>];
    for (int64_t i = 0; i < kLanes<T>; ++i) lanes[i] = i < size ? row[i] : 0;
    return load<T>(lanes);
  }
  MMSCOPE_INLINE void put(T* row, Vec<T> v) const {
    T lanes[kLanes<T>];
    store<T>(lanes, v);
    for (int64_t i = 0; i < size; ++i) row[i] = lanes[i];
  }
};

template <typename U>
U* row_at(const Rows& rows, int64_t g, int64_t b, int64_t l) {
  return static_cast<U*>(rows.data) + g * rows.g + b * rows.b + l * rows.l;
}

// The row as T: itself, or converted into `spare`.
template <typename T>
const T* read_row_at(const Rows& rows, int64_t g, int64_t b, int64_t l,
                     int64_t dim, T* spare) {
  if (!rows.bf16) return row_at<T>(rows, g, b, l);
  const uint16_t* MMSCOPE_RESTRICT row = row_at<uint16_t>(rows, g, b, l);
  T* MMSCOPE_RESTRICT to = spare;
  for (int64_t i = 0; i < dim; ++i) to[i] = from_bf16(row[i]);
  return to;
}

// Where to write the row as T; `finish_row` then converts it.
template <typename T>
T* begin_row(const Rows& rows, int64_t g, int64_t b, int64_t l, T* spare) {
  return rows.bf16 ? spare : row_at<T>(rows, g, b, l);
}

template <typename T>
void finish_row(const Rows& rows, int64_t g, int64_t b, int64_t l,
                int64_t dim, const T* spare) {
  if (!rows.bf16) return;
  uint16_t* MMSCOPE_RESTRICT row = row_at<uint16_t>(rows, g, b, l);
  const T* MMSCOPE_RESTRICT from = spare;
  for (int64_t i = 0; i < dim; ++i) row[i] = to_bf16(from[i]);
}
