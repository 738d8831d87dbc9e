"""The backbone in mmdet's own detectors, by the configs of the docs."""

import re
from pathlib import Path

import mmdet
import pytest
from detectors import build, make_sample, predict, train_step, varied
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
DETECTORS = {
    'retinanet/retinanet_r50_fpn_1x_coco.py': 'single-stage',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': 'two-stage',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': 'two-stage',
}
# the docs' config with a smaller backbone, on fewer regions
SMALL = """
model['backbone']['arch'] = dict(embed_dims=192, num_layers=4, d_state=4)
model['backbone']['out_indices'] = {layers}
model['test_cfg'] = dict(max_per_img=5)
"""


def read(base: str, kind: str, folder: Path) -> dict:
    """The model of mmdet's config with the changes that the docs name."""
    text = (ROOT / 'docs/detection.md').read_text()
    (block,) = re.findall(rf'```python\n(# {kind}\n.*?)```', text, re.DOTALL)
    layers = (3,) if kind == 'two-stage' else (0, 1, 2, 3)
    path = folder / 'config.py'
    path.write_text(
        f"_base_ = '{CONFIGS / base}'\n{block}" + SMALL.format(layers=layers)
    )
    return Config.fromfile(path).model


@pytest.mark.skipif(not CONFIGS.is_dir(), reason=f'no configs at {CONFIGS}')
@pytest.mark.parametrize('base', sorted(DETECTORS))
def test_it_trains_and_predicts(base: str, tmp_path: Path) -> None:
    config = read(base, DETECTORS[base], tmp_path)
    plain = config.type
    if 'roi_head' in config:
        config.train_cfg.rcnn.sampler.num = 16
        config.train_cfg.rpn_proposal.max_per_img = 50
        config.test_cfg.rpn.max_per_img = 20
    model = build(config)
    assert type(model).__module__.startswith('mmdet.')
    assert type(model).__name__ == plain
    loss, _ = model.parse_losses(
        train_step(model, samples=[make_sample()] * 2)
    )
    loss.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []
    model.eval()
    (sample,) = predict(model, varied(1, (70, 90)), ori_shape=(140, 180))
    boxes = sample.pred_instances.bboxes
    assert boxes.shape[1] == 4
    assert len(sample.pred_instances.scores) == len(boxes)
