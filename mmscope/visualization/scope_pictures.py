"""Pictures of what the model looked at, and where each image exited."""

import copy
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import nn

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.models import collect_passes, exit_settings, require_exits
from mmscope.utils.structures import canvas_of

from .figure import save_figure

MASK_ALPHA = 0.65
SCORE_THRESHOLD = 0.3


@dataclass(frozen=True)
class ScopePicture:
    """One image, what the coarse pass made of it, and both answers.

    Attributes:
        name: File name.
        image: (H, W, 3), RGB.
        importance: Of the coarse cells, on the image, (H, W), in [0, 1].
        selected: Which pixels would be refined, (H, W) bool.
        coarse: The coarse answer, drawn, (H, W, 3).
        fine: The fine answer, drawn.
        truth: The ground truth, drawn, or None.
        confidence: Of the coarse answer.
        quality: Of both answers in percent, or None.
    """

    name: str
    image: np.ndarray
    importance: np.ndarray
    selected: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    truth: np.ndarray | None
    confidence: float
    quality: tuple[float, float] | None


@torch.no_grad()
def picture_scope(
    model: nn.Module,
    items: Iterable[dict],
    visualizer: Visualizer,
    metric: TaskMetric | None = None,
) -> list[ScopePicture]:
    """Answer images both ways and draw what there is to see.

    Args:
        model: A segmentor or detector of mmscope that sees whole images.
        items: Of the model's pipeline: 'inputs' and 'data_samples' of one
            image each.
        visualizer: Of mmseg or mmdet, with the dataset's meta.
        metric: Judge of the answers, where there is ground truth.

    Raises:
        ValueError: the model has no exit head, or slides a window.
    """
    require_exits(model, 'a picture of both answers')
    if (getattr(model, 'test_cfg', None) or {}).get('mode') == 'slide':
        raise ValueError(
            "test_cfg.mode='slide' decides for each window; pictures need "
            "test_cfg.mode='whole'"
        )
    model.eval()
    return [_picture(model, item, visualizer, metric) for item in items]


def _picture(
    model: nn.Module,
    item: dict,
    visualizer: Visualizer,
    metric: TaskMetric | None,
) -> ScopePicture:
    def answer(eta: float) -> BaseDataElement:
        batch = dict(
            inputs=[item['inputs']],
            data_samples=[item['data_samples'].clone()],
        )
        with exit_settings(model, eta=eta):
            return model.test_step(batch)[0]

    coarse = answer(0.0)
    with collect_passes(model) as passes:
        fine = answer(1.0)
    path = coarse.metainfo.get('img_path', '')
    image = item.get('image')
    if image is None:
        if not path:
            raise ValueError(
                'a sample does not say its img_path, which is needed to draw '
                "on the image; add 'img_path' to the meta_keys of the test "
                "pipeline's last step"
            )
        image = mmcv.imread(path, channel_order='rgb')
    importance, selected = _on_image(
        passes[0].coarse.importance[0],
        passes[0].fine.selected[0],
        coarse,
        image,
        model,
    )
    has_truth = 'gt_sem_seg' in coarse or 'gt_instances' in coarse
    quality = None
    if metric is not None:
        quality = tuple(map(metric.quality, metric.entries([coarse, fine])))
    return ScopePicture(
        Path(path).name,
        image,
        importance,
        selected,
        draw_answer(coarse, image, visualizer),
        draw_answer(fine, image, visualizer),
        draw_answer(coarse, image, visualizer, 'gt') if has_truth else None,
        coarse.exit_confidence,
        quality,
    )


