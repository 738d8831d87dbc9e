"""benchmarks.evidence: costs, budgets and tables, without trainings."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from rich.console import Console

from benchmarks import evidence
from mmscope.models import exit_settings

CONFIGS = Path(__file__).parents[2] / 'configs/evidence'
SIZE = (128, 192)
PAIRS = [
    dict(gflops=0.3, score=60.0),
    dict(gflops=0.6, score=70.0),
    dict(gflops=0.87, score=69.0),
]


def test_cost_is_in_passes_of_the_plain_vim(segmentor):
    with exit_settings(segmentor, alpha=(0.5, 1.0)):
        coarse, half, whole = evidence.backbone_cost(segmentor)(SIZE)
    # a quarter of the tokens, and a class token in either
    assert coarse == pytest.approx(0.25, abs=0.03)
    assert coarse + 0.5 < half < whole
    assert whole == pytest.approx(1.25, abs=0.15)


def test_the_best_pair_of_each_budget():
    best = {r['budget']: r['score'] for r in evidence.best_of(PAIRS)}
    assert set(best) == set(evidence.BUDGETS)
    assert (best[0.3], best[0.5], best[0.6], best[1.1]) == (60, 60, 70, 70)
    assert evidence.best_of(PAIRS[1:])[0]['budget'] == 0.6


def test_a_table_has_means_and_spreads_where_all_runs_met_the_budget():
    runs = [
        dict(seed=seed, best=[dict(r, score=r['score'] + 2 * seed) for r in p])
        for seed, p in enumerate((PAIRS, PAIRS[1:]))
    ]
    console = Console(width=250, record=True)
    console.print(evidence.table({'paper': runs}, 'best'))
    (row,) = [x for x in console.export_text().split('\n') if 'paper' in x]
    cells = [cell.strip() for cell in row.strip('│').split('│')]
    by_budget = dict(zip(evidence.BUDGETS, cells[2:], strict=True))
    assert cells[:2] == ['paper', '2']
    assert by_budget[0.3] == by_budget[0.5] == '-'
    assert by_budget[0.6] == by_budget[1.1] == '71.0 ± 1.4'


def test_runs_are_found_by_their_names():
    found = evidence.RUN.fullmatch('elastic_drop_s12')
    assert (found['method'], found['seed']) == ('elastic_drop', '12')
    assert evidence.RUN.fullmatch('elastic_drop') is None


def test_folds_are_averaged_where_both_met_the_budget():
    one = {
        0.4: dict(budget=0.4, eta=0.5, tau=None, score=60.0),
        0.6: dict(budget=0.6, eta=0.6, tau=0.1, score=70.0),
    }
    other = {0.6: dict(budget=0.6, eta=0.7, tau=0.2, score=72.0)}
    (record,) = evidence.mean_of([one, other])
    assert record == pytest.approx(
        dict(budget=0.6, eta=0.65, tau=0.15, score=71.0)
    )
    assert evidence.mean_of([one])[0]['tau'] is None


@pytest.mark.parametrize(
    ('name', 'with_exits', 'cost'),
    [
        ('imagenette_vim', False, 1),
        ('foda_vim', False, 1),
        ('foda_paper', True, None),
        ('imagenette_vimcoarse', False, 0.25),
        ('imagenette_vim48', False, 0.68),
        ('imagenette_rmeeto', False, 0.78),
        ('imagenette_dyvm', False, 0.75),
        ('imagenette_hiddenalign', False, 0.75),
        ('imagenette_paper', True, None),
    ],
)
def test_a_run_without_exits_is_a_point(name, with_exits, cost, tmp_path):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.dump(tmp_path / 'config.py')
    assert evidence.exits(tmp_path) == with_exits
    if with_exits:
        return
    log = tmp_path / '2026/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    scores = dict(imagenette=('accuracy/top1', 1), foda=('coco/bbox_mAP', 100))
    key, points = scores[name.partition('_')[0]]
    steps = [{'loss': 2.0}, {key: 40 / points}, {key: 50 / points}]
    log.write_text('\n'.join(map(json.dumps, steps)))
    (point,) = evidence.plain_result(tmp_path)['best']
    assert point['score'] == 50
    assert point['gflops'] == pytest.approx(cost, abs=0.03)
