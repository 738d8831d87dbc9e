"""The ground truth itself, against forms that share no code with it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scan_cases import one_direction, scan_inputs

from mmscope.ops import bidirectional_scan, selective_scan


def scalar_scan(u, delta, A, B, C, D, bias):
    """One channel, plain floats: u, delta (L,), A (S,), B, C (L, S)."""
    h, out = [0.0] * len(A), []
    for t, x in enumerate(u):
        dt = math.log1p(math.exp(delta[t] + bias))
        h = [
            math.exp(dt * a) * s + dt * b * x
            for a, b, s in zip(A, B[t], h, strict=True)
        ]
        dot = sum(c * s for c, s in zip(C[t], h, strict=True))
        out.append(dot + D * x)
    return out


def test_recurrence_by_hand():
    out = selective_scan(
        u=torch.tensor([[[1.0, 2.0]]]),
        delta=torch.tensor([[[1.0, 0.5]]]),
        A=torch.tensor([[-1.0]]),
        B=torch.tensor([[[3.0, 4.0]]]),
        C=torch.tensor([[[1.0, 10.0]]]),
        delta_softplus=False,
        backend='reference',
    )
    first = 1 * 3 * 1
    second = math.exp(-0.5) * first + 0.5 * 4 * 2
    torch.testing.assert_close(out, torch.tensor([[[first, 10 * second]]]))


def test_matches_scalar_python():
    inputs = one_direction(scan_inputs(batch=2, length=7, without=('z',)))
    out = selective_scan(**inputs, delta_softplus=True, backend='reference')
    for b in range(2):
        for d in range(5):
            expected = scalar_scan(
                inputs['u'][b, d].tolist(),
                inputs['delta'][b, d].tolist(),
                inputs['A'][d].tolist(),
                inputs['B'][b].mT.tolist(),
                inputs['C'][b].mT.tolist(),
                inputs['D'][d].item(),
                inputs['delta_bias'][d].item(),
            )
            torch.testing.assert_close(out[b, d], out.new_tensor(expected))


def test_is_a_convolution_when_time_invariant():
    length, dim, states = 12, 3, 4
    inputs = one_direction(
        scan_inputs(1, length, dim, states, without=('z', 'D', 'delta_bias'))
    )
    inputs['delta'] = torch.full_like(inputs['delta'], 0.3)
    for name in ('B', 'C'):
        inputs[name] = inputs[name][..., :1].expand(1, states, length)
    out = selective_scan(**inputs, delta_softplus=False, backend='reference')
    lags = torch.arange(length, dtype=torch.float64)
    powers = torch.exp(0.3 * inputs['A'][..., None] * lags)
    weight = inputs['C'][0, :, 0] * inputs['B'][0, :, 0] * 0.3
    kernel = torch.einsum('s,dsl->dl', weight, powers)
    expected = F.conv1d(
        inputs['u'], kernel.flip(1)[:, None], padding=length - 1, groups=dim
    )
    torch.testing.assert_close(out, expected[..., :length])


def test_bidirectional_is_a_scan_and_a_flipped_scan():
    inputs = scan_inputs(without=('z',))
    out = bidirectional_scan(**inputs, merge=False, backend='reference')
    for g in range(2):
        single = one_direction({k: v[g : g + 1] for k, v in inputs.items()})
        tokens = ('u', 'delta', 'B', 'C')
        if g == 1:
            single.update({k: single[k].flip(-1) for k in tokens})
        y = selective_scan(**single, delta_softplus=True, backend='reference')
        y = y.flip(-1) if g == 1 else y
        torch.testing.assert_close(out[g], y.mT)


def test_merge_is_the_gated_mean():
    inputs = scan_inputs()
    z = inputs.pop('z')
    plain = bidirectional_scan(**inputs, merge=False, backend='reference')
    gated = bidirectional_scan(**inputs, z=z, merge=False, backend='reference')
    merged = bidirectional_scan(**inputs, z=z, backend='reference')
    gate = z * torch.sigmoid(z)
    torch.testing.assert_close(gated, plain * gate)
    torch.testing.assert_close(merged, (plain[0] + plain[1]) / 2 * gate)


def test_importance_is_the_strongest_activation_before_the_gate():
    inputs = scan_inputs()
    z = inputs.pop('z')
    y = bidirectional_scan(**inputs, merge=False, backend='reference')
    for merge in (True, False):
        _, score = bidirectional_scan(
            **inputs, z=z, merge=merge, importance=True, backend='reference'
        )
        expected = F.softplus(y).amax(dim=(0, 3)).float()
        torch.testing.assert_close(score, expected)
