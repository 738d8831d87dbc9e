"""What draws answers, as a config describes it."""

import pytest

from mmscope.engine.launch import load_config
from mmscope.visualization import build_visualizer

REPEATED = """
test_dataloader = dict(
    dataset=dict(_delete_=True, type='RepeatDataset', times=2,
                 dataset=_base_.val_dataloader.dataset)
)
test_dataloader['dataset']['dataset']['data_root'] = 'nowhere'
"""


def test_classes_are_known_without_the_data(tiny_config) -> None:
    """Of a wrapped dataset, too."""
    cfg = load_config(str(tiny_config(REPEATED)))
    meta = build_visualizer(cfg).dataset_meta
    assert len(meta['classes']) == len(meta['palette']) == 150


def test_a_config_without_visualizer_is_named(tiny_config) -> None:
    cfg = load_config(str(tiny_config()), options=dict(visualizer=None))
    with pytest.raises(ValueError, match='no visualizer.*SegLocalVisualizer'):
        build_visualizer(cfg)
