"""What a model scores at the exits whose speed is measured."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from mmengine.config import Config

from mmscope.engine.launch import build_runner
from mmscope.models import exit_settings, has_exits
from mmscope.utils.structures import unwrap

from .cases import FpsRecord
from .jobs import share_settings

METRICS = ('mIoU', 'coco/segm_mAP', 'coco/bbox_mAP', 'accuracy/top1')


def add_scores(
    records: Sequence[FpsRecord], name: str, cfg: Config, checkpoint: str
) -> list[FpsRecord]:
    """Test a model at every eta, share and exit resolution of its records.

    Forced exits have no score: they do not ask the images.

    Args:
        records: Records of any models.
        name: Model to test.
        cfg: Config of the model, with a test set.
        checkpoint: File of the model's weights.

    Returns:
        The records in order, those of the model with a ``score``.

    Raises:
        FileNotFoundError: the test set is not there.
        ValueError: the config has none.
    """
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = f'{cfg.work_dir}/fps_bench'
    runner = build_runner(cfg, 'none', ('test',), checkpoint)
    model = unwrap(runner.model)
    scores = {}
    for case in (record.case for record in records):
        how = case.eta, case.share, case.exit_resolution
        if case.model != name or case.forced is not None or how in scores:
            continue
        exits = nullcontext()
        resolution = case.exit_resolution
        if case.share is not None:
            forced = share_settings(model.backbone, case.share)
            exits = exit_settings(model, resolution=resolution, **forced)
        elif has_exits(model):
            exits = exit_settings(model, case.eta, resolution=resolution)
        with exits:
            scores[how] = _shown(runner.test())
    return [
        replace(
            record, score=scores[case.eta, case.share, case.exit_resolution]
        )
        if case.model == name and case.forced is None
        else record
        for record in records
        for case in [record.case]
    ]


def _shown(metrics: dict[str, float]) -> str:
    known = [name for name in METRICS if name in metrics] or list(metrics)
    return f'{known[0].rpartition("/")[2]} {metrics[known[0]]:.2f}'
