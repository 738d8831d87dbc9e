// The operators mmscope::conv_forward, conv_backward, rms_norm_forward and
// rms_norm_backward on CPU. The arithmetic is in kernels.h.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <tuple>

#include "checks.h"
#include "tensors.h"

namespace mmscope {
namespace {

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// Large enough for few sums, small enough for some 32 pieces in all.
int64_t piece_for_sums(int64_t batch, int64_t length) {
  return std::max<int64_t>(32, (batch * length + 31) / 32);
}

// ----------------------------------------------------------- convolution ----

template <typename T>
struct ConvCall {
  ConvProblem<T> p{};
  Tensor x, weight, bias;

  ConvCall(const Tensor& x, const Tensor& weight, const Tensor& bias)
      : x(readable<T>(x)),
        weight(plain<T>(weight.transpose(1, 2))),
        bias(plain<T>(bias)) {
    p.L = x.size(1), p.Dim = x.size(2), p.taps = weight.size(2);
    p.weight = pointer<T>(this->weight), p.bias = pointer<T>(this->bias);
    p.x = rows(this->x);
  }
};

template <typename T>
Tensor conv_forward(const Tensor& x, const Tensor& weight,
                    const Tensor& bias) {
  ConvCall<T> call(x, weight, bias);
  const Tensor like = call.x.unsqueeze(0).expand({2, -1, -1, -1});
  const Tensor out = writable<T>(like, x.scalar_type());
  call.p.out = rows(out);
  Pieces(x.size(0), x.size(1), 32).run([&](int64_t, const Tokens& task) {
    const auto& use = kernels<T>();
    use.conv_forward(call.p, task, scratch(use.conv_bytes(call.p)));
  });
  return out.to(x.scalar_type());
}

template <typename T>
Gradients conv_backward(const Tensor& grad_out, const Tensor& x,
                        const Tensor& weight, const Tensor& bias) {
  ConvCall<T> call(x, weight, bias);
  const Tensor grad = readable<T>(grad_out);
  const Tensor dx = writable<T>(call.x, x.scalar_type());
  call.p.grad = rows(grad), call.p.dx = rows(dx);
  const int64_t batch = x.size(0), length = x.size(1), taps = call.p.taps;
  const Pieces pieces(batch, length, piece_for_sums(batch, length));
  const int64_t each = 2 * (taps + 1) * call.p.Dim;
  const Tensor sums =
      at::empty({1, pieces.count, each}, call.bias.options());
  pieces.run([&](int64_t i, const Tokens& task) {
    const auto& use = kernels<T>();
    use.conv_backward(call.p, task, pointer<T>(sums) + i * each,
                      scratch(use.conv_bytes(call.p)));
  });
  const Tensor sum = (pieces.count ? add_groups<T>(sums) : sums.sum(1))
                         .view({2, taps + 1, call.p.Dim});
  return {dx.to(x.scalar_type()),
          sum.narrow(1, 0, taps)
              .transpose(1, 2)
              .contiguous()
              .to(weight.scalar_type()),
          sum.select(1, taps).contiguous().to(bias.scalar_type())};
}

void check_conv(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_axes("x", x, 3, "(B, L, D)");
  check_axes("weight", weight, 3, "(2, D, K)");
  TORCH_CHECK(x.size(2) > 0, "x must have channels, got ", x.sizes());
  check_range("the number of taps", weight.size(2), kMaxTaps);
  check_tensor("weight", weight, {2, x.size(2), weight.size(2)});
  check_tensor("bias", bias, {2, x.size(2)});
}

Tensor conv_forward_cpu(const Tensor& x, const Tensor& weight,
                        const Tensor& bias) {
  check_conv(x, weight, bias);
  const auto run = x.scalar_type() == at::kDouble ? conv_forward<double>
                                                  : conv_forward<float>;
  return run(x, weight, bias);
}

Gradients conv_backward_cpu(const Tensor& grad, const Tensor& x,
                            const Tensor& weight, const Tensor& bias) {
  check_conv(x, weight, bias);
  check_tensor("grad", grad, {2, x.size(0), x.size(1), x.size(2)});
  const auto run = x.scalar_type() == at::kDouble ? conv_backward<double>
                                                  : conv_backward<float>;
  return run(grad, x, weight, bias);
}

// ------------------------------------------------------------------ norm ----

// (..., width) to (1, rows, width)
Tensor as_rows(const Tensor& x) {
  return x.reshape({1, x.numel() / x.size(-1), x.size(-1)});
}

template <typename T>
std::tuple<Tensor, Tensor> norm_forward(const Tensor& x, const Tensor& weight,
                                        double eps) {
  const Tensor from = readable<T>(as_rows(x)), w = plain<T>(weight);
  const Tensor out = writable<T>(from, weight.scalar_type());
  const Tensor scale = at::empty(x.sizes().slice(0, x.dim() - 1), w.options());
  NormProblem<T> p{x.size(-1), eps, pointer<T>(w), pointer<T>(scale),
                   rows(from), rows(out), {}, {}};
  Pieces(1, from.size(1), 64).run([&](int64_t, const Tokens& task) {
    const auto& use = kernels<T>();
    use.norm_forward(p, task, scratch(use.norm_bytes(p)));
  });
  return {out.view(x.sizes()).to(weight.scalar_type()), scale};
}

template <typename T>
std::tuple<Tensor, Tensor> norm_backward(const Tensor& grad, const Tensor& x,
                                         const Tensor& scale,
                                         const Tensor& weight) {
  const Tensor from = plain<T>(as_rows(x)), w = plain<T>(weight);
  const Tensor back = readable<T>(as_rows(grad));
  const Tensor one_over = plain<T>(scale), dx = at::empty_like(from);
  NormProblem<T> p{x.size(-1),  0,  pointer<T>(w), pointer<T>(one_over),
                   rows(from), {}, rows(back),    rows(dx)};
  const int64_t length = from.size(1);
  const Pieces pieces(1, length, piece_for_sums(1, length));
  const Tensor sums = at::empty({1, pieces.count, p.width}, w.options());
  pieces.run([&](int64_t i, const Tokens& task) {
    const auto& use = kernels<T>();
    use.norm_backward(p, task, pointer<T>(sums) + i * p.width,
                      scratch(use.norm_bytes(p)));
  });
  const Tensor sum = pieces.count ? add_groups<T>(sums) : sums.sum(1);
  return {dx.view(x.sizes()).to(x.scalar_type()),
          sum.view(weight.sizes()).to(weight.scalar_type())};
}

void check_norm(const Tensor& x, const Tensor& weight) {
  check_real("x", x);
  check_axes("weight", weight, 1, "(C)");
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == weight.size(0) && x.size(-1) > 0,
              "x must be (..., C) and weight (C), got ", x.sizes(), " and ",
              weight.sizes());
}

std::tuple<Tensor, Tensor> norm_forward_cpu(const Tensor& x,
                                            const Tensor& weight,
                                            double eps) {
  check_norm(x, weight);
  TORCH_CHECK(eps >= 0, "eps must not be negative, got ", eps);
  const auto run = x.scalar_type() == at::kDouble ? norm_forward<double>
                                                  : norm_forward<float>;
  return run(x, weight, eps);
}

std::tuple<Tensor, Tensor> norm_backward_cpu(const Tensor& grad,
                                             const Tensor& x,
                                             const Tensor& scale,
                                             const Tensor& weight) {
  check_norm(x, weight);
  check_tensor("grad", grad, x.sizes());
  check_tensor("scale", scale, x.sizes().slice(0, x.dim() - 1));
  const auto run = x.scalar_type() == at::kDouble ? norm_backward<double>
                                                  : norm_backward<float>;
  return run(grad, x, scale, weight);
}

}  // namespace
}  // namespace mmscope

TORCH_LIBRARY_FRAGMENT(mmscope, m) {
  m.set_python_module("mmscope.ops.conv.entry");
  m.def("conv_forward(Tensor x, Tensor weight, Tensor bias) -> Tensor");
  m.def("conv_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias) "
        "-> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_FRAGMENT(mmscope, m) {
  m.set_python_module("mmscope.ops.norm.entry");
  // (out, one over the root mean square)
  m.def("rms_norm_forward(Tensor x, Tensor weight, float eps) "
        "-> (Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor grad, Tensor x, Tensor scale, "
        "Tensor weight) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(mmscope, CPU, m) {
  m.impl("conv_forward", mmscope::conv_forward_cpu);
  m.impl("conv_backward", mmscope::conv_backward_cpu);
  m.impl("rms_norm_forward", mmscope::norm_forward_cpu);
  m.impl("rms_norm_backward", mmscope::norm_backward_cpu);
}

TORCH_LIBRARY_IMPL(mmscope, Autograd, m) {
  using torch::autograd::autogradNotImplementedFallback;
  m.impl("conv_backward", autogradNotImplementedFallback());
  m.impl("rms_norm_backward", autogradNotImplementedFallback());
}
