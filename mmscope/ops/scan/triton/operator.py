"""The 'triton' scan backend: kernels in operators, and the entry."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..inputs import Inputs, Options
from ..operator import define, fake_forward, register
from . import config as cuts
from .config import MAX_STATES, Config, choose
from .launch import (
    dense_rows,
    empty_states,
    on_device,
    prepare,
    run_backward,
    run_forward,
)


def _forward(
    inputs: Inputs, options: Options, every: int, save: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """See ``scan_operator.define``."""
    inputs = prepare(inputs)

    def run(config: Config) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return run_forward(inputs, options, every, save, config)

    with on_device(inputs.u):
        return run(choose(inputs.u, inputs.A.shape[-1], False, save, run))


def _backward(
    inputs: Inputs, options: Options, every: int, starts: Tensor, grad: Tensor
) -> Inputs:
    """See ``scan_operator.define``."""
    inputs, grad = prepare(inputs), dense_rows(grad)

    def run(config: Config) -> Inputs:
        return run_backward(inputs, options, every, starts, grad, config)

    with on_device(inputs.u):
        return run(choose(inputs.u, inputs.A.shape[-1], True, True, run))


def _fake(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of the right shape, laid out as those of the kernels."""
    u, A = given[0], given[2]
    every, save = given[-2:]
    out, score, starts = fake_forward(*given)
    if save:
        starts = empty_states(u, A.shape[-1], every)
    return out, score, starts


define('triton_scan', _forward, _backward, _fake)
_scan = register('triton_scan')


def triton_scan(
    inputs: Inputs, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Scan by Triton kernels; see ``ScanCore``."""
    if (states := inputs.A.shape[-1]) > MAX_STATES:
        raise RuntimeError(
            f'the triton scan takes up to {MAX_STATES} states, got {states}; '
            "choose backend='torch'"
        )
    return _scan(inputs, options, cuts.EVERY)
