"""tools/train.py and tools/test.py on real pictures."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmscope.apis import ScopeInferencer

ROOT = Path(__file__).parents[2]
SHORT = """
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks['checkpoint'] = dict(interval=2)
"""


def run_process(
    *command: object, **variables: str
) -> subprocess.CompletedProcess:
    """Run a command as a user would; one thread each, as on a busy machine."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **variables}
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )


def python(
    tool: str, *arguments: object, **variables: str
) -> subprocess.CompletedProcess:
    return run_process(
        sys.executable, f'tools/{tool}', *arguments, **variables
    )


@pytest.fixture(scope='module')
def trained(
    real_data: Path, tiny_config, tmp_path_factory
) -> tuple[Path, Path, str]:
    """Config, checkpoint and output of a short training on ADE20K."""
    config = tiny_config(SHORT, data=real_data / 'ade_mini')
    work_dir = tmp_path_factory.mktemp('trained')
    done = python('train.py', config, '--work-dir', work_dir)
    assert done.returncode == 0, done.stderr
    return config, work_dir / 'iter_2.pth', done.stdout + done.stderr


def read_out(folder: Path) -> tuple[dict, list[dict]]:
    metrics, exits = (
        json.loads((folder / name).read_text())
        for name in ('metrics.json', 'exits.json')
    )
    return metrics, exits


def test_training_validates_and_writes_a_checkpoint(trained) -> None:
    _, checkpoint, output = trained
    assert checkpoint.is_file()
    assert re.search(r'Iter\(train\) \[2/2\].*loss_exit: \d', output)
    assert re.search(r'Iter\(val\) \[3/3\].*mIoU: \d.*exit/rate: \d', output)


def test_output_of_the_real_command(trained, tmp_path) -> None:
    config, checkpoint, _ = trained
    out, show = tmp_path / 'out', tmp_path / 'show'
    done = python(
        'test.py',
        *(config, checkpoint, '--work-dir', tmp_path / 'work'),
        *('--eta', 0.7, '--out', out, '--show-dir', show),
    )
    assert done.returncode == 0, done.stderr
    metrics, exits = read_out(out)
    printed = re.search(r'mIoU: ([\d.]+)', done.stdout + done.stderr)
    assert float(printed[1]) == pytest.approx(metrics['mIoU'], abs=1e-3)
    assert metrics['eta'] == 0.7
    assert metrics['exit/rate'] == np.mean([e['exited'] for e in exits])
    names = [Path(e['image']).stem for e in exits]
    assert len(set(names)) == 3
    masks = sorted((out / 'predictions').iterdir())
    assert [mask.stem for mask in masks] == sorted(names)
    for mask in masks:
        labels = np.unique(Image.open(mask))
        # in files, ADE20K counts its classes from 1
        assert labels.min() >= 1
        assert labels.max() <= 150
    pictures = [p.name for p in show.rglob('*.png')]
    assert len(pictures) == 3
    assert all(any(n in picture for picture in pictures) for n in names)

    # not to bury the answer, and yet to be found
    (log,) = (tmp_path / 'work').glob('*/*.log')
    texts = 'System environment:', 'Config:', 'Hooks will be executed'
    assert [text for text in texts if text not in log.read_text()] == []
    assert [text for text in texts if text in done.stdout] == []


def test_windows_are_tested_counted_and_shown(
    trained, run_tool, tmp_path, capsys
) -> None:
    """With slide inference, `exited` is the share of an image's windows."""
    config, checkpoint, _ = trained
    out, show, cost = (tmp_path / name for name in ('out', 'show', 'f.json'))
    slide = (
        *('--cfg-options', 'model.test_cfg.mode=slide'),
        *('model.test_cfg.crop_size=(96,64)', 'model.test_cfg.stride=(64,32)'),
        'model.data_preprocessor.test_cfg.size=(96,64)',
        'model.data_preprocessor.test_cfg.size_divisor=None',
    )
    run_tool(
        *('test.py', config, checkpoint, '--work-dir', tmp_path / 'work'),
        *('--eta', 0, '--out', out, '--show-dir', show, *slide),
    )
    metrics, exits = read_out(out)
    assert metrics['exit/rate'] == 1
    assert len(list(show.rglob('*.png'))) == len(exits) == 3
    run_tool(
        *('get_flops.py', config, '--checkpoint', checkpoint, '--shape', 96),
        *('--eta', 0, '--out', cost, *slide),
    )
    printed = capsys.readouterr().out
    assert 'of a window of 96 x 96' in printed
    written = json.loads(cost.read_text())
    assert written['windows'] > written['images'] == 3
    assert (
        f'3 test images, exit rate 1.0000, {written["windows"]} windows'
        in (printed)
    )


