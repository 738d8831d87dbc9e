"""What only the plain torch backend promises: chunks, slices, memory."""

from __future__ import annotations

import pytest
import torch
from scan_cases import assert_matches_reference, scan_inputs, with_grads
from torch.utils._python_dispatch import TorchDispatchMode

from mmscope.ops import bidirectional_scan
from mmscope.ops.scan import torch as torch_scan
from mmscope.ops.scan import torch_chunk
from mmscope.ops.scan.inputs import Inputs, Options
from mmscope.ops.scan.torch_chunk import CHUNK, slice_size


class LargestOutput(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize(
    'length', [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1]
)
def test_chunk_boundaries(length):
    inputs = scan_inputs(2, length, 3, 2)
    assert_matches_reference('torch', inputs, importance=True)


@pytest.mark.parametrize('images', [1, 2])
def test_batch_in_slices(monkeypatch, images):
    inputs = scan_inputs(5, CHUNK + 3, 3, 2)
    chunk_bytes = 2 * CHUNK * 3 * 2 * 8
    budget = {'cpu': images * chunk_bytes}
    monkeypatch.setattr(torch_chunk, 'CHUNK_BYTES', budget)
    assert slice_size(inputs['u'], 2) == images
    for merge in (True, False):
        assert_matches_reference('torch', inputs, merge=merge, importance=True)


def test_slices_of_half_inputs(monkeypatch):
    monkeypatch.setattr(torch_chunk, 'CHUNK_BYTES', {'cpu': 1})
    inputs = scan_inputs(3, CHUNK + 3, 3, 2, dtype=torch.bfloat16)
    assert slice_size(inputs['u'], 2) == 1
    assert_matches_reference('torch', inputs, importance=True)


def test_saves_inputs_and_chunk_starts_only():
    batch, length, dim, states = 2, 4 * CHUNK, 8, 16
    inputs = scan_inputs(batch, length, dim, states)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    leaves = [v.requires_grad_() for v in inputs.values()]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        bidirectional_scan(*leaves, backend='torch')
    starts = 2 * batch * 4 * states * dim
    assert sorted(sizes) == sorted([*(t.numel() for t in leaves), starts])


def test_no_tensor_of_all_states_exists():
    inputs = scan_inputs(6, 6 * CHUNK, 32, 16, dtype=torch.float32)
    all_states = inputs['u'].numel() * 16
    options = Options(True, (False, True), True, True)
    given = Inputs(**inputs)
    # the operator hides its steps from the mode, so both passes by hand
    with LargestOutput() as largest:
        out, _, starts = torch_scan._run_forward(given, options, CHUNK, True)
        torch_scan._run_backward(given, options, CHUNK, starts, out)
    budget = torch_chunk.CHUNK_BYTES['cpu'] // 4
    assert all_states > 2 * budget
    assert largest.numel <= budget * (CHUNK + 1) / CHUNK


def test_second_derivative_is_refused():
    inputs = scan_inputs()
    inputs['u'].requires_grad_()
    out = bidirectional_scan(**inputs, backend='torch')
    (grad,) = torch.autograd.grad(
        (out**2).sum(), inputs['u'], create_graph=True
    )
    with pytest.raises(RuntimeError, match='no autograd formula'):
        grad.sum().backward()


@pytest.mark.parametrize(
    ('merge', 'without'), [(True, ()), (False, ('z', 'D', 'delta_bias'))]
)
def test_opcheck(merge, without):
    inputs = scan_inputs(2, CHUNK + 1, 3, 2, without=without)
    tensors = [inputs.get(name) for name in Inputs._fields]
    plain = [*tensors]
    for tensor in inputs.values():
        tensor.requires_grad_()
    options = True, [0, 1], merge
    forward = torch.ops.mmscope.torch_scan_forward.default
    torch.library.opcheck(forward, (*tensors, *options, True, CHUNK, True))
    plain = [None if t is None else t.detach() for t in tensors]
    torch.library.opcheck(forward, (*plain, *options, False, CHUNK, False))
    out, _, starts = forward(*plain, *options, False, CHUNK, True)
    torch.library.opcheck(
        torch.ops.mmscope.torch_scan_backward.default,
        (out, starts, *plain, *options, CHUNK),
    )


def test_activation_checkpointing():
    inputs = scan_inputs(2, CHUNK + 1)

    def checkpointed(**tensors):
        return torch.utils.checkpoint.checkpoint(
            bidirectional_scan, **tensors, use_reentrant=False
        )

    expected = with_grads(bidirectional_scan, inputs, backend='torch')
    values = with_grads(checkpointed, inputs, backend='torch')
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name
