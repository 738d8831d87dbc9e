"""Count the work of a model, by component and by the path of an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import nn

from .flops_trace import components, on_meta, published, tail_flops, trace

CONVENTIONS = ('two_direction', 'published')
COMPONENTS = (
    *('patch', 'projections', 'conv', 'scan', 'norm', 'reuse'),
    *('neck', 'head'),
)
# of detectors: what Cascade Mask R-CNN looks at in an image at most
PROPOSALS, MASKS = 1000, 100
MIN_SIDE = 32
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
        exited: Work by component of an image that leaves after the coarse
            pass.
        refined: Work of an image that takes both passes with the largest
            share of cells, and is decoded twice if the exit policy or the
            cell score looks at pixels; of every image where the model has no
            exits.
        coarse: Work of the coarse pass alone, exit head included.
        fine: Work of the fine pass alone, exit head included, with the
            largest share of cells.
        by_share: Work of a refined image by its share of cells.
    """

    shape: Size
    convention: str
    exited: Counter
    refined: Counter
    coarse: Counter = field(default_factory=Counter)
    fine: Counter = field(default_factory=Counter)
    by_share: dict[float, Counter] = field(default_factory=dict)

    def expected(self, exit_rate: float) -> Counter:
        """Mean by component if this share of images exits.

        The others are refined with the largest share of cells.

        Raises:
            ValueError: the share is outside [0, 1].
        """
        if not 0 <= exit_rate <= 1:
            raise ValueError(f'exit_rate must be in [0, 1], got {exit_rate}')
        return Counter(
            {
                name: exit_rate * self.exited[name]
                + (1 - exit_rate) * self.refined[name]
                for name in self.refined | self.exited
            }
        )

    def mean(self, shares: Sequence[float]) -> Counter:
        """Mean by component over images, by what each of them got.

        Args:
            shares: Share of the cells that was refined in each image, of
                ``by_share`` but rounded up to whole cells; 0 where it exited.

        Raises:
            ValueError: an image got less than the smallest share.
        """
        paths = self.by_share or {1.0: self.refined}
        mean = Counter()
        for share, images in Counter(shares).items():
            path = self.exited
            if share > 0:
                # predictions carry six digits
                below = [one for one in paths if one <= share + 2e-6]
                if not below:
                    raise ValueError(
                        f'an image has {share:g} of its cells refined, and '
                        f'the shares that were counted are {list(paths)}: '
                        'count with the alpha that it ran with'
                    )
                path = paths[max(below)]
            for name, count in path.items():
                mean[name] += count * images / len(shares)
        return mean


def padded(size: Size, divisor: int) -> Size:
    """Round both sides up to multiples of ``divisor``."""
    return tuple(math.ceil(side / divisor) * divisor for side in size)


def model_flops(
    model: nn.Module,
    size: Size,
    convention: str = 'two_direction',
    proposals: int = PROPOSALS,
    masks: int = MASKS,
    training: bool = False,
) -> ModelFlops:
    """Count a backbone, or a model with neck and heads, on one image.

    By the operators that its modules run, without computing them. Of heads
    that look at regions, the products are counted and not the cutting out.

    Args:
        model: A backbone, or a model with ``backbone``, and maybe ``neck``
            and heads of mmseg or mmdet.
        size: Image (H, W), before padding.
        convention: One of ``CONVENTIONS``.
        proposals: Boxes that a detector's heads of regions look at.
        masks: Boxes that get a mask.
        training: Whether to count the forward pass of a training step, with
            auxiliary heads and, in what is refined, the coarse maps that
            are decoded for a loss.

    Raises:
        ValueError: the image is too small or the convention unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(
            f'convention must be one of {list(CONVENTIONS)}, '
            f'got {convention!r}'
        )
    net = getattr(model, 'backbone', model)
    divisor = getattr(net, 'size_divisor', 1)
    if min(size) < max(divisor, MIN_SIDE):
        raise ValueError(
            f'images must be at least {max(divisor, MIN_SIDE)} pixels high '
            f'and wide, got {tuple(size)}'
        )
    shape, regions = padded(size, divisor), (proposals, masks, training)
    image = torch.empty(1, 3, *shape, device='meta')
    if hasattr(net, 'scope'):
        return _scope_flops(model, net, image, convention, regions)
    counts, maps = trace(on_meta(net), lambda net: net(image))
    if convention == 'published':
        counts = published(counts)
    count = components(counts) + tail_flops(model, maps, *regions)
    return ModelFlops(shape, convention, count, count)


def _scope_flops(
    model: nn.Module,
    net: nn.Module,
    image: torch.Tensor,
    convention: str,
    regions: tuple[int, int, bool],
) -> ModelFlops:
    """Count a backbone that refines the images that do not exit."""
    settings = net.exit_settings
    copied = on_meta(net)
    # policies and scores may need more than a backbone
    copied.exit_policy = copied.tau = None
    del copied.cell_score
    copied.cell_score = attrgetter('coarse.importance')
    fines = {}
    for share in settings.shares:
        copied.alpha = share
        first, record = trace(copied, lambda net: net.coarse(image, eta=1.0))
        second, record = trace(
            copied, lambda net, record=record: net.fine(record)
        )
        if convention == 'published':
            first, second = published(first), published(second)
        coarse, fine = components(first), components(second)
        if convention == 'published':
            # more patches may be embedded, which can be faster
            num_coarse = record.importance.shape[1]
            num = 4 * record.refinement.most
            fine['patch'] = coarse['patch'] * num // num_coarse
        fines[share] = fine
    tail = tail_exited = tail_flops(model, record.features, *regions)
    if settings.resolution == 'coarse' and tail:
        tail_exited = tail_flops(model, record.coarse_features, *regions)
    both = coarse + tail + (tail_exited if settings.decodes else Counter())
    if regions[-1] and getattr(model, 'coarse_decode_weight', 0) > 0:
        # decoded for the loss, without auxiliary heads
        low = settings.resolution == 'coarse'
        maps = record.coarse_features if low else record.features
        both += tail_flops(model, maps, *regions[:2])
    by_share = {share: both + fine for share, fine in fines.items()}
    return ModelFlops(
        tuple(image.shape[2:]),
        convention,
        exited=coarse + tail_exited,
        refined=by_share[settings.shares[-1]],
        coarse=coarse,
        fine=fines[settings.shares[-1]],
        by_share=by_share,
    )
