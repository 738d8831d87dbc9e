// Vectors of MMSCOPE_VECTOR_BYTES and the functions that the scan needs.
// Included by kernels.h inside the namespace of one instruction set. Without
// that macro (a compiler that is neither GCC nor Clang) a vector is one
// number, and every expression below still means the same.

#ifdef MMSCOPE_VECTOR_BYTES
typedef float FloatVec __attribute__((vector_size(MMSCOPE_VECTOR_BYTES)));
typedef double DoubleVec __attribute__((vector_size(MMSCOPE_VECTOR_BYTES)));
typedef uint32_t UintVec __attribute__((vector_size(MMSCOPE_VECTOR_BYTES)));
#define MMSCOPE_INLINE inline __attribute__((always_inline))
#define MMSCOPE_RESTRICT __restrict__
#define MMSCOPE_PREFETCH(p) __builtin_prefetch(p, 0, 2)
#else
typedef float FloatVec;
typedef double DoubleVec;
typedef uint32_t UintVec;
#define MMSCOPE_INLINE inline
#define MMSCOPE_RESTRICT
#define MMSCOPE_PREFETCH(p)
#endif

template <typename T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef FloatVec type;
};
template <>
struct VecOf<double> {
  typedef DoubleVec type;
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
constexpr int kLanes = sizeof(Vec<T>) / sizeof(T);

template <typename To, typename From>
MMSCOPE_INLINE To bitcast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename T>
MMSCOPE_INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename T>
MMSCOPE_INLINE void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof(v));
}

// x - 0 and not x + 0, which would turn -0 into 0 and so cost an addition
template <typename T>
MMSCOPE_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}

template <double (*F)(double)>
MMSCOPE_INLINE DoubleVec each(DoubleVec x) {
  double lanes[kLanes<double>];
  store<double>(lanes, x);
  for (double& lane : lanes) lane = F(lane);
  return load<double>(lanes);
}

// x within [low, high]; NaN stays NaN. The instructions return their second
// operand where one is NaN; a comparison and a blend would be twice as many.
MMSCOPE_INLINE FloatVec clamp(FloatVec x, float low, float high) {
#if defined(MMSCOPE_AVX512)
  x = (FloatVec)_mm512_maskz_max_ps(-1, (__m512)splat<float>(low), (__m512)x);
  return (FloatVec)_mm512_maskz_min_ps(-1, (__m512)splat<float>(high), (__m512)x);
#elif defined(__x86_64__) && MMSCOPE_VECTOR_BYTES + 0 == 32
  x = (FloatVec)_mm256_max_ps((__m256)splat<float>(low), (__m256)x);
  return (FloatVec)_mm256_min_ps((__m256)splat<float>(high), (__m256)x);
#elif defined(__x86_64__) && MMSCOPE_VECTOR_BYTES + 0 == 16
  x = (FloatVec)_mm_max_ps((__m128)splat<float>(low), (__m128)x);
  return (FloatVec)_mm_min_ps((__m128)splat<float>(high), (__m128)x);
#else
  x = x < low ? splat<float>(low) : x;
  return x > high ? splat<float>(high) : x;
#endif
}

// 2^x. Float: degree 5 on [-1/2, 1/2], relative error 1e-7, exact at 0 so
// that slow decays do not drift; infinite from 128 on and 0 from -127 down,
// with an error of up to 2^-126 just above it. NaN stays NaN.
MMSCOPE_INLINE FloatVec exp2(FloatVec x) {
#ifdef MMSCOPE_AVX512
  // part is 0 for an infinite x; the first argument, a full mask, is free
  const FloatVec part = (FloatVec)_mm512_maskz_reduce_ps(-1, (__m512)x, 8);
  const FloatVec whole = x - part;
#else
  x = clamp(x, -127.f, 128.f);
  // adding 1.5 * 2^23 leaves the rounded x in the low bits
  const FloatVec shifted = x + 0x1.8p23f;
  const FloatVec part = x - (shifted - 0x1.8p23f);
#endif
  FloatVec p = part * 0x1.5bba14p-10f + 0x1.3cea88p-7f;
  p = p * part + 0x1.c6b752p-5f;
  p = p * part + 0x1.ebf9bcp-3f;
  p = p * part + 0x1.62e42ap-1f;
  p = p * part + 1.f;
#ifdef MMSCOPE_AVX512
  return (FloatVec)_mm512_maskz_scalef_ps(-1, (__m512)p, (__m512)whole);
#else
  // at either bound p is 1, and the sum is infinity or 0
  return bitcast<FloatVec>(bitcast<UintVec>(p) +
                           (bitcast<UintVec>(shifted) << 23));
#endif
}

MMSCOPE_INLINE DoubleVec exp2(DoubleVec x) { return each<std::exp2>(x); }

// log(1 + x) for 0 <= x <= 1: 2 artanh(x / (2 + x)), relative error 1e-7
MMSCOPE_INLINE FloatVec log1p(FloatVec x) {
  const FloatVec s = x / (x + 2.f);
  const FloatVec w = s * s;
  FloatVec p = w * 0.14005995f + 0.14000903f;
  p = p * w + 0.20010763f;
  p = p * w + 0.3333321f;
  p = p * w + 1.f;
  return (s + s) * p;
}

MMSCOPE_INLINE DoubleVec log1p(DoubleVec x) { return each<std::log1p>(x); }

template <typename T>
constexpr T kLog2E = T(1.4426950408889634074);
template <typename T>
constexpr T kLn2 = T(0.69314718055994530942);

template <typename V>
MMSCOPE_INLINE V natural_exp(V x);

// Cody and Waite: rounding x * log2(e) would cost |x| units in the last place
template <>
MMSCOPE_INLINE FloatVec natural_exp(FloatVec x) {
  // 0 below and infinite above, as exp2
  x = clamp(x, -89.f, 89.f);
  const FloatVec y = x * kLog2E<float>;
  const FloatVec rest = (x - y * 0x1.62e4p-1f) - y * 0x1.7f7d1cp-20f;
  return exp2(y) * (rest + 1.f);
}

template <>
MMSCOPE_INLINE DoubleVec natural_exp(DoubleVec x) {
  return each<std::exp>(x);
}

// torch's softplus: x itself beyond 20
template <typename T>
MMSCOPE_INLINE Vec<T> softplus(Vec<T> x) {
  const Vec<T> size = x < T(0) ? -x : x;
  const Vec<T> soft = (x < T(0) ? Vec<T>{} : x) + log1p(natural_exp(-size));
  return x > T(20) ? x : soft;
}

template <typename T>
MMSCOPE_INLINE Vec<T> sigmoid(Vec<T> x) {
  return T(1) / (natural_exp(-x) + T(1));
}

// The larger one; NaN wins, as in torch.
template <typename T>
MMSCOPE_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) {
  const Vec<T> most = b <= a ? a : b;
  return a != a ? a : most;
}
