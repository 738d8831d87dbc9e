// 4 floats per vector: any machine; one without GCC or Clang.
#define MMSCOPE_ISA baseline
#ifdef __GNUC__
#define MMSCOPE_VECTOR_BYTES 16
#endif
#include "kernels.h"

const mmscope::Isa* mmscope::baseline_kernels() {
  static const Isa isa{"baseline", baseline::kernels<float>(),
                       baseline::kernels<double>()};
  return &isa;
}