def test_exits_follow_eta_at_any_batch_size(
    trained, run_tool, tmp_path
) -> None:
    config, checkpoint, _ = trained

    def run(eta: float, batch_size: int) -> tuple[dict, list[dict]]:
        out = tmp_path / f'{eta}_{batch_size}'
        run_tool(
            'test.py',
            *(config, checkpoint, '--eta', eta, '--out', out),
            *('--work-dir', tmp_path / 'work'),
            *('--cfg-options', f'test_dataloader.batch_size={batch_size}'),
        )
        return read_out(out)

    never, exits = run(1, 3)
    always, _ = run(0, 1)
    assert (never['exit/rate'], always['exit/rate']) == (0, 1)
    confidence = sorted(e['confidence'] for e in exits)
    # rounded, since the command line has it in decimals
    middle = round((confidence[0] + confidence[1]) / 2, 7)
    (alone, exits_alone), (batched, exits_batched) = (
        run(middle, size) for size in (1, 3)
    )
    assert alone == pytest.approx(batched, nan_ok=True)
    assert alone['exit/rate'] == pytest.approx(2 / 3)
    for one, other in zip(exits_alone, exits_batched, strict=True):
        assert one['exited'] == (one['confidence'] >= middle)
        assert one == pytest.approx(other)


def test_a_test_leaves_the_config_of_the_training(
    trained, run_tool, tmp_path
) -> None:
    """Its own, changed by options, lies beside its log."""
    _, checkpoint, _ = trained
    work_dir = tmp_path / 'work'
    shutil.copytree(checkpoint.parent, work_dir)
    config = work_dir / 'tiny.py'
    before = config.read_text()
    run_tool(
        *('test.py', config, work_dir / checkpoint.name, '--eta', 0.123),
        *('--work-dir', work_dir),
    )
    assert config.read_text() == before
    logged = [path.read_text() for path in work_dir.glob('*/tiny.py')]
    assert ['eta=0.123' in text for text in logged] == [True]


def test_tau_says_how_much_of_each_image_is_refined(
    save_weights, run_tool, tmp_path
) -> None:
    """It is written beside eta, and the shares beside the decisions."""
    config, checkpoint = save_weights(
        more="model['backbone'].update(alpha=(0.2, 0.5, 1.0), eta=1.0)\n"
    )

    def run(*options: object) -> tuple[dict, list[dict]]:
        out = tmp_path / f'out{len(list(tmp_path.iterdir()))}'
        run_tool(
            *('test.py', config, checkpoint, '--out', out, *options),
            *('--work-dir', tmp_path / 'work'),
        )
        statistics = json.loads((out / 'exit_statistics.json').read_text())
        metrics, exits = read_out(out)
        assert metrics.get('exit/mean_share') == (
            statistics['metrics'].get('mean_share')
        )
        assert ('shares' in statistics) == ('exit/mean_share' in metrics)
        return metrics, exits

    own, exits = run()
    assert 'tau' not in own
    assert [one['share'] for one in exits] == [1, 1, 1]
    files = [one['image'] for one in exits]
    scores = torch.cat(
        [one.cell_scores for one in ScopeInferencer(config, checkpoint)(files)]
    )
    tau = scores[scores.isfinite()].quantile(0.7).item()
    expected = ScopeInferencer(config, checkpoint, tau=tau)(files)
    found, exits = run('--tau', tau)
    assert found['tau'] == tau
    shares = [one['share'] for one in exits]
    assert shares == [one.refined_share for one in expected]
    assert len(set(shares)) > 1
    assert found['exit/mean_share'] == pytest.approx(np.mean(shares))
    assert [one['exited'] for one in exits] == [not one for one in shares]


BAD_TEST = [
    (['--eta', '1.5'], ValueError, r'--eta must be in \[0, 1\], got 1.5'),
    (['--tau', 'nan'], ValueError, '--tau must be a finite number, got nan'),
    (['--eta', '-1'], ValueError, r'--eta must be in \[0, 1\], got -1'),
    (['--eta', 'nan'], ValueError, r'--eta must be in \[0, 1\], got nan'),
    (
        ['--cfg-options', 'test_dataloader.dataset.data_root=nowhere'],
        FileNotFoundError,
        r'(?s)expected below .*nowhere.*images/validation    <- missing',
    ),
    (['--launcher', 'slurm'], ValueError, 'slurm needs GPUs.*pytorch'),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason='says what lacks a GPU')
