"""Batch, accumulation, learning rate and iterations, and their command."""

import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from mmengine.config import Config

from mmscope.engine.launch import load_config
from mmscope.planning.command import plan_command
from mmscope.planning.schedule import choose_schedule, read_loop

ROOT = Path(__file__).parents[2]
ADE = 'configs/upernet/mambascope_t_ade20k.py'  # 4 x 4 = 16, 160k iterations
IMAGENET = 'configs/imagenet/vim_t_in1k.py'  # 4 x 64 = 256, epochs, EMA
COCO = 'configs/cascade_mask_rcnn/mambascope_t_coco.py'  # 8 x 8 = 64
DEMO = 'configs/demo/mambascope_demo.py'  # 8, and no base_batch_size


def loaded(name: str, options: dict | None = None) -> Config:
    return load_config(str(ROOT / name), options=options)


@pytest.mark.parametrize(
    ('name', 'gpus', 'most', 'batch', 'accumulation'),
    [
        (ADE, 8, 100, 2, 1),
        (ADE, 8, 1, 1, 2),
        (ADE, 1, 100, 16, 1),
        (ADE, 1, 15, 8, 2),
        (ADE, 2, 3, 2, 4),
        (IMAGENET, 8, 1000, 32, 1),
        (IMAGENET, 1, 100, 64, 4),
        (COCO, 8, 3, 2, 4),
        (DEMO, 1, 8, 8, 1),
    ],
)
def test_the_batch_of_the_config_is_kept(
    name: str, gpus: int, most: int, batch: int, accumulation: int
) -> None:
    schedule = choose_schedule(loaded(name), gpus, most)
    assert (schedule.batch, schedule.accumulation) == (batch, accumulation)
    assert schedule.exact
    assert schedule.lr == loaded(name).optim_wrapper.optimizer.lr
    assert 'optim_wrapper.optimizer.lr' not in schedule.options


@pytest.mark.parametrize(
    ('gpus', 'given', 'total'),
    [
        (3, None, 15),  # 3 x 5; 18 is farther
        (32, None, 32),  # more processes than images
        (1, 3, 15),  # 5 x 3
        (1, 100, 100),
        (8, 3, 24),
    ],
)
def test_else_the_rate_is_scaled_and_as_many_images_are_seen(
    gpus: int, given: int | None, total: int
) -> None:
    cfg = loaded(ADE)
    schedule = choose_schedule(cfg, gpus, 100, given)
    assert schedule.total == total
    assert schedule.lr == pytest.approx(6e-5 * total / 16)
    options = schedule.options
    assert options['optim_wrapper.optimizer.lr'] == pytest.approx(
        schedule.lr, rel=1e-5
    )
    step = schedule.gpus * schedule.batch
    seen = options['train_cfg.max_iters'] * step
    assert seen == pytest.approx(160_000 * 16, abs=step)
    assert any(f'{total} / 16' in note for note in schedule.notes)


def test_accumulation_scales_whatever_counts_iterations() -> None:
    schedule = choose_schedule(loaded(ADE), gpus=8, most=1)
    assert schedule.options == {
        'train_dataloader.batch_size': 1,
        'optim_wrapper.accumulative_counts': 2,
        'train_cfg.max_iters': 320_000,
        'train_cfg.val_interval': 32_000,
        'param_scheduler.0.end': 3000,
        'param_scheduler.1.begin': 3000,
        'param_scheduler.1.end': 320_000,
        'default_hooks.checkpoint.interval': 32_000,
    }


def test_epochs_stay_and_averages_are_taken_once_an_update() -> None:
    schedule = choose_schedule(loaded(IMAGENET), gpus=1, most=100)
    assert schedule.options == {
        'optim_wrapper.accumulative_counts': 4,
        'default_hooks.ema.interval': 4,
    }


def test_a_config_that_accumulates_has_fewer_updates_than_iterations() -> None:
    given = {
        'optim_wrapper.accumulative_counts': 4,
        'train_dataloader.batch_size': 1,
    }
    # 160k iterations are 40k updates of 16 images, of 4 processes
    schedule = choose_schedule(loaded(ADE, given), gpus=4, most=4)
    assert (schedule.batch, schedule.accumulation) == (4, 1)
    assert schedule.options['train_cfg.max_iters'] == 40_000


