"""The Triton scan against the float64 reference: every path, all gradients.

The interpreter takes a millisecond for an operation, so everything is small:
saved states every 8 steps, 2 or 3 chunks where there are any.
"""

from __future__ import annotations

import pytest
import torch

# fmt: off
from triton_cases import DEVICE, MARKS, to_device  # isort: skip
# fmt: on

from scan_cases import (
    TOLERANCE,
    assert_agree,
    assert_matches_reference,
    one_direction,
    scan_inputs,
    weight_like,
    with_grads,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from mmscope.ops import bidirectional_scan, scan_backends, selective_scan
from mmscope.ops.scan.inputs import Inputs, Options
from mmscope.ops.scan.reference import reference_scan
from mmscope.ops.scan.triton import (
    config as triton_scan_config,
)
from mmscope.ops.scan.triton import (
    launch as triton_scan_launch,
)
from mmscope.ops.scan.triton.config import Config
from mmscope.ops.scan.triton.operator import triton_scan

pytestmark = MARKS
DTYPES = [dtype for dtype in TOLERANCE if dtype != torch.float64]
EVERY = 8


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv(triton_scan_config.ENV_TUNE, raising=False)
    monkeypatch.setattr(triton_scan_config, 'EVERY', EVERY)
    monkeypatch.setattr(triton_scan_config, 'MIN_STEPS', EVERY)


@pytest.fixture
def launched(monkeypatch):
    """Steps of a chunk in the launches."""
    steps = []
    make = triton_scan_launch.Call.make.__func__

    def record(cls, inputs, options, config):
        call = make(cls, inputs, options, config)
        steps.append(call.sizes[-1])
        return call

    monkeypatch.setattr(triton_scan_launch.Call, 'make', classmethod(record))
    return steps


@pytest.fixture
def unsplit(monkeypatch):
    monkeypatch.setattr(triton_scan_config, 'wanted_lanes', lambda device: 1)


def inputs_of(*sizes, **options):
    options.setdefault('dtype', torch.float32)
    return to_device(scan_inputs(*sizes, **options))


def check(inputs, scan=None, **options):
    assert_matches_reference('triton', inputs, scan, **options)


def test_it_runs_here():
    assert scan_backends(torch.empty(0, device=DEVICE))['triton'] is None


@pytest.mark.parametrize(
    ('dtype', 'length'),
    [(dtype, 2 * EVERY + 3) for dtype in DTYPES]
    + [(torch.bfloat16, EVERY - 1)]
    + [(torch.float32, n) for n in (1, EVERY - 1, EVERY, EVERY + 1)],
)
def test_unsplit(unsplit, launched, dtype, length):
    check(inputs_of(2, length, dtype=dtype), importance=True)
    assert all(steps >= length for steps in launched)


@pytest.mark.parametrize(
    ('dtype', 'length'),
    [(dtype, 3 * EVERY - 3) for dtype in DTYPES]
    + [(torch.float32, n) for n in (2 * EVERY, 2 * EVERY + 1, 4 * EVERY)],
)
def test_chunked(launched, dtype, length):
    check(inputs_of(1, length, dtype=dtype), importance=True)
    assert set(launched) == {EVERY}


def test_chunks_of_several_stretches(launched, monkeypatch):
    monkeypatch.setattr(triton_scan_config, 'MIN_STEPS', 2 * EVERY)
    check(inputs_of(1, 4 * EVERY - 1), importance=True)
    assert set(launched) == {2 * EVERY}


@pytest.mark.slow
def test_the_shipped_stretches(monkeypatch):
    monkeypatch.undo()
    check(inputs_of(1, 71))


@pytest.mark.parametrize('dim', [1, 32, 37])
def test_channel_blocks(dim):
    check(inputs_of(1, EVERY + 3, dim), importance=True)


@pytest.mark.parametrize('states', [1, 5, 16, 33])
def test_states(states):
    check(inputs_of(1, EVERY + 3, 4, states))


@pytest.mark.parametrize('merge', [True, False])
@pytest.mark.parametrize(
    'without', [(), ('z',), ('D',), ('delta_bias',), ('z', 'D', 'delta_bias')]
)
def test_options(without, merge):
    inputs = inputs_of(1, EVERY + 2, without=without)
    check(inputs, merge=merge, importance=True)


def test_without_importance():
    check(inputs_of(1, EVERY + 2))


@pytest.mark.parametrize('length', [5, 2 * EVERY + 3])
def test_plain_step_sizes(length):
    inputs = inputs_of(1, length)
    inputs['delta'] = inputs['delta'].abs() / 4
    inputs['delta_bias'] = inputs['delta_bias'].abs() / 4
    check(inputs, delta_softplus=False)


def test_step_sizes_of_every_size():
    inputs = inputs_of(1, 24, 8)
    inputs['delta'] = torch.linspace(-30, 30, 2 * 24 * 8).view(2, 1, 24, 8)
    inputs['delta'] = inputs['delta'].to(DEVICE)
    del inputs['delta_bias']
    for name in ('u', 'B', 'C'):
        inputs[name] = torch.ones_like(inputs[name])
    del inputs['z'], inputs['D']
    inputs['A'] = inputs['A'] * 0 - 80
    # with this decay y is S times the step: relative to each, not the largest
    out, exact = (
        bidirectional_scan(
            **{k: v.to(dtype) for k, v in inputs.items()},
            merge=False,
            backend=backend,
        )
        for dtype, backend in (
            (torch.float32, 'triton'),
            (torch.float64, 'reference'),
        )
    )
    torch.testing.assert_close(out.double(), exact, rtol=2e-6, atol=1e-18)


@pytest.mark.parametrize('length', [1, EVERY + 3])
def test_selective(length):
    inputs = one_direction(inputs_of(2, length))
    check(inputs, selective_scan, delta_softplus=True)


def test_selective_with_groups_and_states():
    inputs = one_direction(inputs_of(2, EVERY + 3, 6))
    inputs['B'] = torch.stack([inputs['B'], inputs['C']], dim=1)
    inputs['initial_state'] = inputs['A'] * inputs['u'][..., :1]
    check(
        *(inputs, selective_scan),
        delta_softplus=True,
        return_last_state=True,
    )


@pytest.mark.parametrize('merge', [True, False])
@pytest.mark.parametrize(
    'reverse', [(True,), (True, False), (False, False, True)]
)
def test_any_directions(reverse, merge):
    inputs = inputs_of(1, EVERY + 3)
    pick = [min(g, 1) for g in range(len(reverse))]
    for name in inputs.keys() - {'z'}:
        inputs[name] = inputs[name][pick]

    def with_core(core):
        def scan(**tensors):
            given = Inputs(*(tensors[name] for name in Inputs._fields))
            return core(given, Options(True, reverse, merge, True))

        return scan

    exact = {name: value.double() for name, value in inputs.items()}
    assert_agree(
        with_grads(with_core(triton_scan), inputs),
        with_grads(with_core(reference_scan), exact),
        torch.float32,
    )


def test_strided_inputs():
    inputs = inputs_of(2, 5)
    expected = with_grads(bidirectional_scan, inputs, backend='triton')

    def strided(**tensors):
        far = {
            name: torch.stack([value, -value], dim=-1)[..., 0]
            for name, value in tensors.items()
        }
        # as Vim has them: B and C beside each other, z the half of a row
        both = torch.cat([tensors['B'], tensors['C']], dim=-1)
        far['B'], far['C'] = both.chunk(2, dim=-1)
        far['z'] = torch.cat([far['z'], tensors['z']], dim=-1).chunk(2, -1)[1]
        far['u'] = tensors['u'].transpose(1, 2).contiguous().transpose(1, 2)
        return bidirectional_scan(**far, backend='triton')

    values = with_grads(strided, inputs)
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name])


