"""The demo's model, exported by the tool, gets the same mIoU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from single_run import single_run  # noqa: E402

from mmscope.benchmark.build import build_model  # noqa: E402
from mmscope.engine.launch import load_config  # noqa: E402
from mmscope.export import OnnxScope  # noqa: E402
from mmscope.export.build import model_to_export  # noqa: E402

ROOT = Path(__file__).parents[2]
CONFIG = """
_base_ = '{root}/configs/demo/mambascope_demo.py'
pipeline = [
    {{{{_base_.load_image}}}},
    {{{{_base_.load_mask}}}},
    dict(type='Resize', scale=(120, 90), keep_ratio=False),
    dict(type='PackSegInputs'),
]
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=32, num_layers=4, d_state=4),
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(embed_dim=32),
    decode_head=dict(in_channels=[32] * 4, channels=32),
)
test_dataloader = dict(dataset=dict(data_root='{data}', pipeline=pipeline))
"""


@pytest.fixture
def config(tmp_path: Path, sample_root: Path) -> Path:
    path = tmp_path / 'demo.py'
    path.write_text(CONFIG.format(root=ROOT, data=sample_root))
    return path


@pytest.fixture
def checkpoint(config: Path, tmp_path: Path) -> Path:
    """Weights that are drawn at random, saved as mmengine saves them."""
    model = build_model(load_config(str(config)))
    # heads start near 0, where every class is as likely
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    path = tmp_path / 'drawn.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def mean_iou(samples: list) -> float:
    """mIoU of samples, in percent, as mmseg gives it."""
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=[str(i) for i in range(8)])
    metric.process({}, [one.to_dict() for one in samples])
    return metric.evaluate(len(samples))['mIoU']


@pytest.mark.slow
def test_tool_and_runner_give_the_metric_of_torch(
    config, checkpoint, tmp_path, run_tool, capsys
) -> None:
    folder = tmp_path / 'out'
    options = '--size', 90, 120, '--alpha', 0.5, '--out-dir', folder
    run_tool('export.py', config, checkpoint, *options)
    printed = capsys.readouterr().out
    assert 'segmentation of 90 x 120, share 0.5, eta 0.95' in printed

    with single_run():
        cfg = load_config(str(config))
        model = model_to_export(cfg, str(checkpoint), alpha=0.5)
        init_default_scope('mmseg')
        items = list(DATASETS.build(cfg.test_dataloader.dataset))
        pixels = [one['inputs'].permute(1, 2, 0).numpy() for one in items]
        samples = [one['data_samples'] for one in items]
        data = dict(inputs=[one['inputs'] for one in items])
        for sample in samples:
            # the mask was resized with the image
            sample.set_metainfo(dict(ori_shape=(90, 120)))
        with torch.no_grad():
            wanted = model.test_step(
                data | dict(data_samples=[one.clone() for one in samples])
            )
        # so that some exit and others do not
        eta = sum(sorted(one.exit_confidence for one in wanted)[2:4]) / 2
        model.backbone.eta = eta
        with torch.no_grad():
            wanted = model.test_step(
                data | dict(data_samples=[one.clone() for one in samples])
            )
        scope = OnnxScope(folder, eta=eta, batch_size=4, threads=1)
        found = scope(scope.prepare(pixels))
        for sample, answer in zip(samples, found, strict=True):
            labels = torch.from_numpy(answer.value)[None]
            sample.pred_sem_seg = type(sample.gt_sem_seg)(data=labels)
        assert scope.record.classes[1] == 'circle'
        exited = [one.exited for one in found]
        assert exited == [one.exited for one in wanted]
        assert 0 < np.mean(exited) < 1
        assert mean_iou(samples) == pytest.approx(mean_iou(wanted), abs=0.1)