@pytest.mark.parametrize(('options', 'error', 'message'), BAD_TEST)
def test_bad_options(
    run_tool, tiny_config, tmp_path, options, error, message
) -> None:
    with pytest.raises(error, match=message):
        run_tool(
            'test.py',
            *(tiny_config(), tmp_path / 'any.pth', '--work-dir', tmp_path),
            *options,
        )


def test_eta_needs_exits(run_tool, tiny_config, tmp_path) -> None:
    config = tiny_config(base='vim_t_ade20k')
    with pytest.raises(ValueError, match='early exits.*VisionMambaBackbone'):
        run_tool('test.py', config, 'any.pth', '--eta', 0.5)


def spoil(checkpoint: Path, kind: str, target: Path) -> None:
    """Write a file that is no checkpoint of the tiny model."""
    data = checkpoint.read_bytes()
    if kind == 'truncated':
        target.write_bytes(data[: len(data) // 2])
    elif kind == 'text':
        target.write_text('no checkpoint')
    elif kind == 'list':
        torch.save([1, 2], target)
    elif kind == 'other':
        state = torch.load(checkpoint, weights_only=False)['state_dict']
        state.pop('backbone.cls_token')
        state['backbone.pos_embed'] = torch.zeros(1, 5, 32)
        torch.save(dict(state_dict=state, meta={}), target)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('missing', 'checkpoint .*bad.pth does not exist'),
        ('truncated', 'bad.pth .*is truncated or not a PyTorch checkpoint'),
        ('text', 'bad.pth .*is truncated or not a PyTorch checkpoint'),
        ('list', 'bad.pth is not a checkpoint: expected a state dict.*list'),
        (
            'other',
            'bad.pth is not of the model of .*tiny.py, 2 weights differ: '
            r'backbone.pos_embed is \(1, 5, 32\), not \(1, 24, 32\); '
            'missing backbone.cls_token',
        ),
    ],
)
def test_bad_checkpoints(run_tool, trained, tmp_path, kind, message) -> None:
    config, checkpoint, _ = trained
    spoil(checkpoint, kind, tmp_path / 'bad.pth')
    with pytest.raises((RuntimeError, FileNotFoundError), match=message):
        run_tool(
            'test.py',
            *(config, tmp_path / 'bad.pth', '--work-dir', tmp_path / 'work'),
        )
    if kind != 'other':
        with pytest.raises((RuntimeError, FileNotFoundError), match=message):
            run_tool(
                'train.py',
                *(config, '--resume', tmp_path / 'bad.pth'),
                *('--work-dir', tmp_path / 'work'),
            )


def test_automatic_resumption_looks_at_the_checkpoint(
    run_tool, tiny_config, tmp_path
) -> None:
    broken = tmp_path / 'iter_4.pth'
    broken.write_text('half a checkpoint')
    (tmp_path / 'last_checkpoint').write_text(str(broken))
    with pytest.raises(RuntimeError, match='iter_4.pth .* is truncated'):
        run_tool('train.py', tiny_config(), '--resume', '--work-dir', tmp_path)


def test_error_is_the_last_line_and_fails_the_command(tmp_path) -> None:
    for tool, checkpoint in (('train.py', []), ('test.py', ['x.pth'])):
        done = python(tool, tmp_path / 'none.py', *checkpoint)
        assert done.returncode != 0
        last = done.stderr.splitlines()[-1]
        assert re.fullmatch(
            'FileNotFoundError: config .*none.py does not exist; '
            'check the path',
            last,
        )


def corrupt_photo(root: Path) -> Path:
    path = min((root / 'images/training').iterdir())
    path.write_bytes(path.read_bytes()[:400])
    return path


def corrupt_mask(root: Path) -> Path:
    path = min((root / 'annotations/training').iterdir())
    path.write_bytes(path.read_bytes()[:60])
    return path


def add_label(root: Path) -> Path:
    path = min((root / 'annotations/training').iterdir())
    mask = np.array(Image.open(path))
    mask[:4] = 180
    Image.fromarray(mask).save(path)
    return path


def remove_photos(root: Path) -> Path:
    for path in (root / 'images/training').iterdir():
        path.rename(path.with_suffix('.jpeg'))
    return root


