// 8 floats per vector: AVX2, on x86-64 with GCC or Clang.
#include "headers.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define MMSCOPE_ISA avx2
#define MMSCOPE_VECTOR_BYTES 32

#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx2,fma"))), \
    apply_to = function)
#include "kernels.h"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "kernels.h"
#pragma GCC pop_options
#endif

const mmscope::Isa* mmscope::avx2_kernels() {
  const bool can = __builtin_cpu_supports("avx2") &&
                   __builtin_cpu_supports("fma");
  // even the table is filled by instructions of this set
  if (!can) return nullptr;
  static const Isa isa{"avx2", avx2::kernels<float>(),
                       avx2::kernels<double>()};
  return &isa;
}

#else

const mmscope::Isa* mmscope::avx2_kernels() { return nullptr; }

#endif
