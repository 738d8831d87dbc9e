// The operators mmscope::scan_forward and mmscope::scan_backward on CPU:
// dtypes, memory, threads. The arithmetic is in kernels.h.
#include <Python.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "tensors.h"

namespace mmscope {
namespace {

using MaybeTensor = std::optional<Tensor>;

struct Inputs {
  Tensor u, delta, A, B, C;
  MaybeTensor D, z, bias;
};

// The tensors of a call, converted, and the problem that points into them.
template <typename T>
struct Call {
  Problem<T> p{};
  Tensor u, delta, A, B, C, D, z, bias;

  Call(const Inputs& in, bool softplus, at::IntArrayRef reverse, bool merge,
       int64_t chunk)
      : u(readable<T>(in.u)),
        delta(readable<T>(in.delta)),
        A(plain<T>(in.A)),
        B(plain<T>(in.B)),
        C(plain<T>(in.C)) {
    TORCH_CHECK(chunk > 0, "chunk must be positive, got ", chunk);
    TORCH_CHECK(int64_t(reverse.size()) == u.size(0), "reverse must have ",
                u.size(0), " entries, got ", reverse.size());
    if (in.D) D = plain<T>(*in.D);
    if (in.z) z = readable<T>(*in.z);
    if (in.bias) bias = plain<T>(*in.bias);
    p.G = u.size(0), p.B = u.size(1), p.L = u.size(2), p.Dim = u.size(3);
    p.S = A.size(2);
    p.chunk = chunk;
    p.softplus = softplus, p.merge = merge;
    p.reverse = reverse.data();
    p.u = rows(u), p.delta = rows(delta);
    if (z.defined()) p.z = rows(z);
    p.A = pointer<T>(A), p.D = pointer<T>(D), p.bias = pointer<T>(bias);
    p.Bt = pointer<T>(B), p.Ct = pointer<T>(C);
  }

  Tensor sums(at::IntArrayRef sizes) const {
    return at::empty(sizes, A.options());
  }
};

// ----------------------------------------------------------------- tasks ----

// Images times groups of channels. The split depends on the shapes alone, so
// that sums have the same bits for any number of threads.
struct Tasks {
  int64_t width, groups, count;
  int64_t dim;

  template <typename T>
  Tasks(const Problem<T>& p, int64_t width) : width(width), dim(p.Dim) {
    groups = (dim + width - 1) / width;
    count = p.B * groups;
  }

