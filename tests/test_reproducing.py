"""docs/reproducing.md: its files, its options, its arithmetic."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmscope.benchmark.build import build_model
from mmscope.engine.launch import load_config
from mmscope.models import has_exits
from mmscope.utils.flops import model_flops

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / 'docs/reproducing.md').read_text()
FILES = sorted(set(re.findall(r'\b(?:configs|tools)/[\w/]+\.(?:py|sh)', TEXT)))
# config, million images, G an image, hours from, hours to
COSTS = re.findall(
    r'^\| `(configs/\S+)` \| ([\d.]+) \| ([\d.]+) \| (\d+)–(\d+) \|$',
    TEXT,
    re.MULTILINE,
)
# images of a data set that is gone through by epochs
SIZES = {'imagenet': 1_281_167, 'ablation': 50_000}


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


@pytest.mark.parametrize('name', FILES)
def test_a_file_that_the_page_names_exists(name: str) -> None:
    assert (ROOT / name).is_file()


def test_short_names_of_the_first_table_are_files_beside_the_named_one() -> (
    None
):
    for row in re.findall(r'^\| Table .*$', TEXT, re.MULTILINE):
        spans = re.findall(r'`([\w/]+\.py)`', row)
        for name in spans:
            folder = Path(spans[0]).parent
            assert (ROOT / name).is_file() or (ROOT / folder / name).is_file()
        for size in re.findall(r'`(_[a-z]_)`', row):
            assert (ROOT / spans[0].replace('_t_', size)).is_file()


def test_every_table_and_figure_of_the_paper_has_a_place() -> None:
    def numbers(kind: str) -> set[int]:
        found = set()
        for start, end in re.findall(rf'{kind}s? (\d)(?: to (\d))?', TEXT):
            found |= {*range(int(start), int(end or start) + 1)}
        for listed in re.findall(rf'{kind}s ([\d, and]+)', TEXT):
            found |= {int(digit) for digit in re.findall(r'\d', listed)}
        return found

    assert numbers('Table') == {*range(1, 8)}
    assert numbers('Figure') == {*range(1, 10)}


def read(name: str) -> Config:
    """A config as the page counts it, refining every cell."""
    cfg = load_config(str(ROOT / name))
    if has_exits(cfg):
        cfg.model.backbone.alpha = 1.0
    return cfg


def million_images(name: str, cfg: Config) -> float:
    """What a training of the config goes through."""
    folder = Path(name).parts[1]
    if folder in SIZES:
        return cfg.train_cfg.max_epochs * SIZES[folder] / 1e6
    batch = cfg.auto_scale_lr.base_batch_size
    return cfg.train_cfg.max_iters * batch / 1e6


def sides(name: str) -> int:
    """The side that the page's figures are of."""
    return dict(upernet=512, cascade_mask_rcnn=1024).get(
        Path(name).parts[1], 224
    )


def test_there_are_costs() -> None:
    assert len(COSTS) == 12


@pytest.mark.parametrize(('name', 'images', 'work', 'low', 'high'), COSTS)
def test_the_hours_follow_from_what_was_measured(
    name: str, images: str, work: str, low: str, high: str
) -> None:
    cfg = read(name)
    assert float(images) == pytest.approx(million_images(name, cfg), rel=1e-3)
    side = sides(name)
    counted = model_flops(build_model(cfg), (side, side), 'two_direction')
    assert float(work) == pytest.approx(
        counted.refined.total() / 1e9, abs=1e-3
    )
    total = float(images) * 1e6 * float(work)
    slow = 102.5e-3 / 64 / 1.825 if side == 224 else 91.5e-3 / 16 / 9.501
    assert total * 3 / (2686 * 9.501) / 3600 == pytest.approx(
        int(low), abs=0.6
    )
    assert total * slow / 3600 == pytest.approx(int(high), abs=0.6)


def test_the_measured_figures_are_those_of_the_benchmark() -> None:
    page = 'nvidia-h100_torch2.11_2026-11-26_gpu.md'
    measured = (ROOT / 'docs/benchmarks' / page).read_text()
    assert '| Vim-T | 2686 |' in measured
    assert re.search(r'training step, 64 of 224² .*\*\*102\.5\*\*', measured)
    assert re.search(r'16 of 512² .*\*\*91\.5\*\*', measured)


def test_both_tables_have_the_same_hours() -> None:
    for *_, low, high in COSTS:
        assert TEXT.count(f'{low}–{high}') >= 2
