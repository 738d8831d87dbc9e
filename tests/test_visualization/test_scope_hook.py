import re
from pathlib import Path

import pytest
from PIL import Image

from mmscope.visualization import ScopeVisualizationHook

HOOK = """
custom_hooks = [dict(type='mmscope.ScopeVisualizationHook', num_images=2)]
train_cfg = dict(max_iters=2, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=100, save_best=None))
"""


def test_validations_leave_pictures(train, tiny_config, tmp_path) -> None:
    runner = train(tiny_config(HOOK), tmp_path)
    written = sorted(tmp_path.rglob('vis_image/scope_*.png'))
    names = [
        re.fullmatch(r'scope_(val_\d+)\.jpg_(\d)', p.stem) for p in written
    ]
    # two images after each of two validations, named after the iteration
    assert sorted(n[2] for n in names) == ['1', '1', '2', '2']
    assert len({n[1] for n in names}) == 2
    assert all(min(Image.open(Path(p)).size) > 100 for p in written)
    assert runner.model.backbone.eta == runner.cfg.model.backbone.eta


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match='num_images must be positive, got 0'):
        ScopeVisualizationHook(num_images=0)
    with pytest.raises(ValueError, match='interval must be positive, got -1'):
        ScopeVisualizationHook(interval=-1)


def test_a_model_without_exits_is_refused_at_once(
    train, tiny_config, tmp_path
) -> None:
    config = tiny_config(HOOK, base='vim_t_ade20k')
    with pytest.raises(ValueError, match='ScopeVisualizationHook needs a mod'):
        train(config, tmp_path)
    assert not list(tmp_path.rglob('*.pth'))