  Task task(int64_t i) const {
    const int64_t first = i % groups * width;
    return {i / groups, first, std::min(first + width, dim)};
  }
};

// --------------------------------------------------------------- forward ----

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(const Inputs& in, bool softplus,
                                           at::IntArrayRef reverse,
                                           bool merge, bool importance,
                                           int64_t chunk, bool save) {
  Call<T> call(in, softplus, reverse, merge, chunk);
  Problem<T>& p = call.p;
  const Tasks tasks(p, p.B * p.Dim < 2048 ? 32 : 64);
  const Tensor like = merge ? call.u.select(0, 0) : call.u;
  const Tensor out = writable<T>(like, in.u.scalar_type());
  const bool aside = merge && p.G > 1 && out.scalar_type() == at::kBFloat16;
  const Tensor sums = aside ? call.sums(like.sizes()) : out;
  const int64_t chunks = (p.L + chunk - 1) / chunk;
  const Tensor starts = save
      ? call.sums({p.G, p.B, chunks, p.S, p.Dim}) : call.sums({0});
  const Tensor peaks = call.sums({importance ? tasks.count : 0, p.L});
  p.out = rows(out), p.sums = rows(sums);
  p.starts = save ? pointer<T>(starts) : nullptr;
  at::parallel_for(0, tasks.count, 1, [&](int64_t begin, int64_t end) {
    const auto& use = kernels<T>();
    for (int64_t i = begin; i < end; ++i) {
      const Task task = tasks.task(i);
      T* peak = importance ? pointer<T>(peaks) + i * p.L : nullptr;
      use.forward(p, task, peak, scratch(use.forward_bytes(p, task)));
    }
  });
  // softplus is monotone, so one softplus after the max is enough
  const Tensor score = importance
      ? at::softplus(peaks.view({p.B, tasks.groups, p.L}).amax(1))
            .to(at::kFloat)
      : at::empty({0}, call.A.options().dtype(at::kFloat));
  return {out.to(in.u.scalar_type()), score, starts};
}

// -------------------------------------------------------------- backward ----

template <typename T>
std::vector<Tensor> backward(const Tensor& grad_out, const Tensor& starts,
                             const Inputs& in, bool softplus,
                             at::IntArrayRef reverse, bool merge,
                             int64_t chunk) {
  Call<T> call(in, softplus, reverse, merge, chunk);
  Problem<T>& p = call.p;
  // enough tasks for the cores; then wide, for fewer partial sums
  const Tasks tasks(p, p.B * p.Dim < 2048 ? 64 : 128);
  const Tensor grad = readable<T>(grad_out);
  const Tensor kept = plain<T>(starts);
  const Tensor du = writable<T>(call.u, in.u.scalar_type());
  const Tensor ddelta = writable<T>(call.delta, in.delta.scalar_type());
  Tensor dz, dz_sums;
  if (in.z) {
    dz = writable<T>(call.z, in.z->scalar_type());
    const bool aside = p.G > 1 && dz.scalar_type() == at::kBFloat16;
    dz_sums = aside ? call.sums(dz.sizes()) : dz;
    p.dz = rows(dz), p.dz_sums = rows(dz_sums);
  }
  const Tensor dA = call.sums({1, p.B, p.G * p.Dim * p.S});
  const Tensor dD = call.sums({1, p.B, p.G * p.Dim});
  const Tensor dbias = call.sums({1, p.B, p.G * p.Dim});
  const Tensor dB = call.sums({p.B, tasks.groups, p.G * p.L * p.S});
  const Tensor dC = at::empty_like(dB);
  p.grad = rows(grad), p.du = rows(du), p.ddelta = rows(ddelta);
  p.starts = pointer<T>(kept);
  p.dA = pointer<T>(dA), p.dD = pointer<T>(dD), p.dbias = pointer<T>(dbias);
  at::parallel_for(0, tasks.count, 1, [&](int64_t begin, int64_t end) {
    const auto& use = kernels<T>();
    for (int64_t i = begin; i < end; ++i) {
      const Task task = tasks.task(i);
      const int64_t at = i * p.G * p.L * p.S;
      use.backward(p, task, pointer<T>(dB) + at, pointer<T>(dC) + at,
                   scratch(use.backward_bytes(p, task)));
    }
  });
  const auto weight = [&](const Tensor& partial, const Tensor& w) {
    const Tensor sum = p.B ? add_groups<T>(partial)
                           : at::zeros(w.sizes(), partial.options());
    return sum.view(w.sizes()).to(w.scalar_type());
  };
  const auto token = [&](const Tensor& partial, const Tensor& x) {
    const Tensor sum = add_groups<T>(partial).view({p.B, p.G, p.L, p.S});
    return sum.transpose(0, 1).contiguous().to(x.scalar_type());
  };
  const auto none = [&] { return at::empty({0}, in.u.options()); };
  return {du.to(in.u.scalar_type()),
          ddelta.to(in.delta.scalar_type()),
          weight(dA, in.A),
          token(dB, in.B),
          token(dC, in.C),
          in.D ? weight(dD, *in.D) : none(),
          in.z ? dz.to(in.z->scalar_type()) : none(),
          in.bias ? weight(dbias, *in.bias) : none()};
}

// ------------------------------------------------------------- operators ----

std::tuple<Tensor, Tensor, Tensor> scan_forward(
    const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
    const Tensor& C, const MaybeTensor& D, const MaybeTensor& z,
    const MaybeTensor& delta_bias, bool delta_softplus,
    at::IntArrayRef reverse, bool merge, bool importance, int64_t chunk,
    bool save) {
  const auto run =
      u.scalar_type() == at::kDouble ? forward<double> : forward<float>;
  return run({u, delta, A, B, C, D, z, delta_bias}, delta_softplus, reverse,
             merge, importance, chunk, save);
}

std::vector<Tensor> scan_backward(
    const Tensor& grad, const Tensor& starts, const Tensor& u,
    const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
    const MaybeTensor& D, const MaybeTensor& z,
    const MaybeTensor& delta_bias, bool delta_softplus,
    at::IntArrayRef reverse, bool merge, int64_t chunk) {
  const auto run =
      u.scalar_type() == at::kDouble ? backward<double> : backward<float>;
  return run(grad, starts, {u, delta, A, B, C, D, z, delta_bias},
             delta_softplus, reverse, merge, chunk);
}

}  // namespace
}  // namespace mmscope

// The inputs and options of a scan, see ScanCore; `reverse` holds 0 or 1.
#define MMSCOPE_INPUTS                                              \
  "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, " \
  "Tensor? z, Tensor? delta_bias, bool delta_softplus, int[] reverse, " \
  "bool merge, "

TORCH_LIBRARY(mmscope, m) {
  m.set_python_module("mmscope.ops.scan.cpu");
  // (out, importance, starts): importance is empty unless asked for, starts,
  // the state before each chunk, unless save
  m.def("scan_forward(" MMSCOPE_INPUTS
        "bool importance, int chunk, bool save) -> (Tensor, Tensor, Tensor)");
  // the gradients of the inputs in their order, empty for what is None
  m.def("scan_backward(Tensor grad, Tensor starts, " MMSCOPE_INPUTS
        "int chunk) -> Tensor[]");
  m.def("scan_list_isas() -> str", mmscope::list_isas);
  m.def("scan_set_isa(str name) -> str", mmscope::set_isa);
}

TORCH_LIBRARY_IMPL(mmscope, CPU, m) {
  m.impl("scan_forward", mmscope::scan_forward);
  m.impl("scan_backward", mmscope::scan_backward);
}

TORCH_LIBRARY_IMPL(mmscope, Autograd, m) {
  m.impl("scan_backward", torch::autograd::autogradNotImplementedFallback());
}

// `import mmscope.ops._C` loads the operators; the module itself is empty.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1};
  return PyModule_Create(&module);
}
