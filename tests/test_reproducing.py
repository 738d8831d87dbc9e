"""docs/reproducing.md: its files, its options, its arithmetic."""

import re
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from benchmarks import hours
from mmscope.planning.work import (
    IMAGES_PER_SECOND,
    OPTIMISTIC,
    PESSIMISTIC,
    STEP_16_OF_512,
    STEP_64_OF_224,
)

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / 'docs/reproducing.md').read_text()
FILES = sorted(set(re.findall(r'\b(?:configs|tools)/[\w/]+\.(?:py|sh)', TEXT)))
# config, million images, G an image, hours from, hours to
COSTS = re.findall(
    r'^\| `(configs/\S+)` \| ([\d.]+) \| ([\d.]+) \| (\d+)–(\d+) \|$',
    TEXT,
    re.MULTILINE,
)


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


def test_there_are_costs() -> None:
    assert [name for name, *_ in COSTS] == [
        f'configs/{name}.py' for name in hours.NAMES
    ]


@pytest.mark.parametrize('row', COSTS, ids=lambda row: row[0])
def test_the_hours_are_those_of_a_plan(row: tuple[str, ...]) -> None:
    name = row[0].removeprefix('configs/').removesuffix('.py')
    assert hours.row_of(name) in TEXT.splitlines()


def test_the_text_has_the_times_of_a_plan() -> None:
    """The figures of the page's prose, and the constants of the plans."""
    assert f'{OPTIMISTIC:.3f} ms for a G' in TEXT
    for slow in PESSIMISTIC.values():
        assert f' {slow:.3f} ms'.replace(' 0.', ' .') in TEXT


def test_the_measured_figures_are_those_of_the_benchmark() -> None:
    page = 'nvidia-h100_torch2.11_2026-11-26_gpu.md'
    measured = (ROOT / 'docs/benchmarks' / page).read_text()
    assert f'| Vim-T | {IMAGES_PER_SECOND} |' in measured
    for case, time in (
        ('training step, 64 of 224²', STEP_64_OF_224),
        ('16 of 512²', STEP_16_OF_512),
    ):
        found = rf'{re.escape(case)} .*\*\*{re.escape(str(time))}\*\*'
        assert re.search(found, measured)


def test_both_tables_have_the_same_hours() -> None:
    for *_, low, high in COSTS:
        assert TEXT.count(f'{low}–{high}') >= 2
