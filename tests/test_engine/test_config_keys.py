"""Misspelt keys of configs are named; what is meant is left alone."""

from pathlib import Path

import mmseg
import pytest
from mmengine.config import Config
from single_run import single_run

from mmscope.benchmark.build import build_model
from mmscope.engine.config_keys import check_keys, check_options
from mmscope.engine.launch import build_runner, load_config
from mmscope.engine.signatures import nearest

ROOT = Path(__file__).parents[2]


def refused(config: Path, key: str, value: object = 1) -> str:
    """The error about an option."""
    with pytest.raises(ValueError) as error:
        load_config(str(config), options={key: value})
    return str(error.value)


@pytest.mark.parametrize(
    ('key', 'wrong', 'owner', 'right', 'allowed'),
    [
        ('model.backbone.{}', 'aplha', 'MambaScopeBackbone', 'alpha', 'beta'),
        ('model.decode_head.{}', 'num_clases', 'UPerHead', 'num_classes', ''),
        ('model.{}.channels', 'decode_haed', 'Segmentor', 'decode_head', ''),
        ('{}.optimizer.lr', 'optim_wraper', 'config', 'optim_wrapper', ''),
        ('{}', 'resum', 'config', 'resume', 'load_from'),
        ('optim_wrapper.optimizer.{}', 'l', 'AdamW', 'lr', 'betas'),
        ('train_cfg.{}', 'max_iter', 'IterBasedTrainLoop', 'max_iters', ''),
        ('val_dataloader.{}', 'num_worker', 'val_', 'num_workers', 'sampler'),
        ('test_dataloader.dataset.{}', 'data_rot', 'ADE', 'data_root', ''),
        ('default_hooks.{}.interval', 'chekpoint', '', 'checkpoint', 'stop'),
        ('default_hooks.checkpoint.{}', 'intervl', 'Safe', 'interval', ''),
        ('test_evaluator.0.{}', 'iou_metric', 'IoUMetric', 'iou_metrics', ''),
        ('param_scheduler.1.{}', 'powr', 'PolyLR', 'power', 'eta_min'),
        ('env_cfg.{}', 'cudnn_benchmrk', 'env', 'cudnn_benchmark', 'mp_cfg'),
        ('model.test_cfg.{}', 'mdoe', 'model.test_cfg', 'mode', 'mode'),
        ('randomness.{}', 'sed', 'randomness', 'seed', 'deterministic'),
    ],
)
def test_misspelt_options_are_named(
    tiny_config, key, wrong, owner, right, allowed
) -> None:
    text = refused(tiny_config(), key.format(wrong))
    place, _, rest = text.partition(': ')
    assert place == key.partition('{}')[0] + wrong
    said, _, takes = rest.partition('; did you mean ')
    assert owner in said
    assert f"has no '{wrong}'" in said
    assert takes.startswith(f"'{right}'? It takes ")
    assert allowed in takes.partition('? ')[2]


def test_options_inside_a_value_are_looked_at(tiny_config) -> None:
    text = refused(tiny_config(), 'model', dict(backbone=dict(aplha=0.5)))
    assert text.startswith('model.backbone.aplha: ')


@pytest.mark.parametrize(
    'options',
    [
        {'model.backbone.init_cfg.type': 'Pretrained'},
        {'model.backbone.init_cfg.checkpoint': 'vim.pth'},
        {'model.backbone.tau': 0.5},
        {'model.decode_head.loss_decode.class_weight': [1.0] * 150},
        {'optim_wrapper.accumulative_counts': 4},
        {'optim_wrapper.clip_grad.max_norm': 1},
        {'optim_wrapper.paramwise_cfg.custom_keys.norms.decay_mult': 0},
        {'custom_hooks': [dict(type='EMAHook', priority='NORMAL')]},
        {'default_hooks.profiler': dict(type='ProfilerHook')},
        {'train_dataloader.dataset.indices': 3},
        {'train_dataloader.prefetch_factor': 4},
        {'visualizer.vis_backends': [dict(type='TensorboardVisBackend')]},
        {'auto_scale_lr.base_batch_size': 32},
        {'load_from': 'a.pth', 'find_unused_parameters': True},
        {'train_dataloader.dataset.data_prefix.img_paths': 'a'},
        {'calibration_dataloader': None, 'compile': True},
    ],
)
def test_what_is_meant_passes(tiny_config, options) -> None:
    cfg = load_config(str(tiny_config()), options=options)
    for key, value in options.items():
        node = cfg
        for part in key.split('.'):
            node = node[part]
        assert node == value


