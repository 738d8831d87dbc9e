// 16 floats per vector: AVX-512, on x86-64 with GCC or Clang.
#include "headers.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define MMSCOPE_ISA avx512
#define MMSCOPE_VECTOR_BYTES 64
#define MMSCOPE_AVX512

#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
    apply_to = function)
#include "kernels.h"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#include "kernels.h"
#pragma GCC pop_options
#endif

const mmscope::Isa* mmscope::avx512_kernels() {
  const bool can = __builtin_cpu_supports("avx512f") &&
                   __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx2") &&
                   __builtin_cpu_supports("fma");
  // even the table is filled by instructions of this set
  if (!can) return nullptr;
  static const Isa isa{"avx512", avx512::kernels<float>(),
                       avx512::kernels<double>()};
  return &isa;
}

#else

const mmscope::Isa* mmscope::avx512_kernels() { return nullptr; }

#endif
