"""The official sequence of calls computes what our Vision Mamba does."""

import copy
import sys

import pytest
import torch
from torch import Tensor

from mmscope.benchmark import official_vim
from mmscope.benchmark.official_vim import (
    KernelScan,
    OfficialVim,
    StockKernels,
    plain_add_norm,
    plain_conv,
    stock_kernels,
)
from mmscope.models import VisionMambaBackbone
from mmscope.ops import selective_scan

OPTIONS = dict(
    arch=dict(embed_dims=32, num_layers=4, d_state=4),
    img_size=(64, 96),
    out_indices=(1, 3),
)


def reference_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    return selective_scan(
        *(u, delta, A, B[:, 0], C[:, 0], D, z, delta_bias),
        delta_softplus=True,
        backend='reference',
    )


@pytest.fixture
def kernels() -> StockKernels:
    names = dict(scan='reference', conv='F.conv1d', add_norm='mmscope')
    return StockKernels(names, reference_scan, plain_conv, plain_add_norm)


@pytest.fixture
def both(kernels):
    ours = VisionMambaBackbone(**OPTIONS)
    for parameter in ours.parameters():
        # away from their start, where D = 1 and norms are 1
        parameter.data += 0.02 * torch.randn_like(parameter)
    official = OfficialVim(kernels=kernels, **copy.deepcopy(OPTIONS))
    official.load_state_dict(ours.state_dict())
    return ours, official


def test_outputs_and_gradients_are_ours(both) -> None:
    images, results = torch.rand(2, 3, 70, 96), []
    for net in both:
        maps = net(images)
        loss = sum(m.square().mean() for m in maps)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        results.append([*maps, *grads])
    torch.testing.assert_close(*results, rtol=1e-4, atol=2e-5)


def test_without_the_kernel_it_says_what_is_missing() -> None:
    net = OfficialVim(**OPTIONS)
    with pytest.raises(RuntimeError, match='OfficialVim cannot run here: '):
        net(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    'option',
    [dict(rope=True), dict(token_reduction=dict(type='mmscope.TokenMerging'))],
    ids=str,
)
def test_what_the_sequence_does_not_have_is_refused(option) -> None:
    with pytest.raises(ValueError, match='leave out rope and token_reduct'):
        OfficialVim(**OPTIONS, **option)


def test_what_does_not_import_is_replaced_and_named(monkeypatch) -> None:
    def broken(name: str) -> None:
        raise OSError(f'{name}: undefined symbol')

    monkeypatch.setattr(official_vim, 'import_module', broken)
    kernels = stock_kernels()
    assert kernels.conv is plain_conv
    assert kernels.add_norm is plain_add_norm
    assert kernels.names['conv'] == (
        'F.conv1d (causal_conv1d: undefined symbol)'
    )
    assert 'undefined symbol' in kernels.names['add_norm']
    monkeypatch.setattr(official_vim, 'import_module', lambda name: None)
    assert stock_kernels().names['conv'] == 'causal_conv1d'


class Double:
    """Stands in for the compiled module; says nothing about the real one."""

    def fwd(self, u, delta, A, B, C, D, z, delta_bias, softplus):
        assert softplus
        self.given = (u, delta, A, B, C, D, z, delta_bias)
        return torch.full_like(u, 7.0), torch.full((1,), 8.0), u * z

    def bwd(
        self, u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz,
        softplus, recompute,
    ):  # fmt: skip
        assert out[0, 0, 0] == 7 and x == 8
        assert dz is None and softplus and not recompute
        assert dout.stride(-1) == 1
        return [
            torch.full_like(t, number)
            for number, t in enumerate((u, delta, A, B, C, D, delta_bias, z))
        ]


def test_gradients_of_the_kernel_reach_their_inputs(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'selective_scan_cuda', Double())
    sequence, states = (2, 3, 5), (2, 1, 4, 5)
    shapes = (sequence, sequence, (3, 4), states, states, (3,), sequence, (3,))
    inputs = [torch.rand(shape, requires_grad=True) for shape in shapes]
    out = KernelScan.apply(*inputs)
    torch.testing.assert_close(out, inputs[0] * inputs[6])
    out.mT.flatten().sum().backward()
    # the module returns the gradient of the bias before that of the gate
    order = [int(t.grad.flatten()[0]) for t in inputs]
    assert order == [0, 1, 2, 3, 4, 5, 7, 6]


def test_it_is_counted_as_what_it_computes(kernels) -> None:
    net = OfficialVim(kernels=kernels, **OPTIONS).to('meta').eval()
    maps = net(torch.empty(1, 3, 64, 96, device='meta'))
    assert [m.shape for m in maps] == [(1, 32, 4, 6)] * 2


def test_the_reason_is_that_of_the_backend_table() -> None:
    reason = official_vim.why_no_kernels('cpu')
    assert 'selective_scan_cuda' in reason or 'CUDA tensors' in reason
