// The operators mmscope::scan_forward and mmscope::scan_backward on CPU:
// dtypes, memory, threads. The arithmetic is in kernels.h.
#include <Python.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "checks.h"
#include "tensors.h"

namespace mmscope {
namespace {

struct Inputs {
  Tensor u, delta, A, B, C;
  MaybeTensor D, z, bias;

  // Shapes as in scan.h; nothing but the batch may be empty.
  void check(at::IntArrayRef reverse, int64_t chunk) const {
    check_axes("u", u, 4, "(G, B, L, Dim)");
    check_axes("A", A, 3, "(G, Dim, S)");
    const int64_t G = u.size(0), batch = u.size(1), L = u.size(2);
    const int64_t Dim = u.size(3), S = A.size(2);
    TORCH_CHECK(G > 0 && L > 0 && Dim > 0 && S > 0,
                "a scan needs at least one direction, token, channel and "
                "state, got u ", u.sizes(), " and A ", A.sizes());
    check_tensor("delta", delta, u.sizes());
    check_tensor("A", A, {G, Dim, S});
    check_tensor("B", B, {G, batch, L, S});
    check_tensor("C", C, {G, batch, L, S});
    check_tensor("D", D, {G, Dim});
    check_tensor("z", z, {batch, L, Dim});
    check_tensor("delta_bias", bias, {G, Dim});
    check_range("chunk", chunk, kMaxChunk);
    TORCH_CHECK(int64_t(reverse.size()) == G, "reverse must have ", G,
                " entries, got ", reverse.size());
    for (const int64_t way : reverse)
      TORCH_CHECK(way == 0 || way == 1, "reverse must be 0 or 1, got ", way);
  }
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

Rows direction(Rows rows, int64_t g) {
  rows.data = static_cast<char*>(rows.data) + g * rows.g * rows.bytes;
  rows.g = 0;
  return rows;
}

// Direction g alone, neither averaged nor, if that is done later, gated.
template <typename T>
Problem<T> one_direction(Problem<T> p, int64_t g) {
  const auto at = [&](auto*& x, int64_t size) { x = x ? x + g * size : x; };
  at(p.reverse, 1);
  at(p.A, p.Dim * p.S), at(p.D, p.Dim), at(p.bias, p.Dim);
  at(p.Bt, p.B * p.L * p.S), at(p.Ct, p.B * p.L * p.S);
  at(p.starts, p.B * ((p.L + p.chunk - 1) / p.chunk) * p.S * p.Dim);
  p.u = direction(p.u, g), p.delta = direction(p.delta, g);
  if (p.merge) p.z = {};
  p.out = direction(p.merge ? p.sums : p.out, g);
  p.G = 1, p.merge = false;
  return p;
}

// Directions are scanned one after the other, so that they add up in place;
// side by side where nothing is added, or threads would have nothing to do.
// The bits are the same.
template <typename T>
bool side_by_side(const Problem<T>& p, const Tasks& tasks) {
  return p.G > 1 &&
         (!p.merge || tasks.count < 2 * int64_t(at::get_num_threads()));
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(const Inputs& in, bool softplus,
                                           at::IntArrayRef reverse,
                                           bool merge, bool importance,
                                           int64_t chunk, bool save) {
  Call<T> call(in, softplus, reverse, merge, chunk);
  Problem<T>& p = call.p;
  const Tasks tasks(p, p.B * p.Dim < 2048 ? 32 : 64);
  const bool apart = side_by_side(p, tasks);
  const Tensor like = merge ? call.u.select(0, 0) : call.u;
  const Tensor out = writable<T>(like, in.u.scalar_type());
  const bool aside = merge && p.G > 1 && out.scalar_type() == at::kBFloat16;
  const Tensor sums = apart && merge ? call.sums(call.u.sizes())
                      : aside        ? call.sums(like.sizes())
                                     : out;
  const int64_t chunks = (p.L + chunk - 1) / chunk;
  const Tensor starts = save
      ? call.sums({p.G, p.B, chunks, p.S, p.Dim}) : call.sums({0});
  const int64_t times = apart ? p.G : 1, count = tasks.count * times;
  const Tensor peaks = call.sums({importance ? count : 0, p.L});
  p.out = rows(out), p.sums = rows(sums);
  p.starts = save ? pointer<T>(starts) : nullptr;
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    const auto& use = kernels<T>();
    for (int64_t i = begin; i < end; ++i) {
      const Problem<T> part = apart ? one_direction(p, i % times) : p;
      const Task task = tasks.task(i / times);
      T* peak = importance ? pointer<T>(peaks) + i * p.L : nullptr;
      use.forward(part, task, peak, scratch(use.forward_bytes(part, task)));
    }
  });
  if (apart && merge)
    Pieces(p.B, p.L, 32).run([&](int64_t, const Tokens& task) {
      const auto& use = kernels<T>();
      use.merge(p, task, scratch(use.merge_bytes(p)));
    });
  // softplus is monotone, so one softplus after the max is enough
  const Tensor score = importance
      ? at::softplus(peaks.view({p.B, tasks.groups * times, p.L}).amax(1))
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
  const Inputs in{u, delta, A, B, C, D, z, delta_bias};
  in.check(reverse, chunk);
  const auto run =
      u.scalar_type() == at::kDouble ? forward<double> : forward<float>;
  return run(in, delta_softplus, reverse, merge, importance, chunk, save);
}

std::vector<Tensor> scan_backward(
    const Tensor& grad, const Tensor& starts, const Tensor& u,
    const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
    const MaybeTensor& D, const MaybeTensor& z,
    const MaybeTensor& delta_bias, bool delta_softplus,
    at::IntArrayRef reverse, bool merge, int64_t chunk) {
  const Inputs in{u, delta, A, B, C, D, z, delta_bias};
  in.check(reverse, chunk);
  check_tensor("grad", grad, merge ? u.sizes().slice(1) : u.sizes());
  check_real("starts", starts);
  const int64_t chunks = (u.size(2) + chunk - 1) / chunk;
  const int64_t kept[] = {u.size(0), u.size(1), chunks, A.size(2), u.size(3)};
  TORCH_CHECK(starts.sizes() == at::IntArrayRef(kept), "starts must be ",
              at::IntArrayRef(kept), ", got ", starts.sizes(),
              ": the forward pass kept no states for a backward pass; run it "
              "with save=True and the same chunk");
  const auto run =
      u.scalar_type() == at::kDouble ? backward<double> : backward<float>;
  return run(grad, starts, in, delta_softplus, reverse, merge, chunk);
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
