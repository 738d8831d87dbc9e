import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.ops import use_backend
from mmscope.utils.vim_checkpoint import to_vim


@pytest.mark.parametrize(
    ('size', 'grid'), [((64, 96), (4, 6)), ((70, 33), (5, 3))]
)
def test_any_size_gives_maps_of_stride_16(make_vim, size, grid) -> None:
    maps = make_vim()(torch.rand(2, 3, *size))
    assert [tuple(m.shape) for m in maps] == [(2, 32, *grid)] * 2
    # mmcv's RoIAlign on a CPU misreads others
    assert all(m.is_contiguous() for m in maps)


def test_other_out_types(make_vim) -> None:
    images = torch.rand(2, 3, 64, 96)
    raw = make_vim(out_type='raw')
    cls = make_vim(out_type='cls_token')
    cls.load_state_dict(raw.state_dict())
    sequences, tokens = raw(images), cls(images)
    assert [tuple(s.shape) for s in sequences] == [(2, 25, 32)] * 2
    for sequence, token in zip(sequences, tokens, strict=True):
        torch.testing.assert_close(sequence[:, 12], token)


@pytest.mark.parametrize(
    ('arch', 'millions'),
    [('tiny', 7.148008), ('small', 25.796584), ('base', 97.598440)],
)
def test_parameters_with_a_1000_class_head(arch, millions) -> None:
    with torch.device('meta'):
        net = VisionMambaBackbone(
            arch, out_type='cls_token', out_indices=(23,)
        )
    count = sum(p.numel() for p in net.parameters())
    count += 1000 * net.embed_dims + 1000
    assert count == millions * 1e6


def written_out(net: VisionMambaBackbone, images: Tensor) -> Tensor:
    """Vim's forward pass for one class token, one step at a time."""
    p, _ = to_vim(net.state_dict())
    x = F.conv2d(images, p['patch_embed.proj.weight'],
                 p['patch_embed.proj.bias'], stride=16)  # fmt: skip
    x = x.flatten(2).transpose(1, 2)
    cls, middle = p['cls_token'].expand(len(x), -1, -1), x.shape[1] // 2
    hidden = torch.cat([x[:, :middle], cls, x[:, middle:]], dim=1)
    hidden = hidden + p['pos_embed']
    residual = torch.zeros_like(hidden)
    for n in range(net.num_layers):
        residual = residual + hidden
        hidden = mixer(
            p, f'layers.{n}.', norm(residual, p, f'layers.{n}.norm')
        )
    return norm(residual + hidden, p, 'norm_f')[:, middle]


def norm(x: Tensor, p: dict, name: str) -> Tensor:
    scale = (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return x * scale * p[f'{name}.weight']


def mixer(p: dict, layer: str, x: Tensor) -> Tensor:
    w = {k.removeprefix(layer + 'mixer.'): v for k, v in p.items()}
    x, z = (x @ w['in_proj.weight'].T).chunk(2, dim=-1)
    forward = branch(w, x, '', w['A_log'], w['D'])
    backward = branch(w, x.flip(1), '_b', w['A_b_log'], w['D_b']).flip(1)
    y = (forward * F.silu(z) + backward * F.silu(z)) / 2
    return y @ w['out_proj.weight'].T


def branch(w: dict, x: Tensor, s: str, a_log: Tensor, skip: Tensor) -> Tensor:
    states, rank = a_log.shape[1], w[f'dt_proj{s}.weight'].shape[1]
    conv = F.conv1d(x.transpose(1, 2), w[f'conv1d{s}.weight'],
                    w[f'conv1d{s}.bias'], padding=3,
                    groups=x.shape[-1])  # fmt: skip
    u = F.silu(conv[..., : x.shape[1]]).transpose(1, 2)
    dt, b, c = (u @ w[f'x_proj{s}.weight'].T).split([rank, states, states], -1)
    dt = F.softplus(dt @ w[f'dt_proj{s}.weight'].T + w[f'dt_proj{s}.bias'])
    state = u.new_zeros(*u[:, 0].shape, states)
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(-dt[:, t, :, None] * a_log.exp())
        inflow = (dt[:, t] * u[:, t])[..., None] * b[:, t, None]
        state = decay * state + inflow
        outputs.append((state * c[:, t, None]).sum(-1) + skip * u[:, t])
    return torch.stack(outputs, dim=1)


def test_class_token_equals_vims_order_of_operations() -> None:
    net = VisionMambaBackbone(
        dict(embed_dims=64, num_layers=6),
        out_indices=(5,),
        out_type='cls_token',
    ).eval()
    for parameter in net.parameters():
        # weights away from their start, where D = 1 and norms are 1
        parameter.data += 0.02 * torch.randn_like(parameter)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            net(images)[0], written_out(net, images), rtol=1e-4, atol=1e-4
        )