def test_gradient_of_an_expanded_output():
    inputs = inputs_of(1, EVERY + 3)
    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    bidirectional_scan(**leaves, backend='triton').sum().backward()
    exact = {k: v.double().requires_grad_() for k, v in inputs.items()}
    bidirectional_scan(**exact, backend='reference').sum().backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(
            leaf.grad.double(), exact[name].grad, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize('name', ['u', 'delta_bias'])
def test_gradient_of_one_input_alone(name):
    inputs = inputs_of(1, EVERY + 3)
    everything = with_grads(bidirectional_scan, inputs, backend='triton')
    inputs[name].requires_grad_()
    out = bidirectional_scan(**inputs, backend='triton')
    out.backward(weight_like(out))
    torch.testing.assert_close(
        inputs[name].grad, everything[f'grad of {name}']
    )
    assert all(v.grad is None for k, v in inputs.items() if k != name)


def test_mixed_dtypes_follow_u():
    inputs = inputs_of(1, EVERY + 3)
    for name, dtype in (
        ('u', torch.bfloat16),
        ('delta', torch.float16),
        ('B', torch.float32),
        ('A', torch.float64),
        ('z', torch.bfloat16),
    ):
        inputs[name] = inputs[name].to(dtype)
    exact = {k: v.double() for k, v in inputs.items()}
    actual = with_grads(bidirectional_scan, inputs, backend='triton')
    expected = with_grads(bidirectional_scan, exact, backend='reference')
    assert actual['out'].dtype == torch.bfloat16
    for name, value in actual.items():
        kind = (
            inputs[name.removeprefix('grad of ')].dtype
            if (name.startswith('grad of '))
            else torch.bfloat16
        )
        assert value.dtype == kind, name
        error = (value.double() - expected[name]).abs().max()
        assert error <= 8e-3 * expected[name].abs().max(), name


def test_autocast_changes_nothing():
    inputs = inputs_of(1, EVERY + 3)
    for name in ('u', 'delta', 'B', 'C', 'z'):
        inputs[name] = inputs[name].bfloat16()
    expected = with_grads(bidirectional_scan, inputs, backend='triton')
    with torch.autocast(DEVICE, torch.bfloat16):
        values = with_grads(bidirectional_scan, inputs, backend='triton')
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_importance_of_half_inputs_is_not_rounded(dtype):
    inputs = inputs_of(1, EVERY + 3, dtype=dtype)
    exact = {k: v.double() for k, v in inputs.items()}
    inputs['u'].requires_grad_()
    (_, score), (_, expected) = (
        bidirectional_scan(**given, importance=True, backend=backend)
        for given, backend in ((inputs, 'triton'), (exact, 'reference'))
    )
    assert not score.requires_grad and score.dtype == torch.float32
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)


