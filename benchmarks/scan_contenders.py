"""The scans that ``scan_bench`` compares: ours and those of others.

All compute both directions of the same numbers. The others scan one
direction; they get every tensor in their own layout and the backward
direction turned round beforehand, and are not charged for that: only for
turning its output back and taking the mean, as Vim does. Two rows bracket
mamba_ssm's kernel: 'selective_scan_cuda' is charged for its launches alone,
and 'vim' also for turning round both halves of the input projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.benchmark.official_vim import KernelScan
from mmscope.ops import bidirectional_scan, scan_backends

BASELINE = 'selective_scan_ref'
Inputs = dict[str, Tensor]
SEQUENCES = ('u', 'delta', 'B', 'C', 'z')
ORDER = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')


@dataclass(frozen=True)
class Contender:
    """One row of the comparison.

    Attributes:
        name: What users choose it by.
        why_not: Why it cannot scan tensors like ``u``, None if it can.
        layout: Change of ``bidirectional_scan``'s arguments to its own.
        load: Imports it and returns the scan, a function of what ``layout``
            gives; its result is the mean of both directions, or the two of
            them.
    """

    name: str
    why_not: Callable[[Tensor], str | None]
    layout: Callable[[Inputs], list[Inputs]]
    load: Callable[[], Callable[[list[Inputs]], Tensor | tuple[Tensor, ...]]]


def contenders() -> dict[str, Contender]:
    """Every contender by name: our backends first."""
    ours = [_ours(name) for name in scan_backends()]
    return {one.name: one for one in [*ours, *OTHERS]}


def _ours(name: str) -> Contender:
    def scan(parts: list[Inputs]) -> Tensor:
        return bidirectional_scan(**parts[0], backend=name)

    return Contender(
        name,
        lambda u: scan_backends(u)[name],
        lambda inputs: [inputs],
        lambda: scan,
    )


def token_major(inputs: Inputs) -> list[Inputs]:
    """One set of arguments for each direction; u is (B, L, Dim)."""
    parts = []
    for direction in (0, 1):
        part = {
            name: tensor if name == 'z' else tensor[direction]
            for name, tensor in inputs.items()
        }
        for name in SEQUENCES:
            turned = part[name].flip(1) if direction else part[name]
            part[name] = turned.clone()
        parts.append(part)
    return parts


def channel_major(inputs: Inputs) -> list[Inputs]:
    """As ``token_major``, but u is (B, Dim, L)."""
    return [
        {
            name: tensor.mT.contiguous() if name in SEQUENCES else tensor
            for name, tensor in part.items()
        }
        for part in token_major(inputs)
    ]


def _both(
    scan: Callable[..., Tensor], axis: int
) -> Callable[[list[Inputs]], Tensor]:
    """Vim's mean of two scans; tokens lie along ``axis``."""

    def scan_both(parts: list[Inputs]) -> Tensor:
        ahead, back = (scan(**part) for part in parts)
        return (ahead + back.flip(axis)) / 2

    return scan_both


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
) -> Tensor:
    """Scan as mamba_ssm's loop of that name does, operation by operation.

    Args:
        u, delta, z: (B, Dim, L).
        A: (Dim, S).
        B, C: (B, S, L).
        D, delta_bias: (Dim,).
    """
    dtype, u, B, C = u.dtype, u.float(), B.float(), C.float()
    dt = F.softplus(delta.float() + delta_bias[:, None].float())
    decay = torch.exp(torch.einsum('bdl,dn->bdln', dt, A))
    driven = torch.einsum('bdl,bnl,bdl->bdln', dt, B, u)
    state = decay.new_zeros(len(u), *A.shape)
    outputs = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + driven[:, :, t]
        outputs.append(torch.einsum('bdn,bn->bd', state, C[:, :, t]))
    out = torch.stack(outputs, dim=2) + u * D[:, None]
    return (out * F.silu(z)).to(dtype)


def _load_mambapy() -> Callable[[list[Inputs]], Tensor]:
    from mambapy.pscan import pscan

    def scan(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        delta_bias: Tensor,
    ) -> Tensor:
        """``MambaBlock.selective_scan`` of mambapy; u is (B, L, Dim)."""
        dt = F.softplus(delta + delta_bias).unsqueeze(-1)
        states = pscan(
            torch.exp(dt * A), dt * B.unsqueeze(2) * u.unsqueeze(-1)
        )
        y = (states @ C.unsqueeze(-1)).squeeze(3) + D * u
        return y * F.silu(z)

    return _both(scan, axis=1)


