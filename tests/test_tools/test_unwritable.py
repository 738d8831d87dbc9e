"""Tools say that they cannot write before they read what takes long."""

from pathlib import Path

import pytest

FILES = 'config.py', 'missing.pth'
# arguments of each tool that writes; BLOCKED is below a regular file, and
# files that are read first, where there are any, do not exist
TOOLS = {
    'ablate.py': ('table5', '--work-dir', 'BLOCKED'),
    'bench_export.py': ('exported', *FILES, '--out', 'BLOCKED'),
    'convert_vim_checkpoint.py': ('missing.pth', 'BLOCKED'),
    'export.py': (*FILES, '--out-dir', 'BLOCKED'),
    'fps_bench.py': ('--out', 'BLOCKED'),
    'fps_bench.py ': ('--plot', 'BLOCKED'),
    'get_flops.py': ('config.py', '--out', 'BLOCKED'),
    'image_demo.py': ('missing.jpg', *FILES, '--out-dir', 'BLOCKED'),
    'make_mini_imagenet.py': ('BLOCKED',),
    'make_sample_data.py': ('BLOCKED',),
    'make_sample_data.py ': ('new', '--contact-sheet', 'BLOCKED'),
    'plan_run.py': ('config.py', '--out', 'BLOCKED'),
    'publish_model.py': ('missing.pth', 'BLOCKED'),
    'visualize_scope.py': ('missing.jpg', *FILES, '--out-dir', 'BLOCKED'),
    'visualize_scope.py ': ('val', *FILES, '--out-dir', 'BLOCKED'),
}
MERGING = (
    '--cfg-options',
    'model.backbone.token_reduction.type=mmscope.TokenMerging',
)
# these have it checked where they build a Runner
RUNNERS = {
    'calibrate_eta.py': ('--exit-rate', 0.5, '--out-dir'),
    'compare_cells.py': ('--out-dir',),
    'eta_sweep.py': ('--out-dir',),
    'sweep_reduction.py': ('--num-merged', 4, *MERGING, '--out-dir'),
    'test.py': ('--work-dir',),
    'test.py ': ('--out',),
    'test.py  ': ('--show-dir',),
    'train_router.py': ('--out-dir',),
    'visualize_tokens.py': ('--out-dir',),
}


@pytest.fixture
def blocked(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / 'file').write_text('')
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'file' / 'results'


def refusal(run: object, blocked: Path, *words: object) -> str:
    with pytest.raises((NotADirectoryError, SystemExit)) as error:
        run(*words)
    assert list(Path.cwd().iterdir()) == []
    text = str(error.value)
    assert f'{blocked}: {blocked.parent} is no folder; choose another' in text
    return text


@pytest.mark.parametrize('tool', TOOLS)
def test_tools_that_write(run_tool, blocked, tool) -> None:
    words = [blocked if w == 'BLOCKED' else w for w in TOOLS[tool]]
    refusal(run_tool, blocked, tool.strip(), *words)


@pytest.mark.parametrize('tool', RUNNERS)
def test_tools_that_build_a_runner(
    run_tool, tiny_config, blocked, tool
) -> None:
    merges = tool == 'sweep_reduction.py'
    base = 'vim_t_ade20k' if merges else 'mambascope_t_ade20k'
    words = tiny_config(base=base), 'missing.pth', *RUNNERS[tool], blocked
    text = refusal(run_tool, blocked, tool.strip(), *words)
    assert text.startswith(('work_dir ', '--out ', '--show-dir '))


def test_training(run_tool, tiny_config, blocked) -> None:
    words = tiny_config(), '--work-dir', blocked
    refusal(run_tool, blocked, 'train.py', *words)


def test_every_tool_is_looked_at() -> None:
    tools = Path(__file__).parents[2] / 'tools'
    known = {name.strip() for name in (*TOOLS, *RUNNERS)}
    # the one that only reads
    known |= {'train.py', 'check_data.py'}
    assert {path.name for path in tools.glob('*.py')} == known