def test_reference_backend_reproduces_the_default(make_vim) -> None:
    net, images = make_vim(), torch.rand(1, 3, 64, 96)
    expected = net(images)
    with use_backend('reference'):
        torch.testing.assert_close(net(images), expected)


def test_every_parameter_gets_a_gradient(make_vim) -> None:
    for out_type in ('featmap', 'cls_token', 'raw'):
        net = make_vim(out_type=out_type, drop_path_rate=0.1).train()
        sum(m.square().sum() for m in net(torch.rand(8, 3, 64, 96))).backward()
        without = [n for n, p in net.named_parameters() if p.grad is None]
        assert without == []


def test_blocks_that_nothing_reads_are_frozen(make_vim) -> None:
    net = make_vim(out_indices=(1,)).train()
    net(torch.rand(1, 3, 64, 96))[0].sum().backward()
    for name, parameter in net.named_parameters():
        unread = name.startswith(('layers.2', 'layers.3'))
        assert parameter.requires_grad is not unread, name
        assert (parameter.grad is None) is unread, name


def test_frozen_stages(make_vim) -> None:
    net = make_vim(frozen_stages=2, drop_path_rate=0.5).train()
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert 'patch_embed.proj.weight' in frozen
    assert {'pos_embed', 'cls_token', 'cls_pos_embed'} <= frozen
    assert any(n.startswith('layers.1.') for n in frozen)
    assert not any(n.startswith('layers.2.') for n in frozen)
    assert not net.layers[1].training
    assert net.layers[2].training


def test_checkpointing_changes_no_gradient(make_vim) -> None:
    plain = make_vim().train()
    saving = make_vim(with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 64, 96)
    for net in (plain, saving):
        sum(m.sum() for m in net(images)).backward()
    for one, other in zip(
        plain.parameters(), saving.parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    'init_cfg',
    [None, dict(type='Constant', layer=['Linear', 'Conv1d'], val=7.0)],
)
def test_init_weights_draws_vims_statistics(init_cfg) -> None:
    net = VisionMambaBackbone('tiny', init_cfg=init_cfg)
    for parameter in net.parameters():
        parameter.data.fill_(9.0)
    net.init_weights()
    for layer in net.layers:
        m = layer.mixer
        for bias in m.dt_bias:
            dt = F.softplus(bias)
            assert dt.min() >= 1e-3 * 0.999
            assert dt.max() <= 0.1 * 1.001
            # log-uniform: half of them below the geometric mean
            assert 0.35 < (dt < 0.01).float().mean() < 0.65
        expected = torch.arange(1.0, 17).log().expand(2, 384, 16)
        torch.testing.assert_close(m.A_log.data, expected)
        assert (m.D == 1).all()
        # kaiming uniform with a = sqrt(5): bound 1 / sqrt(fan_in)
        for weights, fan_in in (
            ((m.in_proj.weight,), 192),
            ((m.out_proj.weight,), 384 * 24),
            (m.conv_weight, 4),
            (m.conv_bias, 4),
            (m.x_proj, 384),
            (m.dt_proj, 12),
        ):
            for weight in weights:
                bound = 1 / math.sqrt(fan_in)
                assert 0.97 * bound < weight.abs().max() <= bound
                assert weight.mean().abs() < 0.1 * bound
        assert (layer.norm.weight == 1).all()
    assert net.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    deviation = net.patch_embed.proj.weight.std().item()
    assert deviation == pytest.approx(768**-0.5, rel=0.05)


