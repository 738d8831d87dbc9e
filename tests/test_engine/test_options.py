"""What tools/train.py and tools/test.py do to a config, however written."""

import copy
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope

from mmscope.engine.launch import build_runner, load_config
from mmscope.engine.options import (
    set_auto_scale_lr,
    set_eta,
    set_output,
    set_pictures,
    set_resume,
    set_tau,
)
from mmscope.models import has_exits, require_exits
from mmscope.registry import HOOKS, MODELS
from mmscope.utils.config import metric_configs, type_name

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text()
# a config whose types are classes
CLASSES = {
    "'mmscope.MambaScopeSegmentor'": 'mmscope.models',
    "'mmscope.MambaScopeBackbone'": 'mmscope.models',
    "'mmscope.ExitMetric'": 'mmscope.evaluation',
    "'IoUMetric'": 'mmseg.evaluation',
    "'SegVisualizationHook'": 'mmseg.engine.hooks',
}


def pure_python(config: Path, target: Path) -> Path:
    """Write a config anew, some of its types as classes."""
    text, lines = Config.fromfile(config).pretty_text, []
    for name, module in CLASSES.items():
        assert name in text
        kind = name.strip("'").split('.')[-1]
        lines.append(f'from {module} import {kind}')
        text = text.replace(f'type={name}', f'type={kind}')
    target.write_text('\n'.join([*lines, text]))
    return target


@pytest.fixture
def write(tiny_config, tmp_path):
    """The tiny config in each way that people write configs."""

    def run(kind: str) -> Path:
        config = tiny_config("val_dataloader['dataset']['indices'] = 2\n")
        path = tmp_path / f'{kind}.py'
        if kind == 'classes':
            return pure_python(config, path)
        cfg = Config.fromfile(config)
        if kind == 'scoped':
            for split in ('val', 'test'):
                cfg[f'{split}_evaluator'][0].type = 'mmseg.IoUMetric'
            cfg.default_hooks.visualization.type = 'mmseg.SegVisualizationHook'
        else:
            cfg.default_scope = 'mmscope'
            cfg.model.type = 'MambaScopeSegmentor'
            cfg.model.backbone.type = 'MambaScopeBackbone'
        cfg.dump(path)
        return path

    return run


@pytest.mark.parametrize('kind', ['classes', 'scoped', 'bare'])
def test_types_are_known_however_they_are_written(
    write, tmp_path, kind
) -> None:
    cfg = load_config(str(write(kind)))
    assert has_exits(cfg)
    set_eta(cfg, 0.3)
    set_tau(cfg, -2.5)
    set_output(cfg, str(tmp_path))
    set_pictures(cfg, str(tmp_path))
    iou, exits = cfg.test_evaluator
    assert cfg.model.backbone.eta == 0.3
    assert cfg.model.backbone.tau == -2.5
    assert iou.output_dir == str(tmp_path / 'predictions')
    assert (tmp_path / 'predictions').is_dir()
    assert exits.out_file == str(tmp_path / 'exits.json')
    assert cfg.default_hooks.visualization.draw


def test_a_pure_python_config_is_tested(
    write, train, run_tool, tmp_path, tiny_config
) -> None:
    short = 'train_cfg = dict(max_iters=1, val_interval=9)\n'
    train(tiny_config(short), tmp_path / 'work')
    out = tmp_path / 'out'
    run_tool(
        'test.py',
        *(write('classes'), tmp_path / 'work/iter_1.pth'),
        *('--eta', 0, '--out', out, '--work-dir', tmp_path / 'work'),
    )
    assert json.loads((out / 'metrics.json').read_text())['exit/rate'] == 1
    assert len(json.loads((out / 'exits.json').read_text())) == 2


def test_names_of_types() -> None:
    assert type_name(dict(type='mmseg.IoUMetric')) == 'IoUMetric'
    assert type_name(dict(type=Hook)) == 'Hook'
    assert type_name(dict(a=1)) == type_name(None) == ''


def test_metrics_of_an_evaluator() -> None:
    one, other = dict(type='IoUMetric'), dict(type='mmscope.ExitMetric')
    assert metric_configs([one, other]) == [one, other]
    assert metric_configs(one) == [one]
    assert metric_configs(dict(type='Evaluator', metrics=[one])) == [one]
    assert metric_configs(dict(metrics=other)) == [other]
    assert metric_configs(None) == []


def test_a_dict_alone_is_an_evaluator(tiny_config, tmp_path) -> None:
    cfg = load_config(str(tiny_config()))
    cfg.test_evaluator = dict(type='IoUMetric')
    set_output(cfg, str(tmp_path))
    assert cfg.test_evaluator.output_dir == str(tmp_path / 'predictions')