def mixer_layout(inputs: Inputs) -> list[Inputs]:
    """What the projections of a MambaMixer would have computed."""
    return [
        dict(
            xz=torch.cat([part['u'], part['z']], dim=-1),
            params=torch.cat([part['delta'], part['B'], part['C']], dim=-1),
            A_log=torch.log(-part['A']),
            D=part['D'],
            delta_bias=part['delta_bias'],
        )
        for part in token_major(inputs)
    ]


def _load_transformers() -> Callable[[list[Inputs]], Tensor]:
    from transformers.models.mamba.modeling_mamba import MambaMixer

    def scan(
        xz: Tensor, params: Tensor, A_log: Tensor, D: Tensor, delta_bias
    ) -> Tensor:
        """``MambaMixer.slow_forward``, its layers handing out the inputs."""
        dim, states = A_log.shape
        # first for the convolved input, which u is already, then for the gate
        activations = iter([lambda x: x, F.silu])
        mixer = SimpleNamespace(
            in_proj=lambda x: x,
            conv1d=lambda x: x,
            act=lambda x: next(activations)(x),
            x_proj=lambda x: params,
            dt_proj=lambda x: x + delta_bias,
            out_proj=lambda x: x,
            A_log=A_log,
            D=D,
            time_step_rank=dim,
            intermediate_size=dim,
            ssm_state_size=states,
            use_mambapy=False,
            training=False,
        )
        return MambaMixer.slow_forward(mixer, xz)

    return _both(scan, axis=1)


def kernel_layout(inputs: Inputs) -> list[Inputs]:
    """As ``channel_major``; B and C have one group, (B, 1, S, L)."""
    parts = channel_major(inputs)
    for part in parts:
        part.update(B=part['B'][:, None], C=part['C'][:, None])
    return parts


def kernel_alone(parts: list[Inputs]) -> tuple[Tensor, ...]:
    """mamba_ssm's kernel, once for each direction."""
    return tuple(
        KernelScan.apply(*(part[name] for name in ORDER)) for part in parts
    )


def vim_layout(inputs: Inputs) -> list[Inputs]:
    """As ``kernel_layout``, the gate in the other half of a projection.

    That of both directions is ``xz`` (B, 2 Dim, L), not turned round.
    """
    ahead, back = kernel_layout(inputs)
    gate = ahead.pop('z')
    del back['z']
    return [ahead, back, dict(xz=torch.cat([gate, gate], dim=1))]


def vim_scan(parts: list[Inputs]) -> Tensor:
    """As Vim calls the kernel: turned round, and turned back."""
    ahead, back, xz = *parts[:2], parts[2]['xz']
    gates = (side.chunk(2, dim=1)[1] for side in (xz, xz.flip(-1)))
    ahead, back = kernel_alone(
        [dict(part, z=z) for part, z in zip((ahead, back), gates, strict=True)]
    )
    return (ahead + back.flip(-1)) / 2


def _needs(
    load: Callable[[], object], package: str
) -> Callable[[Tensor], str | None]:
    """Refuse where a package does not import."""

    def why_not(u: Tensor) -> str | None:
        try:
            load()
        except ImportError as error:
            return f'{error}; pip install {package}'
        return None

    return why_not


def _why_no_kernel(u: Tensor) -> str | None:
    return scan_backends(u)['mamba_ssm']


OTHERS = (
    Contender(
        'selective_scan_ref',
        lambda u: None,
        channel_major,
        lambda: _both(selective_scan_ref, axis=2),
    ),
    Contender(
        'selective_scan_cuda',
        _why_no_kernel,
        kernel_layout,
        lambda: kernel_alone,
    ),
    Contender(
        'vim',
        _why_no_kernel,
        vim_layout,
        lambda: vim_scan,
    ),
    Contender(
        'mambapy',
        _needs(_load_mambapy, 'mambapy'),
        token_major,
        _load_mambapy,
    ),
    Contender(
        'transformers',
        _needs(_load_transformers, 'transformers'),
        mixer_layout,
        _load_transformers,
    ),
)
