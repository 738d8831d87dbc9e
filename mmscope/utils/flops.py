"""Count the work of a model, by component and by the path of an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from mmengine.model import BaseModel
from torch import nn

from mmscope.functional import num_selected
from mmscope.functional.checks import check_choice, check_share
from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.models.vim import VimEncoder

from .flops_trace import backbone_flops, tail_flops
from .operator_flops import (
    conv_flops,
    layer_norm_flops,
    rms_norm_flops,
    scan_flops,
)

CONVENTIONS = ('two_direction', 'published')
COMPONENTS = (
    *('patch', 'projections', 'conv', 'scan', 'norm', 'reuse'),
    *('neck', 'head'),
)
Size = tuple[int, int]


@dataclass(frozen=True)
class ModelFlops:
    """What one image costs; multiply-adds, see ``utils.operator_flops``.

    Resizing, activations, pooling, sorting and the scores of tokens are not
    counted; BatchNorm folds into the convolutions before it.

    Attributes:
        shape: Image size after padding.
        convention: 'two_direction' counts what runs. 'published' counts as
            the papers do: the scan and what belongs to it in one direction,
            no norms, and only the patches that the fine stage selects.
        exited: By component, of an image that leaves after the coarse pass.
        refined: Of an image that takes both passes, and is decoded twice if
            the exit policy looks at pixels; of every image where the model
            has no exits.
        coarse: Of the coarse pass alone, exit head included.
        fine: Of the fine pass alone, exit head included.
    """

    shape: Size
    convention: str
    exited: Counter
    refined: Counter
    coarse: Counter = field(default_factory=Counter)
    fine: Counter = field(default_factory=Counter)

    def expected(self, exit_rate: float) -> Counter:
        """Mean by component if this share of images exits.

        Raises:
            ValueError: the share is outside [0, 1].
        """
        check_share('exit_rate', exit_rate)
        return Counter(
            {
                name: exit_rate * self.exited[name]
                + (1 - exit_rate) * self.refined[name]
                for name in self.refined | self.exited
            }
        )


def padded(size: Size, divisor: int) -> Size:
    """Round both sides up to multiples of ``divisor``."""
    return tuple(math.ceil(side / divisor) * divisor for side in size)


def encoder_flops(
    net: VimEncoder, length: int, convention: str = 'two_direction'
) -> Counter:
    """Count all blocks over a sequence of ``length`` tokens, CLS included."""
    check_choice('convention', convention, CONVENTIONS)
    mixer, dims = net.layers[0].mixer, net.embed_dims
    inner, states, rank = mixer.D.shape[1], mixer.d_state, mixer.dt_rank
    directions = 1 if convention == 'published' else 2
    inputs = directions * inner * (rank + 2 * states + rank)
    linear = 3 * dims * inner + inputs
    one = Counter(
        projections=length * linear,
        conv=conv_flops(
            length, inner, mixer.conv_weight.shape[-1], directions
        ),
        scan=scan_flops(length, inner, states, directions),
        norm=_norm(length, dims, convention),
    )
    return Counter({name: net.num_layers * n for name, n in one.items()})


def _norm(tokens: int, dims: int, convention: str) -> int:
    return 0 if convention == 'published' else rms_norm_flops(tokens, dims)


def _patch(net: VimEncoder, tokens: int) -> int:
    return tokens * net.patch_embed.proj.weight.numel()


def _cells(net: VimEncoder, size: Size) -> int:
    """Patches of a padded image."""
    return math.prod(padded(size, net.size_divisor)) // net.patch_size**2


def vim_flops(
    net: VisionMambaBackbone, size: Size, convention: str = 'two_direction'
) -> Counter:
    """Count Vision Mamba on an image (H, W)."""
    tokens = _cells(net, size)
    count = encoder_flops(net, tokens + 1, convention)
    normed = dict(featmap=tokens, raw=tokens + 1, cls_token=1)[net.out_type]
    count['patch'] += _patch(net, tokens)
    count['norm'] += _norm(
        normed * len(net.out_indices), net.embed_dims, convention
    )
    return count


def coarse_flops(
    net: MambaScopeBackbone, size: Size, convention: str = 'two_direction'
) -> Counter:
    """Count the coarse pass, and the exit head on it."""
    tokens = _cells(net, size) // 4
    count = encoder_flops(net, tokens + 1, convention)
    normed = tokens * len(net.out_indices)
    if net.norm_f is not None:
        normed += tokens + 1
    count['patch'] += _patch(net, tokens)
    count['norm'] += _norm(normed, net.embed_dims, convention)
    count['head'] += _exit_head(net)
    return count


def fine_tokens(net: MambaScopeBackbone, size: Size) -> int:
    """Tokens of the fine pass, CLS included."""
    coarse = _cells(net, size) // 4
    return coarse + 3 * num_selected(net.alpha, coarse) + 1


def fine_flops(
    net: MambaScopeBackbone, size: Size, convention: str = 'two_direction'
) -> Counter:
    """Count the fine pass, and the exit head on it."""
    cells = _cells(net, size)
    selected = num_selected(net.alpha, cells // 4)
    if selected == 0:
        return Counter()
    published = convention == 'published'
    length = fine_tokens(net, size)
    count = encoder_flops(net, length, convention)
    normed = length * len(net.out_indices) + (net.exit_head is not None)
    # all patches are embedded, which is faster than to gather some first
    count['patch'] += _patch(net, 4 * selected if published else cells)
    count['norm'] += _norm(normed, net.embed_dims, convention)
    count['reuse'] += _reuse(net, selected + net.reuse_cls, published)
    count['head'] += _exit_head(net)
    return count


def _reuse(net: MambaScopeBackbone, tokens: int, published: bool) -> int:
    if net.reuse is None:
        return 0
    linear = sum(
        layer.weight.numel()
        for layer in net.reuse.layers
        if isinstance(layer, nn.Linear)
    )
    norm = 0 if published else layer_norm_flops(tokens, net.embed_dims)
    return tokens * linear + norm


def _exit_head(net: MambaScopeBackbone) -> int:
    return 0 if net.exit_head is None else net.exit_head.fc.weight.numel()


def model_flops(
    model: nn.Module, size: Size, convention: str = 'two_direction'
) -> ModelFlops:
    """Count a backbone, or a model with neck and head, on one image.

    Mamba backbones are counted by formula; neck, head and other backbones
    by the operators that they run, without computing them.

    Args:
        model: A backbone, or a model with ``backbone``, and maybe ``neck``
            and ``decode_head``. Heads of detectors are not counted: what
            they do depends on what they find.
        size: Image (H, W), before padding.
        convention: One of ``CONVENTIONS``.

    Raises:
        ValueError: the image is too small or the convention unknown.
    """
    check_choice('convention', convention, CONVENTIONS)
    net = getattr(model, 'backbone', model)
    divisor = getattr(net, 'size_divisor', 1)
    if min(size) < max(divisor, 32):
        raise ValueError(
            f'images must be at least {max(divisor, 32)} pixels high and '
            f'wide, got {tuple(size)}'
        )
    shape = padded(size, divisor)
    if isinstance(net, MambaScopeBackbone):
        return _scope_flops(model, net, shape, convention)
    if isinstance(net, VisionMambaBackbone):
        count, maps = (
            vim_flops(net, shape, convention),
            _map_shapes(net, shape),
        )
        if net.out_type != 'featmap':
            maps = []
    else:
        count, maps = backbone_flops(net, shape)
    count = count + tail_flops(model, maps)
    return ModelFlops(shape, convention, count, count)


def _scope_flops(
    model: nn.Module, net: MambaScopeBackbone, shape: Size, convention: str
) -> ModelFlops:
    coarse = coarse_flops(net, shape, convention)
    fine = fine_flops(net, shape, convention)
    tail = tail_flops(model, _map_shapes(net, shape))
    tail_exited = tail
    if net.exit_settings.resolution == 'coarse' and tail:
        half = tuple(side // 2 for side in shape)
        tail_exited = tail_flops(model, _map_shapes(net, half))
    refined = coarse + fine + tail
    policy = net.exit_settings.policy
    if policy is not None and policy.decodes:
        refined += tail_exited
    return ModelFlops(
        shape,
        convention,
        exited=coarse + tail_exited,
        refined=refined,
        coarse=coarse,
        fine=fine,
    )


def _map_shapes(net: VimEncoder, shape: Size) -> list[tuple[int, ...]]:
    grid = tuple(side // net.patch_size for side in shape)
    return [(1, net.embed_dims, *grid)] * len(net.out_indices)


@dataclass(frozen=True)
class DatasetFlops:
    """Mean over the images of a dataset.

    Attributes:
        mean: By component.
        exit_rate: Share of images that exited.
        images: How many there were.
        shapes: Padded sizes, and how many images had each.
    """

    mean: Counter
    exit_rate: float
    images: int
    shapes: dict[str, int]


@torch.no_grad()
def dataset_flops(
    model: BaseModel, loader: Iterable[dict], convention: str = 'two_direction'
) -> DatasetFlops:
    """Run a model over a dataset and average what its images cost.

    Args:
        model: With weights whose exits mean something.
        loader: Batches for ``model.test_step``.
        convention: One of ``CONVENTIONS``.

    Raises:
        ValueError: it slides windows over images, or the loader is empty.
    """
    if (getattr(model, 'test_cfg', None) or {}).get('mode') == 'slide':
        raise ValueError(
            "the mean over a dataset needs test_cfg.mode='whole', got "
            "'slide', where each window is an image of its own"
        )
    model.eval()
    exits, sizes = Counter(), Counter()
    for batch in loader:
        for sample in model.test_step(batch):
            info = sample.metainfo
            shape = tuple(info.get('pad_shape', info['img_shape'])[:2])
            shape = padded(shape, getattr(model.backbone, 'size_divisor', 1))
            sizes[shape] += 1
            exits[shape] += int(getattr(sample, 'exited', False))
    images = sizes.total()
    if not images:
        raise ValueError('the dataset is empty; check its folders')
    mean = Counter()
    for shape, number in sizes.items():
        flops = model_flops(model, shape, convention)
        for name, count in flops.expected(exits[shape] / number).items():
            mean[name] += count * number / images
    shapes = {f'{h} x {w}': n for (h, w), n in sizes.items()}
    return DatasetFlops(mean, exits.total() / images, images, shapes)