def _on_image(
    importance: torch.Tensor,
    selected: torch.Tensor,
    sample: BaseDataElement,
    image: np.ndarray,
    model: nn.Module,
) -> tuple[np.ndarray, np.ndarray]:
    """Spread the cells of the padded canvas over the original image."""
    stride = 2 * model.backbone.patch_size
    rows, columns = (-(-side // stride) for side in canvas_of(sample))
    cells = importance.reshape(rows, columns).float().cpu().numpy()
    chosen = np.zeros(rows * columns, dtype=np.float32)
    chosen[selected.cpu().numpy()] = 1
    height, width = sample.metainfo['img_shape'][:2]
    maps = []
    for grid in (cells, chosen.reshape(rows, columns)):
        canvas = grid.repeat(stride, axis=0).repeat(stride, axis=1)
        content = np.ascontiguousarray(canvas[:height, :width])
        maps.append(
            cv2.resize(
                content,
                image.shape[1::-1],
                interpolation=cv2.INTER_NEAREST,
            )
        )
    low, high = maps[0].min(), maps[0].max()
    return (maps[0] - low) / max(high - low, 1e-12), maps[1] > 0.5


def build_visualizer(cfg: Config) -> Visualizer:
    """Build a config's visualizer, knowing its dataset's classes.

    Args:
        cfg: Of a model of mmseg or mmdet.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
    dataset = copy.deepcopy(cfg.test_dataloader.dataset)
    # the classes are known without reading a file
    visualizer.dataset_meta = DATASETS.build(
        dict(dataset, lazy_init=True)
    ).metainfo
    return visualizer


def draw_answer(
    sample: BaseDataElement,
    image: np.ndarray,
    visualizer: Visualizer,
    side: str = 'pred',
) -> np.ndarray:
    """Draw a prediction or the ground truth over its image.

    Args:
        sample: Of mmseg or mmdet.
        image: (H, W, 3), RGB.
        visualizer: Of mmseg or mmdet, with the dataset's meta.
        side: 'pred' or 'gt'.

    Returns:
        (H, W, 3), RGB.
    """
    if f'{side}_sem_seg' in sample:
        labels = sample.get(f'{side}_sem_seg').data[0].cpu().numpy()
        palette = (visualizer.dataset_meta or {})['palette']
        return paint(image, labels, palette)
    with tempfile.TemporaryDirectory() as folder:
        out_file = str(Path(folder) / 'drawn.png')
        visualizer.add_datasample(
            'scope',
            image,
            sample.cpu(),
            draw_gt=side == 'gt',
            draw_pred=side == 'pred',
            pred_score_thr=SCORE_THRESHOLD,
            out_file=out_file,
        )
        drawn = mmcv.imread(out_file, channel_order='rgb')
    return drawn


def paint(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]]
) -> np.ndarray:
    """Colour an image by its labels; what is no class becomes black.

    Args:
        image: (H, W, 3), uint8.
        labels: (H, W).
        palette: RGB of each class.
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    painted = colours[labels.astype(np.uint8)]
    return (MASK_ALPHA * painted + (1 - MASK_ALPHA) * image).astype(np.uint8)


def draw_scope(
    pictures: Sequence[ScopePicture], eta: float, path: str | Path
) -> None:
    """Draw images as rows of panels, the surest first.

    Args:
        pictures: Images.
        eta: Threshold whose decisions are written beside them.
        path: Picture to write.
    """
    save_figure(_figure(pictures, eta), path)


def render_scope(pictures: Sequence[ScopePicture], eta: float) -> np.ndarray:
    """Draw as :func:`draw_scope` does, into an array.

    Returns:
        (H, W, 3), RGB, uint8.
    """
    figure = _figure(pictures, eta)
    figure.tight_layout()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels


def _figure(pictures: Sequence[ScopePicture], eta: float) -> plt.Figure:
    """One row for each image, the surest first."""
    ordered = sorted(pictures, key=lambda p: -p.confidence)
    rows = [_panels(picture, eta) for picture in ordered]
    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(2.5 * columns, sum(map(_height, ordered))),
        squeeze=False,
        gridspec_kw=dict(height_ratios=[_height(p) for p in ordered]),
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, (image, title, bold) in zip(line, row, strict=False):
            axis.imshow(image)
            axis.set_title(
                title, fontsize=8, fontweight='bold' if bold else None
            )
    return figure


def _height(picture: ScopePicture) -> float:
    height, width = picture.image.shape[:2]
    return 2.4 * height / width + 0.35


def _panels(
    picture: ScopePicture, eta: float
) -> list[tuple[np.ndarray, str, bool]]:
    """Panels of one image: picture, title, whether it is the answer."""
    exits = (picture.confidence >= eta or eta == 0) and eta < 1
    verdict = 'exits' if exits else 'is refined'
    titles = ['coarse', 'fine']
    if picture.quality is not None:
        titles = [
            f'{title}, {quality:.0f} %'
            for title, quality in zip(titles, picture.quality, strict=True)
        ]
    panels = [
        (
            picture.image,
            f'{picture.confidence:.2f} {"≥" if exits else "<"} {eta:.3g}: '
            f'{verdict}',
            False,
        ),
        (heat(picture.image, picture.importance), 'importance', False),
        (
            outline(picture.image, picture.selected),
            'cells to refine' + (' (not needed)' if exits else ''),
            False,
        ),
    ]
    if picture.truth is not None:
        panels.append((picture.truth, 'ground truth', False))
    for image, title, bold in (
        (picture.coarse, titles[0], exits),
        (picture.fine, titles[1], not exits),
    ):
        panels.append((image, title + ' = answer' * bold, bold))
    return panels


def heat(image: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Lay a heat map over an image.

    Args:
        image: (H, W, 3).
        importance: (H, W), in [0, 1].
    """
    colours = 255 * plt.get_cmap('inferno')(importance)[..., :3]
    return (0.6 * colours + 0.4 * image).astype(np.uint8)


def outline(image: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Fade what is not selected and draw the border between.

    Args:
        image: (H, W, 3).
        selected: (H, W) bool.
    """
    faded = np.where(selected[..., None], image, 0.3 * image + 0.7 * 255)
    faded = np.ascontiguousarray(faded.astype(np.uint8))
    contours, _ = cv2.findContours(
        selected.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    thickness = max(1, round(max(image.shape[:2]) / 250))
    return cv2.drawContours(faded, contours, -1, (220, 40, 40), thickness)
