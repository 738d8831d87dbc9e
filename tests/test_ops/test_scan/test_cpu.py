"""What only the C++ backend promises: instruction sets, bits, compilers."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest
import torch
from layer_cases import needs_build
from scan_cases import (
    TOLERANCE,
    assert_matches_reference,
    one_direction,
    scan_inputs,
    weight_like,
    with_grads,
)

from mmscope.ops import bidirectional_scan, scan_backends, selective_scan
from mmscope.ops.scan import cpu as cpu_scan

CHUNK = cpu_scan.CHUNK
ROOT = Path(__file__).parents[3]


def scan(**inputs):
    return bidirectional_scan(**inputs, backend='cpu')


# one lane, a full vector, one more, several tasks; few states, some at a
# time, one more; chunks that are full, and not
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(
    ('batch', 'length', 'dim', 'states'),
    [
        (1, CHUNK, 16, 16),
        (2, CHUNK + 1, 17, 9),
        (1, CHUNK - 1, 1, 1),
        (1, 2 * CHUNK + 5, 67, 7),
        (2, 5, 150, 20),
        (17, 3, 140, 4),
    ],
)
def test_every_instruction_set(isa, dtype, batch, length, dim, states):
    inputs = scan_inputs(batch, length, dim, states, dtype)
    assert_matches_reference('cpu', inputs, importance=True)


@pytest.mark.parametrize('without', [('z',), ('D', 'delta_bias')])
@pytest.mark.parametrize('merge', [True, False])
def test_options_of_every_instruction_set(isa, without, merge):
    inputs = scan_inputs(2, 40, 20, 16, torch.bfloat16, without)
    assert_matches_reference('cpu', inputs, importance=True, merge=merge)


def exponentials(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """softplus(x) and exp(-x), as the scan computes them, (N,) each."""
    ones = torch.ones(1, 1, len(x))
    first = torch.cat([x.view(1, -1, 1), torch.ones(1, len(x), 1)], dim=2)
    soft = selective_scan(
        torch.cat([ones, 0 * ones]).view(2, -1).T[None],
        first,
        -torch.ones(len(x), 1),
        torch.ones(1, 1, 2),
        torch.ones(1, 1, 2),
        delta_softplus=True,
        backend='cpu',
    )
    decay = selective_scan(
        torch.cat([ones, 0 * ones]).view(2, -1).T[None],
        first.flip(2),
        -torch.ones(len(x), 1),
        torch.ones(1, 1, 2),
        torch.ones(1, 1, 2),
        backend='cpu',
    )
    return soft[0, :, 0], decay[0, :, 1]


def test_softplus_is_accurate(isa):
    x = torch.linspace(-30, 30, 20001)
    expected = torch.nn.functional.softplus(x.double())
    error = (exponentials(x)[0].double() / expected - 1).abs()
    assert error.max() < (3e-6 if isa == 'baseline' else 5e-7)


def test_decay_is_accurate(isa):
    x = torch.cat([torch.linspace(0, 60, 20001), torch.logspace(-9, 0, 5001)])
    error = exponentials(x)[1].double() - torch.exp(-x.double())
    assert error.abs().max() < 1.5e-7
    # slow decays must not drift: exact but for the last bit
    slow = x < 1e-3
    assert error[slow].abs().max() < 6.1e-8


def test_extreme_values(isa):
    values = [0.0, -torch.inf, -1e30, -200.0, 1e4, torch.nan]
    soft, decay = exponentials(torch.tensor(values))
    expected = torch.tensor([0.6931472, 0, 0, 0, 1e4, torch.nan])
    torch.testing.assert_close(soft, expected, equal_nan=True)
    assert decay[0] == 1 and decay[4] < 1e-37 and decay[5].isnan()


def test_importance_of_nan_is_nan(isa):
    inputs = scan_inputs(1, 40, 20, 4, torch.float32)
    inputs['u'][0, 0, 39, 3] = torch.nan
    out, score = scan(**inputs, importance=True)
    assert score[0, 39].isnan() and score[0, :39].isfinite().all()
    assert out[0, 39, 3].isnan() and out[0, 39, 4].isfinite()


def test_growing_states_overflow_as_in_torch(isa):
    # positive A: a state grows by up to 2^200 a token
    inputs = scan_inputs(1, 6, 18, 3, torch.float32)
    inputs['A'] = torch.linspace(10, 140, 2 * 18 * 3).view(2, 18, 3)
    inputs['delta'] = torch.ones_like(inputs['delta'])
    inputs['delta_bias'] = torch.zeros(2, 18)
    (out, score), (exact, exact_score) = (
        bidirectional_scan(
            **inputs, importance=True, merge=False, backend=backend
        )
        for backend in ('cpu', 'reference')
    )
    assert exact.isinf().any() and exact.isfinite().any()
    same = {'rtol': 1e-3, 'atol': 1e-3, 'equal_nan': True}
    torch.testing.assert_close(out, exact, **same)
    torch.testing.assert_close(score, exact_score, **same)


@pytest.mark.parametrize('value', [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize('name', ['u', 'delta', 'B', 'C', 'z'])
@pytest.mark.parametrize('dim', [16, 19])
def test_what_is_not_finite_spreads_as_in_the_reference(isa, name, value, dim):
    inputs = scan_inputs(2, 40, dim, 5, torch.float32)
    spot = (1, 35, 3) if name == 'z' else (0, 1, 35, 3)
    inputs[name][spot] = value
    (out, score), (exact, exact_score) = (
        bidirectional_scan(**inputs, importance=True, backend=backend)
        for backend in ('cpu', 'reference')
    )
    same = {'rtol': 1e-4, 'atol': 1e-4, 'equal_nan': True}
    torch.testing.assert_close(out, exact, **same)
    torch.testing.assert_close(score, exact_score, **same)


@needs_build
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(threads, dtype):
    inputs = scan_inputs(3, 70, 150, 16, dtype)
    results = []
    # one with which directions are scanned side by side, too
    for count in (1, 2, 3, 5, 16):
        threads(count)
        results.append(with_grads(scan, inputs, importance=True))
    for values in results[1:]:
        for name, value in values.items():
            assert torch.equal(value, results[0][name]), name


@needs_build
def test_natural_strides_are_read_in_place():
    """The gate is half of a projection; B and C are slices of another."""
    inputs = scan_inputs(2, 40, 20, 4, torch.float32)
    expected = with_grads(scan, inputs, importance=True)
    z, B = inputs['z'], inputs['B']
    inputs['z'] = torch.cat([z, z], dim=2)[..., 20:]
    inputs['B'] = torch.cat([B, B, B], dim=3)[..., 4:8]
    inputs['u'] = inputs['u'].transpose(1, 2).contiguous().transpose(1, 2)
    inputs['delta'] = inputs['delta'].mT.contiguous().mT
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    out, score = scan(**leaves, importance=True)
    out.backward(weight_like(out))
    assert torch.equal(out, expected['out'])
    assert torch.equal(score, expected['importance'])
    for name, leaf in leaves.items():
        assert torch.equal(leaf.grad, expected[f'grad of {name}']), name


@needs_build
def test_expanded_inputs():
    inputs = scan_inputs(2, 40, 20, 4, torch.float32)
    inputs['u'] = inputs['u'][:1].expand(2, -1, -1, -1)
    inputs['z'] = inputs['z'][..., :1].expand(-1, -1, 20)
    copies = {k: v.contiguous() for k, v in inputs.items()}
    assert torch.equal(scan(**inputs), scan(**copies))
    weight = torch.ones(()).expand(2, 40, 20)
    for tensors in (inputs, copies):
        tensors['delta'] = tensors['delta'].detach().requires_grad_()
        scan(**tensors).backward(weight)
    assert torch.equal(inputs['delta'].grad, copies['delta'].grad)


def operator_inputs(dtype=torch.float32, without=()):
    inputs = scan_inputs(2, 40, 20, 4, dtype)
    return [
        None if name in without else value.requires_grad_()
        for name, value in inputs.items()
    ]


@needs_build
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
@pytest.mark.parametrize('without', [(), ('z', 'D', 'delta_bias')])
@pytest.mark.parametrize('merge', [True, False])
def test_opcheck_forward(dtype, without, merge):
    torch.library.opcheck(
        torch.ops.mmscope.scan_forward.default,
        (*operator_inputs(dtype, without), True, [0, 1], merge)
        + (True, CHUNK, True),
    )


@needs_build
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_opcheck_without_saving(dtype):
    inputs = [t.detach() for t in operator_inputs(dtype)]
    torch.library.opcheck(
        torch.ops.mmscope.scan_forward.default,
        (*inputs, True, [0, 1], True, False, CHUNK, False),
    )


@needs_build
@pytest.mark.parametrize('without', [(), ('z', 'D', 'delta_bias')])
def test_opcheck_backward(without):
    inputs = operator_inputs(without=without)
    op, options = torch.ops.mmscope.scan_forward.default, (True, [0, 1], True)
    out, _, starts = op(*inputs, *options, False, CHUNK, True)
    inputs = [None if t is None else t.detach() for t in inputs]
    torch.library.opcheck(
        torch.ops.mmscope.scan_backward.default,
        (torch.randn_like(out), starts.detach(), *inputs, *options, CHUNK),
    )


@needs_build
@pytest.mark.parametrize('compiler', ['aot_eager', 'inductor'])
@pytest.mark.parametrize('backend', ['auto', 'cpu'])
def test_compiles_without_graph_breaks(compiler, backend):
    def scan(**inputs):
        return bidirectional_scan(**inputs, importance=True, backend=backend)

    torch.compiler.reset()
    compiled = torch.compile(scan, fullgraph=True, backend=compiler)
    for length in (40, 41, 55):
        inputs = scan_inputs(2, length, 20, 4, torch.float32)
        expected, values = (
            with_grads(scan, inputs),
            with_grads(compiled, inputs),
        )
        for name, value in values.items():
            assert torch.equal(value, expected[name]), name


@needs_build
def test_compiles_under_autocast():
    inputs = scan_inputs(2, 40, 20, 4, torch.float32)
    inputs['u'] = inputs['u'].bfloat16()

    def scan(**inputs):
        with torch.autocast('cpu', torch.bfloat16):
            return bidirectional_scan(**inputs, backend='cpu')

    torch.compiler.reset()
    compiled = torch.compile(scan, fullgraph=True, backend='aot_eager')
    expected, values = with_grads(scan, inputs), with_grads(compiled, inputs)
    for name, value in values.items():
        assert value.dtype == expected[name].dtype
        assert torch.equal(value, expected[name]), name


class Scan(torch.nn.Module):
    def forward(self, u, delta, A, B, C):
        return bidirectional_scan(u, delta, A, B, C, importance=True)


@needs_build
def test_exports_as_one_operator():
    inputs = scan_inputs(2, 40, 20, 4, without=('D', 'z', 'delta_bias'))
    program = torch.export.export(Scan(), tuple(inputs.values()))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.mmscope.scan_forward.default) == 1
    for exported, eager in zip(
        program.module()(*inputs.values()),
        Scan()(*inputs.values()),
        strict=True,
    ):
        assert torch.equal(exported, eager)


@needs_build
def test_second_derivative_is_refused():
    inputs = scan_inputs()
    inputs['u'].requires_grad_()
    (grad,) = torch.autograd.grad(
        (scan(**inputs) ** 2).sum(), inputs['u'], create_graph=True
    )
    with pytest.raises(RuntimeError, match='scan_backward is not implement'):
        grad.sum().backward()


@needs_build
def test_saves_inputs_and_chunk_starts_only():
    batch, length, dim, states = 2, 4 * CHUNK, 8, 16
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    leaves = {
        k: v.requires_grad_()
        for k, v in scan_inputs(batch, length, dim, states).items()
    }
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        scan(**leaves)
    starts = 2 * batch * 4 * states * dim
    expected = [*(t.numel() for t in leaves.values()), starts]
    assert sorted(sizes) == sorted(expected)
    with torch.no_grad():
        *_, starts = torch.ops.mmscope.scan_forward.default(
            *leaves.values(), True, [0, 1], True, False, CHUNK, False
        )
    assert starts.numel() == 0


PEAK = """
import resource, torch
from mmscope.ops import bidirectional_scan
def run(length):
    tokens, params = (2, 1, length, 256), (2, 1, length, 16)
    inputs = [torch.zeros(tokens), torch.zeros(tokens),
              -torch.ones(2, 256, 16), torch.ones(params), torch.ones(params)]
    leaves = [t.requires_grad_() for t in inputs]
    bidirectional_scan(*leaves, backend='cpu').sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = run(64)
