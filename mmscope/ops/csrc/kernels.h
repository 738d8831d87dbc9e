// All kernels for one instruction set: every kernels_*.cpp includes this with
// its own MMSCOPE_ISA and vector size. Vectors hold neighbouring channels: of
// the scan, only dB and dC need sums over lanes. Its tokens go by chunks: a
// chunk is converted to tiles of (tokens, lanes), in scan order and in the
// first-level cache, and scanned a few states at a time, which then stay in
// registers. All is in an anonymous namespace, lest the linker mixes
// instruction sets; so nothing of std is called that could stay a function.

#include "headers.h"

namespace mmscope {
namespace MMSCOPE_ISA {
namespace {

// clang-format off: each needs those before it
#include "vec.h"
#include "tiles.h"
#include "advance.h"
#include "forward.h"
#include "backward.h"
#include "rowwise.h"
#include "merge.h"
#include "conv.h"
#include "norm.h"
// clang-format on

template <typename T>
Kernels<T> kernels() {
  return {forward_bytes<T>, forward<T>,      merge_bytes<T>,    merge<T>,
          backward_bytes<T>, backward<T>,
          conv_bytes<T>,    conv_forward<T>, conv_backward<T>,
          norm_bytes<T>,    norm_forward<T>, norm_backward<T>};
}

}  // namespace
}  // namespace MMSCOPE_ISA
}  // namespace mmscope