@pytest.mark.parametrize(
    ('damage', 'error', 'message'),
    [
        (corrupt_photo, AssertionError, 'failed to load image: {}'),
        (corrupt_mask, OSError, "(?s)seg_map_path': '{}'.*corrupt or missing"),
        (add_label, ValueError, r'{} has the labels \[179\]; allowed are 0'),
        (
            remove_photos,
            FileNotFoundError,
            r'no samples in {}.*images/training.*do not end in img_suffix',
        ),
    ],
)
def test_bad_data(
    run_tool, tiny_config, sample_root, tmp_path, damage, error, message
) -> None:
    data = tmp_path / 'data'
    shutil.copytree(sample_root, data)
    path = damage(data)
    # every picture is seen in the first iterations
    config = tiny_config('train_dataloader.update(batch_size=12)', data=data)
    with pytest.raises(error, match=message.format(re.escape(str(path)))):
        run_tool('train.py', config, '--work-dir', tmp_path / 'work')


def read_scalars(work_dir: Path) -> dict[int, dict]:
    """Everything logged of each training iteration, except times."""
    lines = [
        json.loads(line)
        for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    return {
        line['iter']: {k: v for k, v in line.items() if 'time' not in k}
        for line in lines
        if 'loss' in line
    }


KILLER = """
import os
import signal

from mmengine.hooks import Hook

from mmscope.registry import HOOKS


@HOOKS.register_module()
class Killer(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 6:
            os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED = """
custom_imports = dict(imports=['killer'])
custom_hooks = [dict(type='mmscope.Killer', priority=99)]
"""


@pytest.mark.slow
def test_killed_run_resumes_exactly(tiny_config, tmp_path) -> None:
    whole_dir, work_dir = tmp_path / 'whole', tmp_path / 'killed'
    (tmp_path / 'killer.py').write_text(KILLER)
    whole = python('train.py', tiny_config(), '--work-dir', whole_dir)
    assert whole.returncode == 0, whole.stderr
    killed = python(
        'train.py',
        *(tiny_config(KILLED), '--work-dir', work_dir),
        PYTHONPATH=str(tmp_path),
    )
    assert killed.returncode == -signal.SIGKILL
    assert sorted(read_scalars(work_dir)) == [1, 2, 3, 4, 5, 6]
    resumed = python(
        'train.py', tiny_config(), '--work-dir', work_dir, '--resume'
    )
    assert resumed.returncode == 0, resumed.stderr
    assert 'resumed epoch: 0, iter: 4' in resumed.stdout + resumed.stderr
    assert read_scalars(work_dir) == read_scalars(whole_dir)
    states = [
        torch.load(folder / 'iter_9.pth', weights_only=False)
        for folder in (whole_dir, work_dir)
    ]
    one, other = (state['optimizer']['state'] for state in states)
    assert one.keys() == other.keys()
    for index, moments in one.items():
        for name, value in moments.items():
            assert torch.equal(value, other[index][name])


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return str(sock.getsockname()[1])


def launch(script: str, *arguments: object) -> str:
    done = run_process(
        *('bash', f'tools/{script}', *arguments),
        PYTHON=sys.executable,
        PORT=free_port(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_on_a_cpu(
    run_tool, tiny_config, real_data, tmp_path
) -> None:
    config = tiny_config(SHORT, data=real_data / 'ade_mini')
    output = launch(
        'dist_train.sh', config, 2, '--work-dir', tmp_path / 'work'
    )
    assert 'GPU number: 2' in output
    # three images in two processes: two and two, one of them twice
    assert re.search(r'Iter\(val\) \[2/2\].*mIoU: \d', output)
    checkpoint = tmp_path / 'work/iter_2.pth'
    options = ['--eta', 0.6, '--work-dir', tmp_path / 'test', '--out']
    run_tool('test.py', config, checkpoint, *options, tmp_path / 'one')
    launch('dist_test.sh', config, checkpoint, 2, *options, tmp_path / 'two')
    (one, exits_one), (two, exits_two) = (
        read_out(tmp_path / name) for name in ('one', 'two')
    )
    assert one == pytest.approx(two, nan_ok=True)
    assert [e['image'] for e in exits_one] == [e['image'] for e in exits_two]


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'tools').glob('*.sh')), ids=lambda p: p.name
)
def test_scripts_parse_and_can_be_run(path: Path) -> None:
    assert subprocess.run(['bash', '-n', path]).returncode == 0
    assert os.access(path, os.X_OK)
