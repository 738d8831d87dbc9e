"""DyVM: training sees what inference does, directions run on sub-batches."""

import pytest
import torch
from torch import Tensor

from mmscope.models import VisionMambaBackbone
from mmscope.models.layers import BiMambaMixer, at_least_float32
from mmscope.models.token_reduction import collect_sequences
from mmscope.models.token_reduction.arranged import arranged_order
from mmscope.models.token_reduction.directions import (
    gumbel_sigmoid,
    mix_by_direction,
)
from mmscope.models.token_reduction.dynamic import DynamicRecord, DynamicTokens
from mmscope.ops import bidirectional_conv, bidirectional_scan
from mmscope.utils.flops import model_flops

ARCH = dict(embed_dims=32, num_layers=5, d_state=4)
# 5 x 3 cells
SIZE = (80, 48)


def make(out_type: str = 'raw', **options) -> VisionMambaBackbone:
    torch.manual_seed(0)
    reduction = dict(
        dict(type='mmscope.DynamicTokens', blocks=(2, 4), keep_ratio=0.6),
        **options,
    )
    return VisionMambaBackbone(
        ARCH,
        img_size=SIZE,
        out_indices=(1, 3, 4),
        out_type=out_type,
        token_reduction=reduction,
    ).eval()


def images(number: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(number, 3, *SIZE)


def certain(net: VisionMambaBackbone, x: Tensor) -> None:
    """Let chance change nothing: all odds are overwhelming.

    About half of the tokens of ``x`` are kept by the first predictor.
    """
    first = net.token_reduction.predictors[0]
    seen = []
    hook = first.outer.register_forward_hook(
        lambda _, args, out: seen.append(out[..., 0] - out[..., 1])
    )
    with torch.no_grad():
        net(x)
        hook.remove()
        first.outer[-1].bias[0] -= seen[0].median()
        for gate in net.token_reduction.gates:
            gate.bias.fill_(1e4)
        for parameter in first.outer[-1].parameters():
            parameter.mul_(1e6)


def test_dropping_nothing_is_the_plain_model_to_the_bit():
    torch.manual_seed(0)
    plain = VisionMambaBackbone(
        ARCH, img_size=SIZE, out_indices=(1, 3, 4), out_type='raw'
    ).eval()
    with torch.no_grad():
        expected = plain(images())
        net = make(blocks=())
        net.load_state_dict(plain.state_dict(), strict=False)
        found = net(images())
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize('seed', range(4))
def test_training_sees_what_inference_does(seed):
    """One image, as many tokens kept: the same maps and class token."""
    net = make(blocks=(2,))
    torch.manual_seed(seed)
    torch.nn.init.normal_(net.token_reduction.predictors[0].outer[-1].weight)
    x = images(1)
    certain(net, x)
    with torch.no_grad():
        with collect_sequences() as passes:
            trained = net.train()(x)
        kept = round(passes[0].kept.item() * 15)
        assert 0 < kept < 15
        net.token_reduction.keep_ratio = (kept + 0.5) / 15
        with collect_sequences() as passes:
            found = net.eval()(x)
    assert passes[0][-1].x.shape[1] == kept + 1
    for one, other in zip(trained, found, strict=True):
        torch.testing.assert_close(one, other)


def test_kept_tokens_come_first_with_cls_in_their_middle():
    kept = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0] * 5, [1] * 5])
    assert arranged_order(kept.bool()).tolist() == [
        [0, 5, 2, 3, 1, 4],
        [5, 4, 0, 1, 2, 3],
        [5, 0, 1, 2, 3, 4],
        [0, 1, 5, 2, 3, 4],
    ]


def test_each_direction_runs_on_the_images_that_need_it():
    torch.manual_seed(0)
    mixer = BiMambaMixer(32, d_state=4).double()
    mixer.reset_parameters(depth=4)
    projected = torch.randn(4, 9, 128, dtype=torch.float64)
    runs = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.bool)
    inner, gate = projected.chunk(2, dim=-1)
    with torch.no_grad():
        u = bidirectional_conv(inner, mixer.conv_weight, mixer.conv_bias)
        delta, B, C = mixer.scan_inputs(u)
        A = at_least_float32(mixer.A_log).exp().neg()
        y = bidirectional_scan(
            *(u, delta, A, B, C, mixer.D),
            delta_bias=mixer.dt_bias,
            merge=False,
        )
        y = (y * runs.T[:, :, None, None]).mean(0)
        expected = mixer.out_proj(y * torch.nn.functional.silu(gate))
        found = mix_by_direction(mixer, projected, runs)
    torch.testing.assert_close(found, expected)
    assert not found[3].any()


