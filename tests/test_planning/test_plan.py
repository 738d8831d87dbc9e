"""Memory, work and the whole plan of small configs."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from single_run import single_run
from torch import nn
from traced_flops import traced_flops

from mmscope.benchmark.build import build_model
from mmscope.engine.launch import build_runner, load_config
from mmscope.planning import DEVICES, find_device, make_plan, training_work
from mmscope.planning.activations import Activations
from mmscope.planning.batches import noise_batch
from mmscope.planning.lengths import validation_batches
from mmscope.planning.memory import (
    GPU_CONTEXT,
    TEMPORARY_SHARE,
    count_state,
    largest_batch,
    memory_parts,
)
from mmscope.planning.schedule import read_loop
from mmscope.planning.work import (
    HOST_MS_PER_BLOCK,
    OPTIMISTIC,
    PESSIMISTIC,
    Work,
    milliseconds_per_giga,
    step_milliseconds,
)

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'


def test_state_is_counted_by_hand() -> None:
    cfg = Config(
        dict(
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            default_hooks=dict(ema=dict(type='EMAHook')),
        )
    )
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    net[0].bias.requires_grad_(False)
    weights = 4 * (3 * 5 + 5 + 4 * 5) + 8  # a counter of BatchNorm is int64
    trained = 4 * (3 * 5 + 2 * 5)
    state = count_state(cfg, net)
    assert state.weights == state.averages == weights
    assert state.gradients == trained
    # two moments, and a step of each of three parameters
    assert state.optimizer == 2 * trained + 3 * 4


@pytest.mark.parametrize(
    ('optimizer', 'copies'),
    [
        (dict(type='SGD', lr=0.1), 0),
        (dict(type='SGD', lr=0.1, momentum=0.9), 1),
    ],
)
def test_other_optimizers_keep_other_states(optimizer, copies: int) -> None:
    cfg = Config(dict(optim_wrapper=dict(optimizer=optimizer)))
    state = count_state(cfg, nn.Linear(3, 5))
    assert (state.optimizer, state.averages) == (4 * 20 * copies, 0)


def test_parts_add_up_and_the_largest_batch_just_fits() -> None:
    cfg = Config(
        dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)))
    )
    state = count_state(cfg, nn.Linear(1000, 1000))
    kept = Activations(fixed=1e6, per_image=2e6, recomputed=5e5)
    parts = memory_parts(state, kept, 3, gpus=8, on_gpu=True)
    assert parts['activations for backward'] == 1e6 + 3 * 2.5e6
    assert parts['temporary (assumed)'] == TEMPORARY_SHARE * 8.5e6
    assert parts['buckets of gradients'] == state.gradients
    assert parts['context, libraries (assumed)'] == GPU_CONTEXT
    here = memory_parts(state, kept, 3, gpus=1, on_gpu=False)
    assert here['buckets of gradients'] == 0
    memory = 2 * 2**30
    most = largest_batch(state, kept, memory, 8, True)

    def needed(batch: int) -> float:
        return sum(memory_parts(state, kept, batch, 8, True).values())

    assert needed(most) <= memory < needed(most + 1)
    assert largest_batch(state, kept, 10**6, 8, True) == 0


@pytest.mark.parametrize(
    'name',
    [
        'demo/mambascope_demo.py',
        'demo/mambascope_det_demo.py',
        'evidence/imagenette_paper.py',
    ],
)
def test_work_is_what_the_loss_runs(name: str) -> None:
    cfg = load_config(str(CONFIGS / name))
    model = build_model(cfg).train()
    model.backbone.alpha = 1.0
    data = noise_batch(cfg, model, 2)
    ran = traced_flops(lambda: model(**data, mode='loss')).total() / 2e9
    counted = training_work(cfg, model)
    assert counted.giga == pytest.approx(ran, rel=0.05)
    assert counted.blocks == 2 * len(model.backbone.layers)


def test_training_runs_more_than_inference() -> None:
    work = {}
    for name in ('mambascope_t_ade20k_paper', 'mambascope_t_ade20k'):
        cfg = load_config(str(CONFIGS / f'upernet/{name}.py'))
        work[name] = training_work(cfg, build_model(cfg)).giga
    # the coarse maps are decoded for a loss, a quarter of the pixels
    paper, beyond = work.values()
    assert 1.1 < beyond / paper < 1.3


def test_times_are_ranges_around_what_was_measured() -> None:
    work = Work((512, 512), 9.501, 24)
    h100 = milliseconds_per_giga(work)
    assert h100 == (OPTIMISTIC, PESSIMISTIC['dense'])
    assert [round(x, 3) for x in h100] == [0.118, 0.602]
    small = milliseconds_per_giga(Work((224, 224), 1.825, 24))
    assert round(small.high, 3) == 0.878
    for name, device in DEVICES.items():
        low, high = milliseconds_per_giga(work, device)
        assert low < high, name
        slower = milliseconds_per_giga(work, device, amp=False)
        assert slower.low > low
        assert (low > OPTIMISTIC) == (device.bandwidth < 3350)
    # of a batch of 1 the host takes as long as of 16
    one = step_milliseconds(work, 1, DEVICES['h100-80g'], amp=True)
    assert one.high == pytest.approx(24 * HOST_MS_PER_BLOCK)
    assert one.high == pytest.approx(91.5)


def test_an_unknown_device_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="got 'p100'") as error:
        find_device('p100')
    assert all(name in str(error.value) for name in (*DEVICES, 'here'))


def test_epochs_need_data_or_a_number(tmp_path: Path) -> None:
    cfg = load_config(str(CONFIGS / 'evidence/imagenette_paper.py'))
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(FileNotFoundError, match='--num-images'):
        make_plan(cfg, 'a100-80g')
    plan = make_plan(cfg, 'a100-80g', num_images=1000)
    loop = read_loop(cfg)
    per_epoch = math.ceil(1000 / plan.schedule.batch)
    assert plan.iterations == loop.length * per_epoch


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(gpus=0), '--gpus must be at least 1, got 0'),
        (dict(batch=0), '--batch-size must be at least 1, got 0'),
        (dict(num_images=0), '--num-images must be at least 1, got 0'),
        (dict(device='a1000'), 'device must be'),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_built(
    options: dict, message: str, tiny_config
) -> None:
    cfg = load_config(str(tiny_config()))
    cfg.model.backbone.type = 'NoSuchBackbone'
    with pytest.raises(ValueError, match=message):
        make_plan(cfg, **options)


def test_a_config_without_a_pipeline_that_packs_is_refused(
    tiny_config,
) -> None:
    cfg = load_config(str(tiny_config()))
    cfg.train_dataloader.dataset.pipeline = []
    with pytest.raises(ValueError, match='transform that packs'):
        make_plan(cfg, 'a100-80g')


@pytest.fixture
def plan_run(
    run_tool, tiny_config, tmp_path: Path, capsys, monkeypatch
) -> Callable[..., tuple[str, dict]]:
    """The tool for a small config; tells what it prints and writes."""
    monkeypatch.setenv('COLUMNS', '200')
    out = tmp_path / 'plan.json'

    def plan(*options: object) -> tuple[str, dict]:
        run_tool('plan_run.py', tiny_config(), '--out', out, *options)
        return capsys.readouterr().out, json.loads(out.read_text())

    return plan


def test_what_does_not_fit_is_told_what_would(plan_run) -> None:
    printed, plan = plan_run(
        *('--device', 't4', '--gpus', 2, '--batch-size', 100_000)
    )
    assert 'DOES NOT FIT: 100000 images' in printed
    assert not plan['fits'] and plan['memory'] > 16e9
    names = [one['name'] for one in plan['remedies']]
    assert names[1:] == [
        'model.backbone.with_cp=True',
        '--amp',
        '--amp, model.backbone.with_cp=True',
    ]
    smaller, *others = plan['remedies']
    assert smaller['memory'] <= 16e9 and smaller['most'] == plan['most']
    assert all(one['memory'] < plan['memory'] for one in others)
    assert all(one['most'] > plan['most'] for one in others)
    # the command is of what was asked for
    assert 'train_dataloader.batch_size=100000' in printed


@pytest.mark.parametrize('device', ['rtx3090', 'here'])
def test_the_tool_prints_a_plan(device: str, plan_run) -> None:
    printed, plan = plan_run(
        *('--device', device, '--amp'),
        *('--cfg-options', 'model.backbone.drop_path_rate=0.1'),
    )
    assert plan['fits']
    assert 'tools/train.py' in printed
    assert '--amp --cfg-options model.backbone.drop_path_rate=0.1' in printed
    low, high = plan['hours']
    if device == 'here':
        assert low == high
        assert plan['measured']['real_data']
        assert plan['measured']['val_batch'] > 0
        assert 'validation is in it' in printed
    else:
        assert low < high
        assert plan['measured'] is None
        assert 'time is an estimate' in printed


class Counts(Hook):
    """Counts what a real training runs."""

    def __init__(self) -> None:
        self.images = self.iterations = self.val_batches = 0

    def after_train_iter(self, runner, batch_idx, data_batch, outputs) -> None:
        self.iterations += 1
        self.images += len(data_batch['inputs'])

    def after_val_iter(self, runner, batch_idx, data_batch, outputs) -> None:
        self.val_batches += 1


def test_a_real_training_runs_what_was_planned(
    tiny_config, tmp_path: Path
) -> None:
    path = str(tiny_config('auto_scale_lr = dict(base_batch_size=8)'))
    cfg = load_config(path)
    plan = make_plan(cfg)
    assert plan.schedule.exact and plan.schedule.accumulation == 4
    counts = Counts()
    with single_run():
        run = load_config(path, str(tmp_path), plan.schedule.options)
        runner = build_runner(run, 'none', ('train', 'val'))
        runner.register_hook(counts, 'LOWEST')
        runner.train()
        # every update of AdamW counts itself
        states = runner.optim_wrapper.optimizer.state.values()
        updates = {int(state['step']) for state in states}
    assert updates == {9}  # as many as the config has iterations
    assert counts.iterations == plan.iterations == 4 * 9
    assert counts.images == plan.images == 9 * 8
    loop = read_loop(cfg)
    assert counts.val_batches == validation_batches(cfg, loop, 1) == 9


def test_noise_is_timed_where_there_are_no_data(tiny_config, tmp_path) -> None:
    cfg = load_config(str(tiny_config()))
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path)
    plan = make_plan(cfg)
    assert not plan.measured.real_data
    assert plan.measured.val_batch is None
    assert plan.hours.low == pytest.approx(
        plan.iterations * plan.measured.step / 3600
    )
    assert torch.is_grad_enabled()
