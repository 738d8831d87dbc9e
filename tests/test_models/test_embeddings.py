"""Position embeddings are stored with their grid."""

import math

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.models.embeddings import PatchEmbed, resize_pos_embed

TINY = dict(arch=dict(embed_dims=16, num_layers=1), out_indices=(0,))


def rows_of(image: Tensor) -> Tensor:
    """Row-major rows of a map (h, w, C)."""
    return image.flatten(0, 1)[None]


def ramp(height: int, width: int) -> Tensor:
    """Rows whose 16 channels are linear in y and in x."""
    y = torch.arange(height, dtype=torch.float32)[:, None, None]
    x = torch.arange(width, dtype=torch.float32)[None, :, None]
    return (y + 10 * x).expand(height, width, 16)


@pytest.mark.parametrize('stored', [(64, 256), (256, 64), (128, 128)])
@pytest.mark.parametrize('built', [(128, 128), (64, 256), (96, 160)])
def test_loaded_rows_keep_their_place(stored, built) -> None:
    """All of the first two have 64 rows; their number tells no grid."""
    source = VisionMambaBackbone(img_size=stored, **TINY)
    target = VisionMambaBackbone(img_size=built, **TINY)
    src, dst = (tuple(s // 16 for s in size) for size in (stored, built))
    source.pos_embed.data = rows_of(ramp(*src))
    target.load_state_dict(source.state_dict())
    assert target.pos_embed_grid.tolist() == list(dst)
    expected = source.pos_embed
    if src != dst:
        expected = resize_pos_embed(source.pos_embed, src, dst)
    assert torch.equal(target.pos_embed, expected)
    # still a ramp that is steeper along x, and grows along both axes
    image = target.pos_embed[0].unflatten(0, dst)[..., 0]
    assert (image.diff(dim=0) > 0).all()
    assert (image.diff(dim=1) > 0).all()


def test_resampled_grid_gives_the_maps_of_run_time_resampling() -> None:
    """Loading for another size and running at it come to the same."""
    wide = VisionMambaBackbone(img_size=(64, 256), **TINY).eval()
    square = VisionMambaBackbone(img_size=128, **TINY).eval()
    square.load_state_dict(wide.state_dict())
    images = torch.rand(1, 3, 128, 128)
    torch.testing.assert_close(square(images), wide(images))


@pytest.mark.parametrize('assign', [False, True])
def test_coarse_rows_have_a_grid_of_their_own(assign) -> None:
    wide = MambaScopeBackbone(img_size=(64, 256), **TINY)
    square = MambaScopeBackbone(img_size=128, **TINY)
    assert wide.coarse_pos_embed_grid.tolist() == [2, 8]
    square.load_state_dict(wide.state_dict(), assign=assign)
    assert square.coarse_pos_embed_grid.tolist() == [4, 4]
    expected = resize_pos_embed(wide.coarse_pos_embed, (2, 8), (4, 4))
    assert torch.equal(square.coarse_pos_embed, expected)
    assert square.state_dict()['pos_embed_grid'].tolist() == [8, 8]


def test_mmengine_loads_another_grid(tmp_path) -> None:
    """It has a load_state_dict of its own; a Runner uses it."""
    wide = VisionMambaBackbone(img_size=(64, 256), **TINY)
    state = {f'backbone.{k}': v for k, v in wide.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'wide.pth')
    model = nn.Sequential()
    model.backbone = VisionMambaBackbone(img_size=128, **TINY)
    load_checkpoint(model, str(tmp_path / 'wide.pth'), strict=True)
    expected = resize_pos_embed(wide.pos_embed, (4, 16), (8, 8))
    assert torch.equal(model.backbone.pos_embed, expected)


def test_loading_leaves_the_callers_weights_alone() -> None:
    state = VisionMambaBackbone(img_size=(64, 256), **TINY).state_dict()
    VisionMambaBackbone(img_size=128, **TINY).load_state_dict(state)
    assert state['pos_embed_grid'].tolist() == [4, 16]
    assert state['pos_embed'].shape == (1, 64, 16)


def test_grid_is_no_parameter_and_keeps_its_dtype() -> None:
    net = MambaScopeBackbone(img_size=(64, 96), **TINY).half()
    assert not [n for n, _ in net.named_parameters() if 'grid' in n]
    assert net.pos_embed_grid.dtype == torch.int64
    assert math.prod(net.pos_embed_grid.tolist()) == net.pos_embed.shape[1]


def test_grid_of_memory_that_was_never_written_to() -> None:
    with torch.device('meta'):
        net = VisionMambaBackbone(img_size=(64, 96), **TINY)
    net.to_empty(device='cpu').pos_embed_grid.fill_(-1)
    net.init_weights()
    assert net.pos_embed_grid.tolist() == [4, 6]


@pytest.mark.parametrize(
    'layout', [torch.contiguous_format, torch.channels_last]
)
@pytest.mark.parametrize('count', [1, 7, 8, 10])
def test_some_patches_are_those_of_all(layout, count) -> None:
    """Below and above the share from which all are embedded."""
    embed = PatchEmbed(in_channels=3, embed_dims=8, patch_size=4)
    images = torch.randn(2, 3, 8, 20).to(memory_format=layout)
    index = torch.stack([torch.randperm(10)[:count] for _ in range(2)])
    every = embed(images)
    for image, places, found in zip(
        every, index, embed(images, index), strict=True
    ):
        torch.testing.assert_close(found, image[places])


def test_hooks_of_the_convolution_see_every_patch_that_is_used() -> None:
    embed = PatchEmbed(in_channels=3, embed_dims=8, patch_size=4)
    images, index = torch.randn(1, 3, 8, 20), torch.tensor([[3]])
    embed.proj.register_forward_hook(lambda layer, inputs, out: out + 1)
    torch.testing.assert_close(embed(images, index), embed(images)[:, 3:4])
    embed.proj = nn.Sequential(embed.proj, nn.Identity())
    embed.proj.kernel_size = (4, 4)
    torch.testing.assert_close(embed(images, index), embed(images)[:, 3:4])