def test_scaling_that_the_config_asks_for_is_done_once() -> None:
    given = {'auto_scale_lr.enable': True}
    schedule = choose_schedule(loaded(ADE, given), gpus=8, most=1)
    assert schedule.options['auto_scale_lr.enable'] is False


def test_a_batch_that_no_config_names_is_said_to_be_assumed() -> None:
    loop = read_loop(loaded(DEMO))
    assert (loop.reference, loop.assumed) == (8, True)
    notes = choose_schedule(loaded(DEMO), 1, 8).notes
    assert any('base_batch_size' in note for note in notes)


@pytest.mark.parametrize(
    ('gpus', 'batch', 'message'),
    [
        (0, None, '--gpus must be at least 1, got 0'),
        (-2, None, '--gpus must be at least 1, got -2'),
        (1, 0, '--batch-size must be at least 1, got 0'),
    ],
)
def test_numbers_below_one_are_refused(gpus, batch, message) -> None:
    with pytest.raises(ValueError, match=message):
        choose_schedule(loaded(ADE), gpus, 8, batch)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(train_cfg=None), 'has no train_cfg: a plan is of a training'),
        (dict(optim_wrapper=None), 'has no optim_wrapper'),
        (dict(train_cfg=dict(by_epoch=False)), 'neither train_cfg.max_epochs'),
        (dict(optim_wrapper=dict(constructor='x')), 'optimizer.lr'),
        (dict(train_dataloader=dict(num_workers=1)), 'batch_size'),
    ],
)
def test_a_config_that_does_not_train_is_refused(change, message) -> None:
    cfg = loaded(ADE)
    for key, value in change.items():
        cfg[key] = value
    with pytest.raises(ValueError, match=message):
        read_loop(cfg)


def parsed(command: str, monkeypatch: pytest.MonkeyPatch):
    """Options of tools/train.py in a command, and its processes."""
    words, gpus = shlex.split(command), 1
    if words[0] == 'tools/dist_train.sh':
        gpus, words = int(words[2]), [*words[:2], *words[3:]]
    else:
        assert words[:2] == ['python', 'tools/train.py']
        words = words[1:]
    path = ROOT / 'tools/train.py'
    spec = spec_from_file_location('train', path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', ['train', *words[1:]])
    return module.parse_args(), gpus


@pytest.mark.parametrize('name', [ADE, IMAGENET, COCO, DEMO])
@pytest.mark.parametrize('gpus', [1, 3, 8])
@pytest.mark.parametrize('most', [1, 6, 100])
def test_the_command_trains_as_planned(
    name: str, gpus: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        'model.backbone.drop_path_rate': 0.2,
        'model.backbone.alpha': [0.5, 1.0],
        'train_dataloader.dataset.data_root': 'some_where/data',
    }
    if 'mambascope' not in name:
        del changes['model.backbone.alpha']
    cfg = loaded(name, changes)
    schedule = choose_schedule(cfg, gpus, most)
    command = plan_command(
        str(ROOT / name), schedule, amp=True, changes=changes
    )
    args, processes = parsed(command, monkeypatch)
    assert args.amp and processes == gpus
    read = load_config(args.config, options=args.cfg_options)
    loop = read_loop(read)
    assert loop.batch == schedule.batch
    assert loop.accumulation == schedule.accumulation
    assert loop.lr == pytest.approx(schedule.lr, rel=1e-5)
    assert read.model.backbone.drop_path_rate == 0.2
    assert read.model.backbone.get('alpha', None) == changes.get(
        'model.backbone.alpha'
    )
    assert read.train_dataloader.dataset.data_root == 'some_where/data'
    if not loop.by_epoch:
        before = read_loop(cfg)
        seen = loop.length * gpus * schedule.batch
        assert seen == pytest.approx(
            before.length * before.reference, abs=gpus * schedule.batch
        )
        assert read.param_scheduler[-1].end == loop.length


def test_a_dict_cannot_be_written() -> None:
    schedule = choose_schedule(loaded(ADE), 4, 4)
    with pytest.raises(ValueError, match='set its keys one by one'):
        plan_command(ADE, schedule, changes={'model': dict(neck=None)})
