"""Pixels of no class have one label wherever a config says which."""

import pytest
from mmengine.config import Config

from mmscope.datasets.void_checks import check_void_label

SPLITS = ('train', 'val', 'test')


@pytest.fixture
def cfg() -> Config:
    """A segmentation config whose void label is 8."""
    check = dict(type='mmscope.CheckLabels', num_classes=8, ignore_index=8)
    inner = dict(type='BaseSegDataset', pipeline=[dict(type='Any'), check])
    wrapped = dict(type='RepeatDataset', times=2, dataset=inner)
    metrics = [
        dict(type='mmseg.IoUMetric', ignore_index=8),
        dict(type='mmscope.ExitMetric', ignore_index=8),
    ]
    return Config(
        dict(
            model=dict(
                data_preprocessor=dict(type='Any', seg_pad_val=8),
                decode_head=dict(type='Any', ignore_index=8),
                auxiliary_head=[dict(type='Any', ignore_index=8)],
            ),
            train_dataloader=dict(dataset=wrapped),
            val_dataloader=dict(dataset=inner),
            test_dataloader=dict(dataset=inner),
            val_evaluator=metrics,
            test_evaluator=metrics[0],
        )
    )


def test_one_label_everywhere_passes(cfg: Config) -> None:
    check_void_label(cfg, SPLITS)
    check_void_label(Config(dict(model=dict(type='Detector'))), SPLITS)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model.data_preprocessor.seg_pad_val': 255}, 'seg_pad_val is 255'),
        (
            {'model.auxiliary_head.0.ignore_index': 0},
            'auxiliary_head.ignore_index is 0',
        ),
        (
            {'train_dataloader.dataset.dataset.pipeline.1.ignore_index': 255},
            'train_pipeline: CheckLabels.ignore_index is 255',
        ),
        (
            {'val_evaluator.1.ignore_index': 255},
            'val_evaluator: ExitMetric.ignore_index is 255',
        ),
        (
            {'test_evaluator.ignore_index': 255},
            'test_evaluator: IoUMetric.ignore_index is 255',
        ),
    ],
)
def test_another_label_is_named(cfg: Config, change, message) -> None:
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=f'{message}, and .*is 8.*=8 there'):
        check_void_label(cfg, SPLITS)


def test_what_does_not_run_is_not_looked_at(cfg: Config) -> None:
    cfg.model.data_preprocessor.seg_pad_val = 255
    cfg.val_evaluator[0].ignore_index = 255
    check_void_label(cfg, ('test',))


def test_a_metric_may_leave_out_a_class(cfg: Config) -> None:
    """The background, while the void label is mmseg's."""
    metric = dict(type='IoUMetric', ignore_index=0)
    plain = dict(decode_head=dict(type='Any', num_classes=8))
    check_void_label(
        Config(dict(model=plain, test_evaluator=[metric])), ('test',)
    )