tokens = 2 * 16384 * 256 * 4
print((run(16384) - before) / tokens)
"""


@needs_build
@pytest.mark.skipif(sys.platform == 'win32', reason='resource is of Unix')
def test_no_tensor_of_all_states_exists():
    """The states alone would be 16 times as large as u."""
    done = subprocess.run(
        [sys.executable, '-c', PEAK],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) < 9


@needs_build
def test_second_image_of_a_wide_batch():
    """Tasks are of other widths in a large batch."""
    inputs = scan_inputs(20, 33, 150, 3, torch.float32)
    both = scan(**inputs)
    for name in ('u', 'delta', 'B', 'C'):
        inputs[name] = inputs[name][:, 1:2]
    inputs['z'] = inputs['z'][1:2]
    assert torch.equal(scan(**inputs), both[1:2])


@needs_build
def test_one_direction_reads_transposed_inputs():
    inputs = one_direction(scan_inputs(2, 40, 20, 4, torch.float32))
    assert_matches_reference(
        'cpu', inputs, selective_scan, delta_softplus=True
    )


@needs_build
def test_wrong_operator_options_are_named():
    inputs = [t.detach() for t in operator_inputs()]
    op = torch.ops.mmscope.scan_forward.default
    with pytest.raises(RuntimeError, match='reverse must have 2 entries, got'):
        op(*inputs, True, [0], True, False, CHUNK, False)
    for chunk in (0, -1, 1 << 40):
        with pytest.raises(RuntimeError, match=f'chunk must be .*{chunk}'):
            op(*inputs, True, [0, 1], True, False, chunk, False)
    with pytest.raises(RuntimeError, match='reverse must be 0 or 1, got 2'):
        op(*inputs, True, [0, 2], True, False, CHUNK, False)
    with pytest.raises(RuntimeError, match='instruction set must be one of'):
        torch.ops.mmscope.scan_set_isa('mmx')


def test_other_devices_are_refused():
    reason = scan_backends(torch.empty(0, device='meta'))['cpu']
    assert reason == 'it scans CPU tensors only, and u is on meta'


def test_without_the_build(monkeypatch, caplog):
    monkeypatch.setattr(cpu_scan, 'NOT_BUILT', 'not built: no compiler')
    monkeypatch.delenv('MMSCOPE_SCAN_BACKEND', raising=False)
    cpu_scan._say_once.cache_clear()
    inputs = scan_inputs()
    with caplog.at_level(logging.WARNING, 'mmscope'):
        out = bidirectional_scan(**inputs)
        bidirectional_scan(**inputs)
    assert torch.equal(out, bidirectional_scan(**inputs, backend='torch'))
    messages = [r.message for r in caplog.records]
    assert len(messages) == 1 and 'not built: no compiler' in messages[0]
    assert scan_backends()['cpu'] == 'not built: no compiler'
    with pytest.raises(RuntimeError, match="'cpu' cannot run here: not built"):
        scan(**inputs)


def test_build_can_be_switched_off(monkeypatch):
    path = ROOT / 'mmscope/ops/extension.py'
    monkeypatch.setenv('MMSCOPE_NO_EXT', '1')
    with pytest.warns(UserWarning, match='not built: MMSCOPE_NO_EXT is set'):
        assert run_path(str(path))['options']() == {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('MMSCOPE_NO_EXT', '0')
    (extension,) = run_path(str(path))['options']()['ext_modules']
    assert len(extension.sources) == 6