def test_an_image_does_not_depend_on_its_batch_mates():
    net, x = make(), images(4)
    x[1:, :, 32:] = 0
    torch.manual_seed(3)
    with torch.no_grad():
        for gate in net.token_reduction.gates:
            # some directions of some images do not run
            gate.weight.normal_(std=2.0)
            gate.bias.zero_()
        with collect_sequences():
            together = net(x)
        alone = [net(one[None]) for one in x]
    for level, tokens in enumerate(together):
        torch.testing.assert_close(
            tokens, torch.cat([one[level] for one in alone])
        )


def test_dropped_cells_of_padding_go_first():
    net, x = make(), images(2)
    x[:, :, 48:] = 0  # 9 of 15 cells show the image; 9, then 5 are kept
    with torch.no_grad(), collect_sequences() as passes:
        net(x)
    for sequence, count in ((passes[0][2], 9), (passes[0][4], 5)):
        assert sequence.x.shape[1] == count + 1
        assert (sequence.slots[:, 9:] < 0).all()


def test_gradients_reach_predictors_and_gates():
    net = make('featmap').train()
    with collect_sequences() as passes:
        maps = net(images())
    losses = net.token_reduction.loss(passes[0])
    total = sum(losses.values()) + sum(m.square().mean() for m in maps)
    total.backward()
    without = [
        name
        for name, parameter in net.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    assert not without
    for module in (
        *net.token_reduction.predictors,
        *net.token_reduction.gates,
    ):
        assert any(p.grad.abs().sum() > 0 for p in module.parameters())


def test_losses_are_the_papers():
    reduction = DynamicTokens(32, 2, 0.7, (1, 2), 0.8)
    kept = torch.tensor([[0.8, 0.6], [0.49, 0.29]])
    gates = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    cells, policy = torch.zeros(2, 9, 32), torch.ones(2, 9)
    losses = reduction.loss(DynamicRecord(kept, gates, cells, policy))
    off = [(0.1**2 + 0.1**2) / 2, (0.0 + 0.2**2) / 2]
    assert losses['loss_tokens'].item() == pytest.approx(10 * sum(off) / 2)
    expected = 10 * (5 / 8 - 0.8) ** 2
    assert losses['loss_directions'].item() == pytest.approx(expected)


def test_gates_are_drawn_with_the_odds_and_pass_gradients():
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.0, -2.0]).repeat(4000, 1).requires_grad_()
    drawn = gumbel_sigmoid(logits)
    assert set(drawn.detach().unique().round(decimals=6).tolist()) == {0, 1}
    torch.testing.assert_close(
        drawn.detach().mean(0),
        torch.tensor([2.0, 0, -2.0]).sigmoid(),
        rtol=0,
        atol=0.03,
    )
    drawn.sum().backward()
    assert (logits.grad > 0).all()


@pytest.mark.parametrize(
    ('options', 'error'),
    [
        (dict(keep_ratio=0), r'keep_ratio must be in \(0, 1\), got 0'),
        (dict(keep_ratio=1), r'got 1; to keep all tokens set blocks=\(\)'),
        (dict(direction_ratio=1.5), 'direction_ratio .* got 1.5'),
    ],
)
def test_shares_out_of_range_are_named(options, error):
    with pytest.raises(ValueError, match=error):
        make(**options)


@pytest.mark.parametrize(
    ('arch', 'keep', 'directions', 'parameters', 'published'),
    [
        # DyVM's own table has -35.2 % for S, the paper's 3.5 G
        ('small', 0.7, 0.8, 26.6, 5.077 * (1 - 0.352)),
        ('base', 0.7, 0.7, 100.6, 12.1),
        ('tiny', 0.9, 0.8, 7.4, 1.21),
    ],
)
def test_costs_and_sizes_are_the_published_ones(
    arch, keep, directions, parameters, published
):
    with torch.device('meta'):
        net = VisionMambaBackbone(
            arch,
            out_indices=(23,),
            out_type='cls_token',
            token_reduction=dict(
                type='mmscope.DynamicTokens', keep_ratio=keep
            ),
        )
    classifier = 1000 * net.embed_dims
    count = sum(p.numel() for p in net.parameters()) + classifier + 1000
    assert count / 1e6 == pytest.approx(parameters, abs=0.06)
    counts = model_flops(net, (224, 224), 'published').refined
    # with all directions; what they do not share runs in a part of them
    lengths = [197 - 196 + int(keep**n * 196) for n in range(4)]
    tokens = 6 * sum(lengths)
    dims, rank = 2 * net.embed_dims, net.layers[0].mixer.dt_rank
    own = counts['conv'] + counts['scan']
    own += tokens * dims * (rank + 32 + rank)
    cost = counts.total() + classifier - (1 - directions) * own
    print(f'{arch}: {cost / 1e9:.2f} G, published {published:.2f}')
    assert cost / 1e9 == pytest.approx(published, rel=0.02)