@pytest.mark.parametrize(
    ('option', 'lines', 'message'),
    [
        (
            set_auto_scale_lr,
            dict(auto_scale_lr=None),
            r'--auto-scale-lr needs.*auto_scale_lr.base_batch_size=16',
        ),
        (
            lambda cfg: set_pictures(cfg, 'pictures'),
            {'default_hooks.visualization': None},
            '--show-dir needs default_hooks.visualization.*has None',
        ),
        (
            lambda cfg: set_output(cfg, 'out'),
            dict(test_evaluator=None),
            '--out needs a test_evaluator.*got None',
        ),
        (
            lambda cfg: build_runner(cfg, 'none', ('test',)),
            dict(test_dataloader=None),
            'has no test_dataloader; .*set it.*to val_dataloader',
        ),
        (
            lambda cfg: build_runner(cfg, 'none', ('train',)),
            dict(train_dataloader=None),
            'has no train_dataloader',
        ),
        (
            lambda cfg: build_runner(cfg, 'none', ('train',)),
            {'strategy.type': 'FSDPStrategy'},
            'strategy=FSDPStrategy is for .*FlexibleRunner.*take strategy out',
        ),
        (
            lambda cfg: require_exits(cfg, 'this'),
            {'model.backbone.exit_head': None},
            'this needs a model with early exits.*is MambaScopeBackbone',
        ),
        (
            lambda cfg: set_tau(cfg, 0.1),
            {'model.backbone.exit_head': None},
            '--tau needs a model with early exits',
        ),
        (
            lambda cfg: set_tau(cfg, float('nan')),
            {},
            '--tau must be a finite number, got nan',
        ),
        (
            lambda cfg: set_tau(cfg, float('-inf')),
            {},
            'got -inf; to refine all.*model.backbone.tau=None',
        ),
    ],
)
def test_what_a_config_lacks_is_said(
    tiny_config, option, lines, message
) -> None:
    cfg = load_config(str(tiny_config()), options=lines)
    with pytest.raises(ValueError, match=message):
        option(cfg)


def test_options_without_workers_are_dropped(tiny_config, tmp_path) -> None:
    """torch refuses prefetch_factor and persistent_workers then."""
    lines = dict(prefetch_factor=2, persistent_workers=True, num_workers=0)
    cfg = load_config(
        str(tiny_config()), str(tmp_path), dict(test_dataloader=lines)
    )
    loader = build_runner(cfg, 'none', ('test',)).test_loop.dataloader
    assert len(loader.dataset) == 3


def test_what_runs_is_what_the_config_says(tiny_config, tmp_path) -> None:
    """Nothing is wrapped, so that the config that is dumped can be used."""
    splits = ('train', 'val', 'test')
    cfg = load_config(str(tiny_config()), str(tmp_path))
    said = copy.deepcopy(cfg.to_dict())
    found = build_runner(cfg, 'none', splits).cfg.to_dict()
    assert found['model'] == said['model']
    for split in splits:
        loader = f'{split}_dataloader'
        assert found[loader]['dataset'] == said[loader]['dataset']
    for split in ('val', 'test'):
        evaluator = found[f'{split}_evaluator']
        assert evaluator == said[f'{split}_evaluator']


@pytest.mark.parametrize('size', ['t', 's'])
@pytest.mark.parametrize('task', ['upernet', 'cascade_mask_rcnn'])
def test_a_config_merges_over_ours(tmp_path, task, size) -> None:
    """Another size and a policy, without _delete_."""
    data = dict(upernet='ade20k', cascade_mask_rcnn='coco')[task]
    base = ROOT / f'configs/{task}/mambascope_{size}_{data}.py'
    path = tmp_path / 'child.py'
    path.write_text(
        f"_base_ = '{base}'\n"
        'model = dict(backbone=dict(\n'
        '    arch=dict(embed_dims=64, num_layers=8),\n'
        "    exit_policy=dict(type='mmscope.HeadConfidence', mode='max'),\n"
        '))\n'
    )
    arch = Config.fromfile(path).model.backbone.arch
    assert arch == dict(embed_dims=64, num_layers=8)
    cfg = load_config(str(base), options={'model.backbone.arch': 'base'})
    assert cfg.model.backbone.arch == 'base'


def test_readmes_example_over_mmsegs_own_config(tmp_path) -> None:
    import mmseg

    base = Path(mmseg.__file__).parent / '.mim/configs/_base_/models'
    (example,) = (
        block
        for block in README.split('```python\n')[1:]
        if 'mmscope.MambaScopeBackbone' in block.split('```')[0]
    )
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = '{base}/upernet_r50.py'\n" + example.split('```')[0]
    )
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(path).model)
    assert type(model.backbone).__name__ == 'MambaScopeBackbone'


@HOOKS.register_module()
class FailingHook(Hook):
    """A hook that fails when all is computed, as drawing may."""

    def after_test_epoch(self, runner, metrics=None) -> None:
        raise RuntimeError('no space left')


def test_metrics_are_written_before_a_hook_fails(
    train, run_tool, tiny_config, tmp_path
) -> None:
    config = tiny_config(
        'train_cfg = dict(max_iters=1, val_interval=9)\n'
        "custom_hooks = [dict(type='mmscope.FailingHook')]\n"
    )
    train(config, tmp_path / 'work')
    out = tmp_path / 'out'
    with pytest.raises(RuntimeError, match='no space left'):
        run_tool(
            'test.py',
            *(config, tmp_path / 'work/iter_1.pth', '--out', out),
            *('--work-dir', tmp_path / 'work'),
        )
    assert 'mIoU' in json.loads((out / 'metrics.json').read_text())
    assert len(json.loads((out / 'exits.json').read_text())) == 3


def test_resuming_nothing_starts_as_the_config_says(tmp_path: Path) -> None:
    cfg = Config(dict(work_dir=str(tmp_path), load_from='vim.pth'))
    set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'vim.pth')
    checkpoint = tmp_path / 'epoch_1.pth'
    (tmp_path / 'last_checkpoint').write_text('elsewhere/epoch_1.pth')
    with pytest.raises(FileNotFoundError, match=r'no epoch_1\.pth in'):
        set_resume(cfg, 'auto')
    checkpoint.touch()
    set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, str(checkpoint))
