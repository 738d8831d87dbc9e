// What the kernels of every instruction set and their caller share.
// No torch here: the kernels compile in seconds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mmscope {

// Token rows (G, B, L, Dim) with Dim contiguous; g is 0 where there is no G.
struct Rows {
  void* data = nullptr;
  int64_t g = 0, b = 0, l = 0;  // strides in elements
  int64_t bytes = 0;            // of an element
  bool bf16 = false;            // else the dtype of the state
};

// One call. T is the dtype of state, weights and sums: float or double.
template <typename T>
struct Problem {
  int64_t G, B, L, Dim, S;
  int64_t chunk;  // tokens between two saved states
  bool softplus, merge;
  const int64_t* reverse;  // (G), 0 or 1

  Rows u, delta, z;           // z is (B, L, Dim) or null
  const T *A, *D, *bias;      // (G, Dim, S), (G, Dim), (G, Dim); contiguous
  const T *Bt, *Ct;           // (G, B, L, S); contiguous
  T* starts;                  // (G, B, chunks, S, Dim): state before a chunk

  // forward: sums is where directions add up, out itself if of type T
  Rows out, sums;

  // backward: likewise for dz; partial sums are one per task
  Rows grad, du, ddelta, dz, dz_sums;
  T *dA, *dD, *dbias;         // (B, G, Dim, S), (B, G, Dim), (B, G, Dim)
};

// Channels [first, last) of image b, all directions, all tokens.
struct Task {
  int64_t b, first, last;
};

// SiLU of a depthwise convolution in either direction: tap k of direction 0
// reads token t - (taps - 1 - k), of direction 1 token t + (taps - 1 - k).
template <typename T>
struct ConvProblem {
  int64_t L, Dim, taps;
  const T *weight, *bias;  // (2, taps, Dim), (2, Dim)
  Rows x, out;             // (B, L, Dim), (2, B, L, Dim)
  Rows grad, dx;           // backward: of out, of x
};

// RMSNorm of rows (1, rows, width).
template <typename T>
struct NormProblem {
  int64_t width;
  double eps;
  const T* weight;  // (width)
  T* scale;         // (rows): one over the root mean square
  Rows x, out;
  Rows grad, dx;  // backward: of out, of x
};

// Tokens [first, last) of image b, all channels.
struct Tokens {
  int64_t b, first, last;
};

template <typename T>
struct Kernels {
  size_t (*forward_bytes)(const Problem<T>&, const Task&);  // of scratch
  // peaks: (L), largest y of the task's channels, or null
  void (*forward)(const Problem<T>&, const Task&, T* peaks, void* scratch);
  size_t (*merge_bytes)(const Problem<T>&);
  void (*merge)(const Problem<T>&, const Tokens&, void* scratch);
  size_t (*backward_bytes)(const Problem<T>&, const Task&);
  // dB, dC: (G, L, S), the sums over the task's channels
  void (*backward)(const Problem<T>&, const Task&, T* dB, T* dC, void*);

  size_t (*conv_bytes)(const ConvProblem<T>&);
  void (*conv_forward)(const ConvProblem<T>&, const Tokens&, void* scratch);
  // sums: (2, taps + 1, Dim), of weight and bias over the tokens
  void (*conv_backward)(const ConvProblem<T>&, const Tokens&, T* sums, void*);

  size_t (*norm_bytes)(const NormProblem<T>&);
  void (*norm_forward)(const NormProblem<T>&, const Tokens&, void* scratch);
  // sums: (width), of weight over the tokens
  void (*norm_backward)(const NormProblem<T>&, const Tokens&, T* sums, void*);
};

struct Isa {
  const char* name;
  Kernels<float> single;
  Kernels<double> twice;
};

// null where this compiler or this machine cannot; baseline always can
const Isa* avx512_kernels();
const Isa* avx2_kernels();
const Isa* baseline_kernels();

}  // namespace mmscope