def test_importance_where_everything_is_negative():
    inputs = inputs_of(1, 5, without=('D',))
    inputs['C'] = inputs['C'].abs()
    inputs['B'] = inputs['B'].abs()
    inputs['u'] = -inputs['u'].abs() - 1
    check(inputs, importance=True)


def test_huge_steps():
    inputs = inputs_of(1, 24, 4, 4)
    inputs['delta'] *= 60
    inputs['A'] *= 20
    check(inputs, importance=True)


@pytest.mark.parametrize('length', [EVERY - 1, 2 * EVERY + 3])
def test_later_tokens_do_not_reach_back(length):
    inputs = inputs_of(1, length, without=('z',))
    before = bidirectional_scan(**inputs, merge=False, backend='triton')
    cut = length - 2
    for name in ('u', 'delta', 'B', 'C'):
        inputs[name][0, :, cut:] += 1
        inputs[name][1, :, :cut] += 1
    after = bidirectional_scan(**inputs, merge=False, backend='triton')
    assert torch.equal(before[0, :, :cut], after[0, :, :cut])
    assert torch.equal(before[1, :, cut:], after[1, :, cut:])


def test_images_do_not_depend_on_their_batch(unsplit):
    inputs = inputs_of(3, EVERY + 3)
    both = bidirectional_scan(**inputs, importance=True, backend='triton')
    for name in ('u', 'delta', 'B', 'C'):
        inputs[name] = inputs[name][:, 1:2]
    inputs['z'] = inputs['z'][1:2]
    alone = bidirectional_scan(**inputs, importance=True, backend='triton')
    assert torch.equal(both[0][1:2], alone[0])
    torch.testing.assert_close(both[1][1:2], alone[1])


