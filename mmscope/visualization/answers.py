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
from torch import Tensor, nn

from mmscope.datasets.wrappers import inner_datasets
from mmscope.utils.structures import swaps_channels

MASK_ALPHA = 0.65
SCORE_THRESHOLD = 0.3
# shorter side in pixels that a class can be read on
READABLE = 336


def build_visualizer(cfg: Config) -> Visualizer:
    """Build a config's visualizer, knowing its dataset's classes.

    Args:
        cfg: Config of a model of mmseg, mmdet or mmpretrain.

    Raises:
        ValueError: the config has no visualizer.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if not cfg.get('visualizer'):
        raise ValueError(
            f'{cfg.filename} has no visualizer, which draws the answers; set '
            "visualizer=dict(type='SegLocalVisualizer'), "
            "'DetLocalVisualizer' or 'UniversalVisualizer'"
        )
    named = dict(dict(name='mmscope'), **cfg.visualizer)
    visualizer = VISUALIZERS.build(dict(named, vis_backends=None))
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
        sample: Data sample of mmseg, mmdet or mmpretrain.
        image: (H, W, 3), RGB.
        visualizer: Visualizer of the same, with the dataset's meta.
        side: 'pred' or 'gt'; 'both' for a classification.

    Returns:
        (H, W, 3), RGB; that of a classification is enlarged to be read.
    """
    if f'{side}_sem_seg' in sample:
        labels = sample.get(f'{side}_sem_seg').data[0].cpu().numpy()
        palette = (visualizer.dataset_meta or {})['palette']
        return paint(image, labels, palette)
    with tempfile.TemporaryDirectory() as folder:
        out_file = str(Path(folder) / 'drawn.png')
        sides = dict(draw_gt=side != 'pred', draw_pred=side != 'gt')
        if is_classified(sample):
            visualizer.visualize_cls(
                image,
                sample.cpu(),
                resize=max(READABLE, min(image.shape[:2])),
                out_file=out_file,
                **sides,
            )
        else:
            visualizer.add_datasample(
                'scope',
                image,
                sample.cpu(),
                pred_score_thr=SCORE_THRESHOLD,
                out_file=out_file,
                **sides,
            )
        drawn = mmcv.imread(out_file, channel_order='rgb')
    return drawn


def is_classified(sample: BaseDataElement) -> bool:
    """Whether a sample holds the class of an image, as mmpretrain's."""
    return 'pred_label' in sample or 'gt_label' in sample


def image_seen(inputs: Tensor, model: nn.Module) -> np.ndarray:
    """What a model saw of an image, of classifiers often a crop of it.

    Args:
        inputs: What the test pipeline made of the image, (3, H, W), uint8.
        model: Model, whose preprocessor says if that is BGR.

    Returns:
        (H, W, 3), RGB.
    """
    image = inputs.permute(1, 2, 0).cpu().numpy()
    if swaps_channels(model.data_preprocessor):
        image = image[..., ::-1]
    return np.ascontiguousarray(image)


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