def test_a_second_init_weights_only_warns(make_net, caplog) -> None:
    net = make_net()
    net.init_weights()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    logger = MMLogger.get_current_instance()  # does not propagate
    logger.addHandler(caplog.handler)
    net.init_weights()
    logger.removeHandler(caplog.handler)
    assert 'has been called more than once' in caplog.text
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), r"arch must be one of .*tiny.* got 'huge'"),
        (dict(arch=dict(embed_dims=8)), 'needs embed_dims and num_layers'),
        (dict(arch=dict(embed_dims=8, num_layers=4, heads=2)), 'heads'),
        (dict(out_indices=(1, 4)), r'\[0, 3\], got \(1, 4\)'),
        (dict(out_indices=(3, 1)), 'ascending'),
        (dict(out_indices=()), 'ascending'),
        (dict(out_type='map'), "out_type must be one of .* got 'map'"),
        (dict(scan_backend='cud'), "scan_backend must be one .* got 'cud'"),
    ],
)
def test_bad_arguments(make_vim, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_vim(**options)


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((3, 64, 64), r'\(B, 3, H, W\), got a tensor of shape \(3, 64, 64\)'),
        ((1, 4, 64, 64), r'\(1, 4, 64, 64\)'),
        ((0, 3, 64, 64), 'at least one image, got a batch of 0'),
        ((1, 3, 64, 15), r'at least 16 pixels .* got \(64, 15\)'),
    ],
)
def test_bad_images(make_vim, shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_vim()(torch.rand(shape))


@pytest.mark.parametrize('backbone', [VisionMambaBackbone, MambaScopeBackbone])
def test_parameters_are_reset_on_the_device_that_they_are_on(backbone):
    tiny = dict(embed_dims=32, num_layers=2)
    with FakeTensorMode():  # devices are checked, without a second one
        with torch.device('cpu:1'):
            net = backbone(tiny, out_indices=(1,))
        net.reset_parameters()
    assert {str(p.device) for p in net.parameters()} == {'cpu:1'}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_parameters_are_reset_in_half_precision(dtype):
    net = VisionMambaBackbone(
        dict(embed_dims=256, num_layers=1), out_indices=(0,)
    )
    mixer = net.to(dtype).layers[0].mixer
    net.reset_parameters()
    dt = F.softplus(mixer.dt_bias.double())
    assert 1e-3 * 0.97 < dt.min() < 1.1e-3
    assert 0.09 < dt.max() < 0.1 * 1.03
    expected = torch.arange(1.0, 17).log().to(dtype)
    assert torch.equal(mixer.A_log, expected.expand_as(mixer.A_log))


def test_registers_are_in_no_output(make_vim, make_net) -> None:
    images = torch.randn(2, 3, 64, 96)
    for make in (make_vim, make_net):
        plain, more = make(), make(num_registers=3)
        report = more.load_state_dict(plain.state_dict(), strict=False)
        assert report.missing_keys == ['registers']
        with torch.no_grad():
            one, other = plain(images), more(images)
        for a, b in zip(one, other, strict=True):
            assert a.shape == b.shape
            assert not torch.allclose(a, b)  # they are seen
        more.train()(images)[-1].sum().backward()
        assert more.registers.grad.abs().sum() > 0


def test_registers_start_at_random_and_are_an_embedding(make_vim) -> None:
    net = make_vim(num_registers=3)
    assert 0 < net.registers.std() < 0.1
    assert net.get_layer_depth('registers')[0] == 0
    assert not make_vim(
        num_registers=2, frozen_stages=0
    ).registers.requires_grad
    with pytest.raises(ValueError, match='num_registers must not be negative'):
        make_vim(num_registers=-1)


def test_vims_weights_load_beside_registers(vim_file) -> None:
    path, state = vim_file
    net = VisionMambaBackbone(
        dict(embed_dims=32, num_layers=3),
        img_size=64,
        out_indices=(2,),
        num_registers=2,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    net.init_weights()
    assert torch.equal(net.cls_token, state['cls_token'])
    assert net.registers.abs().sum() > 0
