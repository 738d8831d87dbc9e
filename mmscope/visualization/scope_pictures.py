"""What a model looked at, and both its answers, for each image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import nn

from mmscope.functional import should_exit
from mmscope.models import (
    Importance,
    ScopeResult,
    collect_passes,
    exit_settings,
    require_exits,
)
from mmscope.utils.structures import canvas_of
from mmscope.utils.windows import windows_of

from .answers import draw_answer, image_seen, is_classified
from .names import PictureNames

Size = tuple[int, int]


class Judge(Protocol):
    """Judge of answers, as :class:`mmscope.evaluation` has it for a metric."""

    def entries(self, samples: Sequence[BaseDataElement]) -> Sequence[Any]:
        """What is kept of each prediction."""

    def quality(self, entry: Any) -> float:
        """How good one of them is, in percent."""


@dataclass(frozen=True)
class ScopePicture:
    """One image, what the coarse pass made of it, and both answers.

    Attributes:
        name: File name, another one for each picture of a call.
        image: Image, or what a classifier saw of it, (H, W, 3), RGB.
        scores: Scores of the coarse cells on the image, (H, W).
        label: What these scores are.
        selected: Pixels that would be refined, (H, W) bool.
        coarse: The coarse answer, drawn, (H, W, 3).
        fine: The fine answer, drawn; of an image without a cell worth
            refining, that with all cells that the model could refine.
        truth: The ground truth, drawn, or None.
        confidences: Confidence of the coarse answer, or that of each window
            where windows slide over the image.
        shares: Share of cells that each of them has refined unless it exits,
            0 where no cell is worth it.
        tau: Score above which a cell is worth refining, or None for all.
        quality: Quality of both answers in percent, or None.
    """

    name: str
    image: np.ndarray
    scores: np.ndarray
    label: str
    selected: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    truth: np.ndarray | None
    confidences: tuple[float, ...]
    shares: tuple[float, ...]
    tau: float | None
    quality: tuple[float, float] | None

    @property
    def confidence(self) -> float:
        """Mean confidence of the coarse answer."""
        return float(np.mean(self.confidences))

    def exits(self, eta: float) -> list[bool]:
        """Whether the image, or each of its windows, exits at a threshold."""
        sure = should_exit(torch.tensor(self.confidences), eta).tolist()
        return [
            exits or share == 0
            for exits, share in zip(sure, self.shares, strict=True)
        ]

    def refined_share(self, eta: float) -> float:
        """Share of cells that the image has refined at a threshold."""
        ends = zip(self.exits(eta), self.shares, strict=True)
        return float(np.mean([0 if exits else s for exits, s in ends]))


@torch.no_grad()
def picture_scope(
    model: nn.Module,
    items: Iterable[dict],
    visualizer: Visualizer,
    judge: Judge | None = None,
) -> list[ScopePicture]:
    """Answer images both ways and draw what there is to see.

    Args:
        model: A segmentor, detector or classifier of mmscope.
        items: What the test pipeline makes of each image: 'inputs' and
            'data_samples', and 'image', (H, W, 3) RGB, where it is no file.
        visualizer: Visualizer of the model's library, with the dataset's meta.
        judge: Judge of the answers, where there is ground truth.

    Raises:
        ValueError: the model has no exit head, or a sample no image.
    """
    require_exits(model, 'a picture of both answers')
    model.eval()
    name_of = PictureNames()
    return [
        _picture(model, item, visualizer, judge, name_of) for item in items
    ]


def _picture(
    model: nn.Module,
    item: dict,
    visualizer: Visualizer,
    judge: Judge | None,
    name_of: PictureNames,
) -> ScopePicture:
    coarse, coarse_passes = _answer(model, item, 0.0)
    fine, fine_passes = _answer(model, item, 1.0)
    settings = model.backbone.exit_settings
    shares = tuple(
        one.num_selected[0].item() / one.importance.shape[1]
        for one in fine_passes
    )
    scored = fine_passes[0].refinement.scores is not None
    if settings.tau is not None and not any(shares):
        fine, _ = _answer(model, item, 1.0, -inf)
    image = _image_of(model, item, fine)
    scores, selected = _on_image(
        cells_on_canvas(model, fine_passes, canvas_of(fine)), fine, image
    )
    has_truth = any(
        key in coarse for key in ('gt_sem_seg', 'gt_instances', 'gt_label')
    )
    quality = None
    if judge is not None:
        quality = tuple(map(judge.quality, judge.entries([coarse, fine])))
    return ScopePicture(
        name_of(fine.metainfo.get('img_path', '')),
        image,
        scores,
        settings.cell_score.label if scored else Importance.label,
        selected,
        draw_answer(coarse, image, visualizer),
        draw_answer(fine, image, visualizer),
        draw_answer(coarse, image, visualizer, 'gt') if has_truth else None,
        tuple(float(one.confidence[0]) for one in coarse_passes),
        shares,
        settings.tau,
        quality,
    )


def _answer(
    model: nn.Module, item: dict, eta: float, tau: float | None = None
) -> tuple[BaseDataElement, list[ScopeResult]]:
    """The prediction for an image at thresholds, and its passes."""
    batch = dict(
        inputs=[item['inputs']],
        data_samples=[item['data_samples'].clone()],
    )
    with (
        exit_settings(model, eta=eta, tau=tau),
        collect_passes(model) as passes,
    ):
        return model.test_step(batch)[0], passes


def _image_of(
    model: nn.Module, item: dict, sample: BaseDataElement
) -> np.ndarray:
    """The image to draw on, (H, W, 3) RGB."""
    if is_classified(sample):
        return image_seen(item['inputs'], model)
    if item.get('image') is not None:
        return item['image']
    path = sample.metainfo.get('img_path', '')
    if not path:
        raise ValueError(
            'a sample does not say its img_path, which is needed to draw on '
            "the image; add 'img_path' to the meta_keys of the test "
            "pipeline's last step"
        )
    return mmcv.imread(path, channel_order='rgb')


def cells_on_canvas(
    model: nn.Module, passes: Sequence[ScopeResult], canvas: Size
) -> tuple[np.ndarray, np.ndarray]:
    """Spread coarse cells over the pixels that the model saw.

    Args:
        model: The model.
        passes: Records of one image, one for each of its windows.
        canvas: Height and width, padding included.

    Returns:
        Scores of the cells, the mean over the windows that see a pixel, and
        which pixels any of them refines, (H, W) each. They are importance
        where nothing was to be refined, and so nothing was scored.
    """
    stride = 2 * model.backbone.patch_size
    scores, seen = np.zeros(canvas), np.zeros(canvas)
    selected = np.zeros(canvas, dtype=bool)
    for window, one in zip(windows_of(model, canvas), passes, strict=True):
        shape = scores[window].shape
        cells = one.importance
        if one.refinement.scores is not None:
            cells = one.refinement.scores
        scores[window] += _pixels(cells[0].float(), shape, stride)
        selected[window] |= _pixels(one.refined_cells[0], shape, stride)
        seen[window] += 1
    return scores / seen, selected


def _pixels(cells: torch.Tensor, shape: Size, stride: int) -> np.ndarray:
    """Repeat coarse cells (N_c,) over a window of pixels."""
    rows, columns = (-(-side // stride) for side in shape)
    grid = cells.reshape(rows, columns).cpu().numpy()
    pixels = grid.repeat(stride, axis=0).repeat(stride, axis=1)
    return pixels[: shape[0], : shape[1]]


def _on_image(
    maps: tuple[np.ndarray, np.ndarray],
    sample: BaseDataElement,
    image: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the padding off and resize maps of the canvas to the image."""
    height, width = sample.metainfo['img_shape'][:2]
    scores, selected = (
        cv2.resize(
            np.ascontiguousarray(one[:height, :width], dtype=np.float32),
            image.shape[1::-1],
            interpolation=cv2.INTER_NEAREST,
        )
        for one in maps
    )
    return scores, selected > 0.5
