"""What the official Vim has in other models, as options of the baseline."""

import pytest
import torch
import torch.nn.functional as F
from vim_weights import vim_state

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.models.embeddings import resize_pos_embed
from mmscope.utils.pretrained import load_pretrained

ARCH = dict(embed_dims=32, num_layers=3)


def make(**options) -> VisionMambaBackbone:
    torch.manual_seed(0)
    options = dict(dict(img_size=64, out_indices=(1, 2)), **options)
    return VisionMambaBackbone(ARCH, **options).eval()


def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 96)


def lengths_of(net: VisionMambaBackbone, x: torch.Tensor) -> list[int]:
    found = []
    hooks = [
        layer.mixer.register_forward_hook(
            lambda _, args, out: found.append(args[0].shape[1])
        )
        for layer in net.layers
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return found


def test_without_a_class_token_the_sequence_is_the_patches():
    net = make(with_cls=False)
    assert lengths_of(net, images()) == [24] * 3
    assert lengths_of(make(), images()) == [25] * 3
    assert not [name for name, _ in net.named_parameters() if 'cls' in name]
    maps = net.train()(images())
    assert [tuple(m.shape) for m in maps] == [(2, 32, 4, 6)] * 2
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_weights_with_and_without_a_class_token(tmp_path):
    vim, ours = tmp_path / 'vim.pth', tmp_path / 'ours.pth'
    torch.save(dict(model=vim_state()), vim)
    net = make(with_cls=False)
    report = load_pretrained(net, vim)
    assert {'cls_token', 'cls_pos_embed'} <= set(report.unexpected)
    # one of ours is not taken for Vim's, which has CLS in its positions
    state = {f'backbone.{k}': v for k, v in net.state_dict().items()}
    torch.save(dict(state_dict=state), ours)
    again = make(with_cls=False)
    report = load_pretrained(again, ours)
    assert not report.missing and not report.unexpected
    assert torch.equal(again.pos_embed, net.pos_embed)


def test_maps_without_norms_are_the_residual_stream():
    plain, bare = make(), make(level_norm=False)
    assert not [n for n, _ in bare.named_parameters() if 'level_norms' in n]
    bare.load_state_dict(
        {k: v for k, v in plain.state_dict().items() if k in bare.state_dict()}
    )
    with torch.no_grad():
        for normed, stream in zip(
            plain(images()), bare(images()), strict=True
        ):
            scale = stream.square().mean(dim=1, keepdim=True) + 1e-5
            torch.testing.assert_close(stream / scale.sqrt(), normed)


@pytest.mark.parametrize('with_cls', [True, False])
def test_rotation_changes_patches_ahead_of_every_block(with_cls):
    net = make(rope=True, with_cls=with_cls)
    ahead = []
    for layer in net.layers:
        layer.norm.register_forward_hook(
            lambda _, args, out: ahead.append((args[0], args[1]))
        )
    with torch.no_grad():
        maps = net(images())
        plain = make(with_cls=with_cls)(images())
    assert all(update is None for _, update in ahead)
    assert all(
        (a - b).abs().max() > 1e-3 for a, b in zip(maps, plain, strict=True)
    )
    # the first cell is turned by nothing, and CLS never is
    net = make(rope=True, with_cls=with_cls)
    tokens = net.patch_embed(images()) + net.pos_embed_at('pos_embed', (4, 6))
    first = ahead[0][0]
    torch.testing.assert_close(first[:, 0], tokens[:, 0])
    assert (first[:, 1] - tokens[:, 1]).abs().max() > 1e-3
    torch.testing.assert_close(
        first[:, -1].norm(dim=-1), tokens[:, -1].norm(dim=-1)
    )
    if with_cls:
        cls = net.cls_token + net.cls_pos_embed
        torch.testing.assert_close(first[:, 12:13], cls.expand(2, -1, -1))


def test_patches_may_overlap_as_in_the_official_plus_models(tmp_path):
    net = VisionMambaBackbone(ARCH, patch_stride=8, out_indices=(2,))
    assert net.pos_embed.shape == (1, 27 * 27, 32)
    path = tmp_path / 'plus.pth'
    torch.save(dict(model=vim_state(side=27)), path)
    report = load_pretrained(net, path)
    assert not report.resized and 'pos_embed' in report.used
    with torch.no_grad():
        (maps,) = net(torch.randn(1, 3, 64, 104))
    # a patch begins every 8 pixels, and all of it is in the image
    assert maps.shape == (1, 32, 7, 12)
    patches = F.unfold(images(), 16, stride=8).mT
    weight = net.patch_embed.proj.weight.flatten(1)
    expected = F.linear(patches, weight, net.patch_embed.proj.bias)
    torch.testing.assert_close(
        net.patch_embed(images()), expected, rtol=1e-3, atol=1e-3
    )


def test_positions_that_are_extended_stay_where_they_are():
    rows = torch.arange(12.0).view(1, 12, 1)
    grid = resize_pos_embed(rows, (3, 4), (5, 6), 'extend').view(5, 6)
    assert torch.equal(grid[:3, :4].flatten(), rows.flatten())
    assert torch.equal(grid[3:, :4], grid[2:3, :4].expand(2, 4))
    assert torch.equal(grid[:, 4:], grid[:, 3:4].expand(5, 2))
    cut = resize_pos_embed(rows, (3, 4), (2, 6), 'extend').view(2, 6)
    assert torch.equal(cut, grid[:2])
    stretched = resize_pos_embed(rows, (3, 4), (5, 6)).view(5, 6)
    assert not torch.equal(stretched[:3, :4], grid[:3, :4])


@pytest.mark.parametrize('kind', [VisionMambaBackbone, MambaScopeBackbone])
def test_both_backbones_extend_their_grids(kind):
    options = dict(exit_head=None) if kind is MambaScopeBackbone else {}
    net = kind(
        ARCH, 64, out_indices=(2,), pos_embed_fit='extend', **options
    ).eval()
    for name, (height, width) in net.pos_grids.items():
        with torch.no_grad():
            wide = net.pos_embed_at(name, (height + 1, width + 2))
        wide = wide.unflatten(1, (height + 1, width + 2))
        stored = getattr(net, name).unflatten(1, (height, width))
        assert torch.equal(wide[:, :height, :width], stored)
    with torch.no_grad():
        assert net(images())[0].shape[2:] == (4, 6)


@pytest.mark.parametrize(
    ('options', 'error'),
    [
        (dict(patch_stride=0), r'patch_stride must be in \[1, 16\].*got 0'),
        (dict(patch_stride=17), 'patch_stride .* got 17'),
        (dict(pos_embed_fit='crop'), "pos_embed_fit .* got 'crop'"),
        (dict(with_cls=False, out_type='cls_token'), 'leave out with_cls'),
        (dict(rope=True, num_registers=2), "leave out {'num_registers': 2}"),
        (
            dict(token_reduction=dict(type='mmscope.TokenMerging'), rope=True),
            "leave out {'rope': True} beside token_reduction",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options, error):
    with pytest.raises(ValueError, match=error):
        make(**options)


def test_rotation_needs_pairs_of_channels_for_either_axis():
    with pytest.raises(ValueError, match='multiple of 4, got 30'):
        VisionMambaBackbone(
            dict(embed_dims=30, num_layers=1), out_indices=(0,), rope=True
        )
