// What the operators accept, checked before any pointer is taken: a compiled
// or exported program calls them without the checks in Python.
#pragma once

#include <ATen/ATen.h>

#include <optional>

namespace mmscope {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

constexpr int64_t kMaxChunk = 1 << 16;  // tokens; scratch grows with it
constexpr int64_t kMaxTaps = 1 << 10;

// A dense tensor of real numbers in memory that this process can read.
inline void check_real(const char* name, const Tensor& x) {
  TORCH_CHECK(x.device().is_cpu() && x.layout() == at::kStrided, name,
              " must be a dense CPU tensor, got one on ", x.device(),
              " of layout ", x.layout());
  const at::ScalarType type = x.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble ||
                       type == at::kHalf || type == at::kBFloat16,
                   name, " must be float32, float64, float16 or bfloat16, "
                   "got ", type);
}

// The same, and of this shape.
inline void check_tensor(const char* name, const Tensor& x,
                         at::IntArrayRef shape) {
  check_real(name, x);
  TORCH_CHECK(x.sizes() == shape, name, " must be ", shape, ", got ",
              x.sizes());
}

inline void check_tensor(const char* name, const MaybeTensor& x,
                         at::IntArrayRef shape) {
  if (x) check_tensor(name, *x, shape);
}

inline void check_axes(const char* name, const Tensor& x, int64_t axes,
                       const char* shape) {
  check_real(name, x);
  TORCH_CHECK(x.dim() == axes, name, " must be ", shape, ", got ",
              x.sizes());
}

inline void check_range(const char* name, int64_t value, int64_t most) {
  TORCH_CHECK(value > 0 && value <= most, name, " must be in [1, ", most,
              "], got ", value);
}

}  // namespace mmscope
