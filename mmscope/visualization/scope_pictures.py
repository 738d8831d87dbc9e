"""What a model looked at, and both its answers, for each image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import nn

from mmscope.functional.windows import windows
from mmscope.models import (
    ScopeResult,
    collect_passes,
    exit_settings,
    require_exits,
)
from mmscope.utils.structures import canvas_of

from .answers import draw_answer
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
        image: Image, (H, W, 3), RGB.
        importance: Importance of the coarse cells on the image, (H, W), in
            [0, 1].
        selected: Pixels that would be refined, (H, W) bool.
        coarse: The coarse answer, drawn, (H, W, 3).
        fine: The fine answer, drawn.
        truth: The ground truth, drawn, or None.
        confidences: Confidence of the coarse answer, or that of each window
            where windows slide over the image.
        quality: Quality of both answers in percent, or None.
    """

    name: str
    image: np.ndarray
    importance: np.ndarray
    selected: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    truth: np.ndarray | None
    confidences: tuple[float, ...]
    quality: tuple[float, float] | None

    @property
    def confidence(self) -> float:
        """Mean confidence of the coarse answer."""
        return float(np.mean(self.confidences))


@torch.no_grad()
def picture_scope(
    model: nn.Module,
    items: Iterable[dict],
    visualizer: Visualizer,
    judge: Judge | None = None,
) -> list[ScopePicture]:
    """Answer images both ways and draw what there is to see.

    Args:
        model: A segmentor or detector of mmscope.
        items: What the test pipeline makes of each image: 'inputs' and
            'data_samples', and 'image', (H, W, 3) RGB, where it is no file.
        visualizer: Visualizer of mmseg or mmdet, with the dataset's meta.
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
    image = _image_of(item, fine)
    importance, selected = _on_image(
        cells_on_canvas(model, fine_passes, canvas_of(fine)), fine, image
    )
    has_truth = 'gt_sem_seg' in coarse or 'gt_instances' in coarse
    quality = None
    if judge is not None:
        quality = tuple(map(judge.quality, judge.entries([coarse, fine])))
    return ScopePicture(
        name_of(fine.metainfo.get('img_path', '')),
        image,
        importance,
        selected,
        draw_answer(coarse, image, visualizer),
        draw_answer(fine, image, visualizer),
        draw_answer(coarse, image, visualizer, 'gt') if has_truth else None,
        tuple(float(one.confidence[0]) for one in coarse_passes),
        quality,
    )


def _answer(
    model: nn.Module, item: dict, eta: float
) -> tuple[BaseDataElement, list[ScopeResult]]:
    """The prediction for an image at one threshold, and its passes."""
    batch = dict(
        inputs=[item['inputs']],
        data_samples=[item['data_samples'].clone()],
    )
    with exit_settings(model, eta=eta), collect_passes(model) as passes:
        return model.test_step(batch)[0], passes


def _image_of(item: dict, sample: BaseDataElement) -> np.ndarray:
    """The image to draw on, (H, W, 3) RGB."""
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
        Importance, the mean over the windows that see a pixel, and which
        pixels any of them refines, (H, W) each.
    """
    stride = 2 * model.backbone.patch_size
    importance, seen = np.zeros(canvas), np.zeros(canvas)
    selected = np.zeros(canvas, dtype=bool)
    for window, one in zip(_windows(model, canvas), passes, strict=True):
        shape = importance[window].shape
        scores = one.importance
        if one.refinement.scores is not None:
            scores = one.refinement.scores
        importance[window] += _pixels(scores[0].float(), shape, stride)
        selected[window] |= _pixels(one.refined_cells[0], shape, stride)
        seen[window] += 1
    return importance / seen, selected


def _windows(model: nn.Module, canvas: Size) -> Iterator[tuple[slice, slice]]:
    """Windows in which a model sees a canvas, often the whole of it."""
    test_cfg = getattr(model, 'test_cfg', None) or {}
    if test_cfg.get('mode') != 'slide':
        return iter([(slice(0, canvas[0]), slice(0, canvas[1]))])
    return iter(windows(canvas, test_cfg.crop_size, test_cfg.stride))


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
    importance, selected = (
        cv2.resize(
            np.ascontiguousarray(one[:height, :width], dtype=np.float32),
            image.shape[1::-1],
            interpolation=cv2.INTER_NEAREST,
        )
        for one in maps
    )
    low, high = importance.min(), importance.max()
    return (importance - low) / max(high - low, 1e-12), selected > 0.5
