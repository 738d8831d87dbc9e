"""Drawing answers over their images."""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from mmscope.datasets.wrappers import inner_datasets

MASK_ALPHA = 0.65
SCORE_THRESHOLD = 0.3


def build_visualizer(cfg: Config) -> Visualizer:
    """Build a config's visualizer, knowing its dataset's classes.

    Args:
        cfg: Config of a model of mmseg or mmdet.

    Raises:
        ValueError: the config has no visualizer.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if not cfg.get('visualizer'):
        raise ValueError(
            f'{cfg.filename} has no visualizer, which draws the answers; set '
            "visualizer=dict(type='SegLocalVisualizer'), or "
            "'DetLocalVisualizer'"
        )
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
    dataset = next(inner_datasets(cfg.test_dataloader.dataset))
    # the classes are known without reading a file
    visualizer.dataset_meta = DATASETS.build(
        dict(copy.deepcopy(dataset), lazy_init=True)
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
        sample: Data sample of mmseg or mmdet.
        image: (H, W, 3), RGB.
        visualizer: Visualizer of mmseg or mmdet, with the dataset's meta.
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