def test_an_option_that_nobody_reads_is_told(tiny_config, capfd) -> None:
    with single_run():
        cfg = load_config(str(tiny_config()), options={'my_own': 3})
    assert cfg.my_own == 3
    text = ''.join(capfd.readouterr())
    assert '--cfg-options my_own: the config has no my_own, and nei' in text


def test_a_misspelt_key_at_the_top_of_a_file(tiny_config) -> None:
    config = tiny_config('optim_wraper = dict(clip_grad=None)\n')
    with pytest.raises(ValueError, match="has no 'optim_wraper'; did you me"):
        load_config(str(config))


def test_variables_of_a_file_pass(tiny_config, tmp_path) -> None:
    """By name in the file itself, and by value in what a tool dumps."""
    own = 'my_size = 3\nval_evaluators = [dict(type="mmscope.ExitMetric")]\n'
    config = tiny_config(own + 'test_evaluator = val_evaluators\n')
    cfg = load_config(str(config))
    cfg.dump(tmp_path / 'dumped.py')
    assert 'val_evaluators' in load_config(str(tmp_path / 'dumped.py'))


FILES = {
    'model.decode_head.num_clases': (
        "model['decode_head']['num_clases'] = 3",
        "UPerHead has no 'num_clases'; did you mean 'num_classes'",
    ),
    'val_evaluator.0.iou_metric': (
        "val_evaluator = [dict(type='IoUMetric', iou_metric=['mIoU'])]",
        "IoUMetric has no 'iou_metric'; did you mean 'iou_metrics'",
    ),
    'train_dataloader.dataset.pipeline.0.zzz': (
        "train_dataloader['dataset']['pipeline'] = [\n"
        "    dict(type='LoadImageFromFile', zzz=1)]",
        "LoadImageFromFile has no 'zzz'; did you mean ",
    ),
    'default_hooks.timer.zzz': (
        "default_hooks['timer'] = dict(type='IterTimerHook', zzz=1)",
        "IterTimerHook has no 'zzz'; did you mean ",
    ),
}


@pytest.mark.parametrize('key', FILES)
def test_keys_that_reach_a_constructor(tiny_config, tmp_path, key) -> None:
    """mmengine's TypeError says neither where it is nor what is allowed."""
    line, sentence = FILES[key]
    config = tiny_config(line + '\n')
    with single_run(), pytest.raises(ValueError) as error:
        cfg = load_config(str(config), str(tmp_path))
        build_runner(cfg, 'none', ('train', 'val'))
    assert str(error.value).startswith(f'{key}: {sentence}')


def test_a_model_that_is_built_alone_names_keys(tiny_config) -> None:
    line, sentence = FILES['model.decode_head.num_clases']
    cfg = load_config(str(tiny_config(line)))
    with pytest.raises(ValueError, match=sentence):
        build_model(cfg)


def test_other_type_errors_stay(tiny_config, tmp_path) -> None:
    config = tiny_config("model['backbone']['img_size'] = (64, None)\n")
    with single_run(), pytest.raises(TypeError, match='unsupported operand'):
        cfg = load_config(str(config), str(tmp_path))
        build_runner(cfg, 'none', ('train',))


def test_names_of_swapped_letters_are_near() -> None:
    assert nearest('rl', {'lr', 'eta'}) == 'lr'
    assert nearest('learning_rate', {'lr', 'eta'}) is None


def read(path: Path) -> Config | None:
    try:
        return Config.fromfile(path)
    except (ImportError, FileNotFoundError):  # of what is not installed
        return None


@pytest.mark.slow
def test_whole_configs_pass() -> None:
    """All of ours, and others of mmseg with all their ways to say things."""
    upstream = Path(mmseg.__file__).parent / '.mim' / 'configs'
    files = [
        *sorted((ROOT / 'configs').rglob('*.py')),
        *sorted(upstream.rglob('*.py'))[::12],
    ]
    found = [read(path) for path in files if '_base_' not in path.parts]
    configs = [cfg for cfg in found if cfg is not None and 'model' in cfg]
    assert len(configs) > 100
    for cfg in configs:
        check_keys(cfg)
        check_options(cfg, {'randomness.seed': 1})
