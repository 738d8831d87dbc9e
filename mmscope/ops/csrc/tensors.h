// What the operators share: the tensors they take and make, memory, sums.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "scan.h"

namespace mmscope {

using at::Tensor;

// The instruction set in use.
const Isa& isa();
std::string list_isas();
std::string set_isa(const std::string& name);

template <typename T>
const Kernels<T>& kernels();
template <>
inline const Kernels<float>& kernels() {
  return isa().single;
}
template <>
inline const Kernels<double>& kernels() {
  return isa().twice;
}

// Tokens as the kernels read them: T or bfloat16, channels contiguous.
template <typename T>
Tensor readable(const Tensor& x) {
  constexpr auto type = c10::CppTypeToScalarType<T>::value;
  const bool fits = x.scalar_type() == type ||
                    (type == at::kFloat && x.scalar_type() == at::kBFloat16);
  const Tensor cast = fits ? x : x.to(type);
  return cast.stride(-1) == 1 || cast.size(-1) == 1 ? cast
                                                     : cast.contiguous();
}

// Weights and B, C: T and contiguous.
template <typename T>
Tensor plain(const Tensor& x) {
  return x.to(c10::CppTypeToScalarType<T>::value).contiguous();
}

// (G, B, L, Dim) or (B, L, Dim)
inline Rows rows(const Tensor& x) {
  Rows r;
  r.data = x.data_ptr();
  if (x.dim() == 4) r.g = x.stride(0);
  r.b = x.stride(-3);
  r.l = x.stride(-2);
  r.bytes = x.element_size();
  r.bf16 = x.scalar_type() == at::kBFloat16;
  return r;
}

// New tokens like x, as the kernels write them.
template <typename T>
Tensor writable(const Tensor& x, at::ScalarType type) {
  constexpr auto own = c10::CppTypeToScalarType<T>::value;
  const bool fits = own == at::kFloat && type == at::kBFloat16;
  return at::empty(x.sizes(), x.options().dtype(fits ? type : own));
}

template <typename T>
T* pointer(const Tensor& x) {
  return x.defined() ? x.data_ptr<T>() : nullptr;
}

// Scratch of this thread, kept: fresh memory costs more than the work.
inline void* scratch(size_t bytes) {
  thread_local std::vector<std::max_align_t> memory;
  memory.resize(std::max(memory.size(), bytes / sizeof(std::max_align_t) + 8));
  const auto start = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<void*>((start + 63) / 64 * 64);
}

// Images times pieces of their tokens. The split depends on the shapes alone,
// so that sums have the same bits for any number of threads.
struct Pieces {
  int64_t size, count, pieces, length;

  Pieces(int64_t batch, int64_t length, int64_t size)
      : size(size), length(length) {
    pieces = (length + size - 1) / size;
    count = batch * pieces;
  }

  template <typename F>
  void run(F work) const {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % pieces * size;
        work(i, Tokens{i / pieces, first, std::min(first + size, length)});
      }
    });
  }
};

// partial (first, groups, rest) to sums (first, rest), in fixed order
template <typename T>
Tensor add_groups(const Tensor& partial) {
  if (partial.size(1) == 1) return partial.squeeze(1);
  const Tensor sums = partial.select(1, 0).clone();
  const int64_t groups = partial.size(1), n = partial.stride(1);
  const T* from = partial.data_ptr<T>();
  T* to = sums.data_ptr<T>();
  at::parallel_for(0, partial.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t g = 1; g < groups; ++g)
        for (int64_t k = 0; k < n; ++k)
          to[i * n + k] += from[(i * groups + g) * n + k];
  });
  return sums;
}

}  // namespace mmscope
