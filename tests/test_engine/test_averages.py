"""Hooks that average weights: what is tested are the averages."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from single_run import single_run

from mmscope.engine.launch import build_runner, load_config
from mmscope.utils.checkpoint import read_state_dict

SHORT = """
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks['checkpoint'] = dict(interval=2)
default_hooks['ema'] = dict(type='{kind}', momentum=0.1)
"""


@pytest.mark.parametrize('kind', ['EMAHook', 'mmpretrain.EMAHook'])
def test_a_checkpoint_is_tested_with_its_averages(
    tiny_config: Callable[..., Path],
    train: Callable,
    tmp_path: Path,
    kind: str,
) -> None:
    config = tiny_config(SHORT.format(kind=kind))
    trained = train(config, tmp_path)
    (hook,) = [hook for hook in trained.hooks if isinstance(hook, EMAHook)]
    averages = dict(hook.ema_model.module.named_parameters())
    cfg = load_config(str(config), str(tmp_path / 'test'))
    with single_run():
        checkpoint = str(tmp_path / 'iter_2.pth')
        tested = build_runner(cfg, 'none', ('test',), checkpoint)
        tested.test()
    weights = dict(tested.model.named_parameters())
    torch.testing.assert_close(weights, averages, rtol=0, atol=0)
    last = trained.model.backbone.patch_embed
    assert any(
        not torch.equal(weights[f'backbone.patch_embed.{name}'], weight)
        for name, weight in last.named_parameters()
    )
    kinds = dict(model=weights, ema=averages)
    kinds['raw'] = dict(trained.model.named_parameters())
    for which, expected in kinds.items():
        read = read_state_dict(checkpoint, weights=which)
        for name, value in expected.items():
            assert torch.equal(read[name], value), (which, name)
    # what a run wrote trains on as it did before
    assert 'ema' in tested.cfg.default_hooks