def test_same_bits_twice_and_inputs_left_alone():
    inputs = inputs_of(1, EVERY + 3, 37)
    copies = {k: v.clone() for k, v in inputs.items()}
    first, second = (
        with_grads(
            bidirectional_scan, inputs, importance=True, backend='triton'
        )
        for _ in range(2)
    )
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for name, value in inputs.items():
        assert torch.equal(value, copies[name]), name
    with torch.inference_mode():
        out = bidirectional_scan(**inputs, backend='triton')
    assert torch.equal(out, first['out'])


def test_empty_batch():
    inputs = inputs_of(0)
    values = with_grads(
        bidirectional_scan, inputs, importance=True, backend='triton'
    )
    assert values['out'].shape == (0, 9, 5)
    assert values['importance'].shape == (0, 9)
    assert values['grad of u'].shape == (2, 0, 9, 5)
    assert not values['grad of A'].any()


def test_too_many_states_are_refused():
    inputs = inputs_of(1, 1, 1, triton_scan_config.MAX_STATES + 1)
    with pytest.raises(RuntimeError, match="choose backend='torch'"):
        bidirectional_scan(**inputs, backend='triton')


def test_second_derivative_is_refused():
    inputs = inputs_of(1, 3)
    inputs['u'].requires_grad_()
    out = bidirectional_scan(**inputs, backend='triton')
    (grad,) = torch.autograd.grad(
        (out**2).sum(), inputs['u'], create_graph=True
    )
    with pytest.raises(RuntimeError, match='no autograd formula'):
        grad.sum().backward()


def arguments(inputs, merge=True, importance=True, save=True):
    tensors = [inputs.get(name) for name in Inputs._fields]
    return *tensors, True, [0, 1], merge, importance, EVERY, save


@pytest.mark.parametrize(
    ('merge', 'without'), [(True, ()), (False, ('z', 'D', 'delta_bias'))]
)
def test_opcheck(merge, without):
    inputs = inputs_of(1, 3, 4, 2, without=without)
    for value in inputs.values():
        value.requires_grad_()
    forward = torch.ops.mmscope.triton_scan_forward.default
    torch.library.opcheck(forward, arguments(inputs, merge))
    plain = {name: value.detach() for name, value in inputs.items()}
    torch.library.opcheck(
        forward, arguments(plain, merge, importance=False, save=False)
    )
    out, _, starts = forward(*arguments(plain, merge))
    *given, _, every, _ = arguments(plain, merge)
    torch.library.opcheck(
        torch.ops.mmscope.triton_scan_backward.default,
        (out, starts, *given, every),
    )


def test_compiles_without_a_graph_break():
    inputs = inputs_of(2, 5)
    expected = with_grads(
        bidirectional_scan, inputs, importance=True, backend='triton'
    )
    compiled = torch.compile(
        bidirectional_scan, backend='aot_eager', fullgraph=True
    )
    values = with_grads(compiled, inputs, importance=True, backend='triton')
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name


def test_backward_through_a_graph_made_without_gradients():
    """It kept no states: they are computed once more."""
    inputs = inputs_of(1, EVERY + 3, 3, 2, without=('D', 'z', 'delta_bias'))
    names = tuple(inputs)

    def scan(*tensors):
        return bidirectional_scan(
            **dict(zip(names, tensors, strict=True)), backend='triton'
        )

    with torch.no_grad():
        graph = make_fx(scan)(*inputs.values())
    expected, values = (
        with_grads(lambda run=run, **leaves: run(*leaves.values()), inputs)
        for run in (scan, graph)
    )
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name


def test_saves_inputs_and_states_at_intervals_only():
    inputs = inputs_of(2, 2 * EVERY + 1, 4, 3)
    sizes = []
    leaves = [v.requires_grad_() for v in inputs.values()]

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        bidirectional_scan(*leaves, backend='triton')
    starts = 2 * 2 * 3 * 3 * 32  # channels come in multiples of 32
    assert sorted(sizes) == sorted([*(t.numel() for t in leaves), starts])


class LargestOutput(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize('chunks', [17, 1])
def test_no_tensor_of_all_states_is_made(monkeypatch, chunks):
    """Around the launches; a kernel makes no tensors.

    The largest is the backward pass's scratch memory where chunks are short.
    """
    monkeypatch.undo()

    class Idle:
        def __getitem__(self, grid):
            return lambda *args, **settings: None

    for name in ('ends_kernel', 'scan_kernel', 'merge_kernel', 'grad_kernel'):
        monkeypatch.setattr(triton_scan_launch, name, Idle())
    tensors = scan_inputs(1, 1025, 384, 16, dtype=torch.bfloat16)
    inputs = Inputs(*(tensors[name] for name in Inputs._fields))
    options = Options(True, (False, True), True, True)
    config = Config(32, chunks, 2, 1, 255)
    with LargestOutput() as largest:
        out, _, starts = triton_scan_launch.run_forward(
            inputs, options, 32, True, config
        )
        triton_scan_launch.run_backward(
            inputs, options, 32, starts, out, config
        )
    assert largest.numel < inputs.u.numel() * 16 / 3


def test_static_configuration(monkeypatch):
    def config(batch, length, dim, backward=False, states=16):
        u = torch.empty(2, batch, length, dim, device='meta')
        return triton_scan_config.static_config(u, states, backward)

    def chunks(batch, length, dim, backward=False):
        chosen = config(batch, length, dim, backward)
        return -(-length // triton_scan_config.cut(length, chosen.chunks))

    monkeypatch.undo()
    # Vim-Ti at 512², 1024² and the coarse pass, for an H100
    assert chunks(64, 1025, 384) == 1
    assert chunks(1, 1025, 384) == 17
    assert chunks(1, 4097, 384) == 43
    assert chunks(1, 257, 384) == 5
    assert chunks(16, 1025, 384) == 4
    assert chunks(1, 10**6, 32) <= 64
    assert chunks(16, 4097, 384) == chunks(16, 4097, 384, True) == 4
    # what was fastest on an H200
    assert config(64, 1025, 384)[2:] == (2, 1, 168)
    assert config(64, 1025, 384, backward=True)[2:] == (1, 1, 168)
    assert config(1, 9, 5, states=64).num_warps == 4
    for length in (1, 64, 777, 1025):
        assert triton_scan_config.cut(length, 3) % 32 == 0


def test_unsplit_stays_unsplit_at_any_length(monkeypatch):
    """What was tuned at one length holds for all of its class."""
    monkeypatch.undo()
    for length in (1025, 1090, 2048):
        assert triton_scan_config.cut(length, 1) >= length


def test_tuning_is_asked_for_and_done_once(monkeypatch):
    class OnGPU:
        is_cuda, device, dtype = True, torch.device('cpu'), torch.float32

        def __init__(self, length):
            self.shape = (2, 1, length, 32)

    tried = []

    def fastest(configs, run):
        tried.append(configs)
        return configs[-1]

    capturing = False
    monkeypatch.setattr(triton_scan_config, 'fastest', fastest)
    monkeypatch.setattr(triton_scan_config, '_TUNED', {})
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda d: 'chip')
    monkeypatch.setattr(
        torch.cuda, 'is_current_stream_capturing', lambda: capturing
    )

    def choose(length, backward=False):
        u = OnGPU(length)
        return triton_scan_config.choose(u, 16, backward, False, None)

    static = choose(100)
    assert not tried
    monkeypatch.setenv(triton_scan_config.ENV_TUNE, '1')
    capturing = True
    assert choose(100) == static and not tried
    capturing = False
    best = choose(100)
    assert len(tried) == 1 and best == tried[0][-1] != static
    assert tried[0][0] == static and len(set(tried[0])) == len(tried[0])
    assert all(EVERY % config.unroll == 0 for config in tried[0])
    capturing = True
    assert choose(120) == best and len(tried) == 1
    capturing = False
    choose(100, backward=True)
    choose(129)
    assert len(tried) == 3


def test_tuning_goes_on_after_a_configuration_that_fails(monkeypatch, caplog):
    """Triton's errors are no RuntimeErrors."""

    class OutOfResources(Exception):
        pass

    times = {'static': 2.0, 'fast': 1.0, 'slow': 3.0}

    def run(config):
        if config == 'broken':
            raise OutOfResources('shared memory')
        return times[config]

    monkeypatch.setattr(triton_scan_config, 'milliseconds', lambda run: run())
    fastest = triton_scan_config.fastest
    names = ['static', 'broken', 'fast', 'slow']
    assert fastest(names, run) == 'fast'
    assert 'broken' in caplog.text and 'shared memory' in caplog.text
    assert fastest(['broken'], run) == 'broken'


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('states', [12, 16])
def test_rows_as_the_mixer_has_them(dtype, states):
    """B and C beside each other, their rows on four bytes and no more."""
    inputs = inputs_of(1, EVERY + 3, 32, states, dtype=dtype)

    def scan(B, C, **tensors):
        row = torch.cat([B[..., :6], B, C], dim=-1)
        _, B, C = row.split([6, states, states], dim=-1)
        pairs = triton_scan_launch.as_pairs(B.detach(), C.detach())[2]
        assert (pairs is None) == (dtype == torch.float32)
        return bidirectional_scan(B=B, C=C, backend='triton', **tensors)

    exact = {name: value.double() for name, value in inputs.items()}
    expected = with_grads(bidirectional_scan, exact, backend='reference')
    assert_agree(with_grads(scan, inputs), expected, dtype)


@pytest.mark.parametrize('name', ['B', 'C'])
def test_rows_that_cannot_be_read_in_pairs(name):
    dtype = torch.bfloat16
    inputs = inputs_of(1, EVERY + 3, 4, 4, dtype=dtype)
    row = torch.cat([inputs[name]] * 2, dim=-1)[..., :7]
    inputs[name] = row.contiguous()[..., 3:]
    given = inputs['B'], inputs['C']
    assert triton_scan_launch.as_pairs(*given) == (*given, None)
    exact = {k: v.double() for k, v in inputs.items()}
    torch.testing.assert_close(
        bidirectional_scan(**inputs, backend='triton').double(),
        bidirectional_scan(**exact, backend='reference'),
        rtol=0.03,
        atol=0.03,
    )


@pytest.mark.parametrize('token', [3, EVERY + 1])
def test_importance_of_nan_is_nan(token):
    """As the reference has it; a plain maximum would skip it."""
    inputs = inputs_of(1, EVERY + 3, 5)
    inputs['u'][0, :, token, 2] = float('nan')
    _, score = bidirectional_scan(**inputs, importance=True, backend='triton')
    exact = {k: v.double() for k, v in inputs.items()}
    _, expected = bidirectional_scan(
        **exact, importance=True, backend='reference'
    )
    assert torch.equal(score.isnan(), expected.isnan())
    assert score.isnan().any() and not score.isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize('backward', [False, True])
def test_every_configuration_is_right(monkeypatch, backward):
    """What autotuning may pick gives what the static choice gives."""
    u = torch.empty(2, 1, 3 * EVERY - 1, 64, device='meta')
    configs = triton_scan_config.candidates(u, 3, backward, True)
    inputs = inputs_of(1, 3 * EVERY - 1, 64)
    expected = with_grads(bidirectional_scan, inputs, backend='triton')
    static = triton_scan_config.static_config
    several = [c for c in configs if c.unroll > 1]
    for config in several[:: max(1, len(several) // 6)]:
        monkeypatch.setattr(
            triton_scan_config,
            'static_config',
            lambda u, states, back, save, config=config: (
                config if back == backward else static(u, states, back, save)
            ),
        )
        values = with_grads(bidirectional_scan, inputs, backend='triton')
        for name, value in values.items():
            torch.testing.assert_close(
                value, expected[name], rtol=1e-4, atol=1e-5
            )
