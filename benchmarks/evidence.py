"""What the trainings of docs/evidence.md give for their cost.

python -m benchmarks.evidence work_dirs/evidence/demo --out demo.json

reads every run below a folder: the config that training wrote, the last
checkpoint, and the run's name, METHOD_sSEED. Thresholds are chosen on the
images for calibration and tried on those of validation, for each budget; on
either half of validation for the other where a config sets none apart.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path

import matplotlib.pyplot as plt
import mmengine
import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import nn

from mmscope.benchmark.build import default_shape
from mmscope.evaluation.task_metric import TaskMetric, find_task_metric
from mmscope.exits import (
    AnswerCache,
    BudgetError,
    ElasticAnswers,
    ElasticImage,
    calibrate_elastic,
    collect_elastic,
    frontier,
    sweep_elastic,
)
from mmscope.exits.collect_elastic import ShareCost
from mmscope.exits.elastic import candidate_etas, candidate_taus
from mmscope.exits.replay import Record
from mmscope.exits.runs import build_exit_runner
from mmscope.models import VisionMambaBackbone, exit_settings
from mmscope.models.encoder import VimEncoder
from mmscope.utils.config import type_name
from mmscope.utils.flops import model_flops
from mmscope.visualization.figure import save_figure

BUDGETS = (*(0.3, 0.35, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8), 0.85, 0.87,
           *(0.9, 0.95, 1.0, 1.1))  # fmt: skip
LADDER = (0.2, 0.4, 0.6, 0.8, 1.0)
UNCERTAINTY = dict(type='mmscope.CoarseUncertainty')
RUN = re.compile(r'(?P<method>\w+)_s(?P<seed>\d+)')
TAIL = ('neck', 'head')
# the plain Vim whose pass is the unit of cost, and the size of most images
# in segmentation
REFERENCE, SIZE = dict(embed_dims=64, num_layers=6), (192, 256)
# how a log names what models are judged by, and points of 0 to 100 in it
SCORES = {'mIoU': 1, 'accuracy/top1': 1, 'coco/bbox_mAP': 100}


def backbone_cost(model: nn.Module) -> ShareCost:
    """Count the backbone's work in units of one pass of the plain Vim.

    Args:
        model: A model of mmscope.

    Returns:
        Function from an image's size to the cost of a coarse answer and of
        each share of cells.
    """
    net, known = model.backbone, {}

    def count(size: tuple[int, int]) -> tuple[float, ...]:
        if size not in known:
            vim = VisionMambaBackbone(
                arch_of(net),
                img_size=size,
                patch_size=net.patch_size,
                out_indices=net.out_indices,
            )
            flops = model_flops(model, size)
            whole = _of_backbone(model_flops(vim, size).refined)
            known[size] = tuple(
                _of_backbone(part) / whole
                for part in (flops.exited, *flops.by_share.values())
            )
        return known[size]

    return count


def arch_of(net: VimEncoder) -> dict[str, int]:
    """The architecture of an encoder, as backbones take it."""
    mixer = net.layers[0].mixer
    inner, taps = mixer.conv_weight.shape[1:]
    return dict(
        embed_dims=net.embed_dims,
        num_layers=net.num_layers,
        d_state=mixer.d_state,
        expand=inner // net.embed_dims,
        d_conv=taps,
    )


def _of_backbone(parts: dict[str, float]) -> float:
    return sum(value for name, value in parts.items() if name not in TAIL)


@contextmanager
def refining_as(model: nn.Module, method: str) -> Iterator[None]:
    """Let a model refine as a method does, inside a block.

    Args:
        model: A model of mmscope, trained as its config says.
        method: 'own', as its config says, or 'untrained': by uncertainty and
            with a ladder of shares, whatever it was trained for.
    """
    if method == 'own':
        yield
        return
    with exit_settings(model, alpha=LADDER, cell_score=UNCERTAINTY):
        yield


def answers_of(
    runner: Runner, metric: TaskMetric, method: str, cache: Path
) -> ElasticAnswers:
    """Answers to a runner's test images with every share of their cells."""
    model = runner.model
    with refining_as(model, method):
        answers = collect_elastic(
            model,
            runner.test_loop.dataloader,
            metric,
            AnswerCache(cache, ElasticImage),
            backbone_cost(model),
        )
    # each is looked at many times, and comes from a file of its own
    return ElasticAnswers([*answers.images])


def curves_of_run(folder: Path, method: str) -> dict[str, list[Record]]:
    """What a run gives for its cost.

    Args:
        folder: Work dir of the run.
        method: See :func:`refining_as`.

    Returns:
        'calibrated': for each of ``BUDGETS`` that can be met, the 'budget',
        and what the pair of thresholds that was chosen on other images
        gives in validation, see :func:`answers_of_run`; 'best': for each of
        them the pair that is best in validation itself; 'exits': likewise of
        thresholds eta alone, with all cells refined that may be; 'fixed': the
        score with each share everywhere.
    """
    tried, fits, metric = answers_of_run(folder, method)
    calibrated = mean_of(
        [calibrated_on(fitted, test, metric) for fitted, test in fits]
    )
    etas = candidate_etas(tried)
    pairs = sweep_elastic(tried, metric, etas, candidate_taus(tried))
    exits = sweep_elastic(tried, metric, etas, [None])
    fixed = [
        dict(
            share=([0, *tried.shares])[rung],
            **tried.summarize(np.full(len(tried), rung), metric),
        )
        for rung in range(len(tried.shares) + 1)
    ]
    return dict(
        calibrated=calibrated,
        best=best_of(frontier(pairs)),
        exits=best_of(frontier(exits)),
        fixed=fixed,
    )


def answers_of_run(
    folder: Path, method: str
) -> tuple[
    ElasticAnswers, list[tuple[ElasticAnswers, ElasticAnswers]], TaskMetric
]:
    """Answers to a run's validation images, and how thresholds are fitted.

    On the images that its config sets apart for it; where there are none, on
    every second image of validation for the others, and the other way round.

    Args:
        folder: Work dir of the run.
        method: See :func:`refining_as`.

    Returns:
        Answers in validation, pairs of answers to fit to and to try on, and
        the metric.
    """
    checkpoint = (folder / 'last_checkpoint').read_text().strip()
    (config,) = folder.glob('*.py')
    apart = 'calibration_dataloader' in Config.fromfile(config)
    kept = {}
    for name in ('calibration', 'validation') if apart else ('validation',):
        runner = build_exit_runner(
            str(config),
            checkpoint,
            str(folder / 'evidence'),
            None,
            name == 'calibration',
        )
        metric = find_task_metric(runner.test_evaluator.metrics)
        cache = folder / 'evidence' / f'{method}-{name}'
        kept[name] = answers_of(runner, metric, method, cache)
    tried = kept['validation']
    if apart:
        return tried, [(kept['calibration'], tried)], metric
    one, other = (ElasticAnswers(tried.images[k::2]) for k in (0, 1))
    return tried, [(one, other), (other, one)], metric


def calibrated_on(
    fitted: ElasticAnswers, tried: ElasticAnswers, metric: TaskMetric
) -> dict[float, Record]:
    """What thresholds that fit some answers give others, by budget."""
    records = {}
    for budget in BUDGETS:
        try:
            found = calibrate_elastic(fitted, metric, 'gflops', budget)
        except BudgetError:
            continue
        rungs = tried.rungs(found.eta, found.tau)
        record = tried.summarize(rungs, metric)
        records[budget] = dict(
            budget=budget, eta=found.eta, tau=found.tau, **record
        )
    return records


def mean_of(parts: Sequence[dict[float, Record]]) -> list[Record]:
    """Means of the records of each budget that all parts can meet."""
    budgets = [b for b in parts[0] if all(b in part for part in parts)]
    found = []
    for budget in budgets:
        columns = {
            name: [part[budget][name] for part in parts]
            for name in parts[0][budget]
        }
        found.append(
            {
                name: None if None in values else float(np.mean(values))
                for name, values in columns.items()
            }
        )
    return found


def best_of(records: Sequence[Record]) -> list[Record]:
    """The record with the best score for each budget that can be met."""
    found = []
    for budget in BUDGETS:
        met = [r for r in records if r['gflops'] <= budget + 1e-9]
        if met:
            found.append(dict(max(met, key=score_of), budget=budget))
    return found


def score_of(record: Record) -> float:
    return record['score']


def at_budget(records: Sequence[Record], budget: float) -> float:
    """The best score that costs no more than a budget, NaN if none does."""
    scores = [r['score'] for r in records if r['gflops'] <= budget + 1e-9]
    return max(scores, default=nan)


def table(results: dict, kind: str) -> Table:
    """Mean and standard deviation over seeds, by method and budget."""
    sheet = Table('method', 'seeds', *(f'{b:g}' for b in BUDGETS))
    for method, runs in results.items():
        scores = np.array(
            [[at_budget(run[kind], b) for b in BUDGETS] for run in runs]
        )
        cells = [
            '-' if np.isnan(column).any() else
            f'{column.mean():.1f} ± {column.std(ddof=len(runs) > 1):.1f}'
            for column in scores.T
        ]  # fmt: skip
        sheet.add_row(method, str(len(runs)), *cells)
    return sheet


def plot(results: dict, path: Path, score: str) -> None:
    """Draw every run's scores over its costs, one colour for a method.

    Args:
        results: Curves of each run, by method.
        path: Picture to write.
        score: Name of the score.
    """
    figure, axis = plt.subplots(figsize=(7.2, 4.8))
    for number, (method, runs) in enumerate(results.items()):
        for index, run in enumerate(runs):
            records = run['calibrated'] or run['best']
            axis.plot(
                [r['gflops'] for r in records],
                [r['score'] for r in records],
                f'C{number}{"o" if len(records) == 1 else "."}-',
                linewidth=1,
                label=method if index == 0 else None,
            )
    axis.set_xlabel('cost of the backbone, in passes of the plain Vim')
    axis.set_ylabel(f'{score} (%)')
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, path)


def plain_result(folder: Path) -> dict[str, list[Record]]:
    """The last validation of a model without exits, at its cost.

    The config may have ``image_scale``, by which it shrinks images. Every
    direction of DynamicTokens counts.
    """
    (*_, log) = sorted(folder.glob('*/vis_data/scalars.json'))
    records = map(json.loads, log.read_text().splitlines())
    (*_, score) = (
        points * record[name]
        for record in records
        for name, points in SCORES.items()
        if name in record
    )
    (config,) = folder.glob('*.py')
    cfg = Config.fromfile(config)
    scale = cfg.get('image_scale', 1.0)
    seen = tuple(int(side * scale) for side in SIZE)
    whole = SIZE
    if 'image_size' in cfg:
        seen = default_shape(cfg)
        whole = tuple(round(side / scale) for side in seen)
    net = cfg.model.backbone
    works = [
        model_flops(
            VisionMambaBackbone(
                arch,
                patch_size=net.get('patch_size', 16),
                out_indices=(arch['num_layers'] - 1,),
                token_reduction=reduction,
            ),
            size,
        ).refined.total()
        for arch, size, reduction in (
            (dict(net.arch), seen, net.get('token_reduction')),
            (REFERENCE, whole, None),
        )
    ]
    point = dict(gflops=works[0] / works[1], score=score)
    return dict.fromkeys(('calibrated', 'best', 'exits', 'fixed'), [point])


def exits(folder: Path) -> bool:
    """Whether images can exit in the model of a run."""
    (config,) = folder.glob('*.py')
    kind = type_name(Config.fromfile(config).model)
    return kind.startswith('MambaScope')


def ways_of(method: str, folder: Path) -> tuple[str, ...]:
    """How the weights of a run are tried, see :func:`refining_as`.

    Only answers of pixels say where in an image they are unsure.
    """
    (config,) = folder.glob('*.py')
    kind = type_name(Config.fromfile(config).model)
    both = 'paper' in method and kind == 'MambaScopeSegmentor'
    return ('own', 'untrained') if both else ('own',)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('runs', type=Path, help='folder of the work dirs')
    parser.add_argument('--out', type=Path, required=True, help='json file')
    parser.add_argument('--score', default='mIoU', help='name of the score')
    args = parser.parse_args()
    results: dict[str, list] = {}
    for folder in sorted(args.runs.iterdir()):
        found = RUN.fullmatch(folder.name)
        if found is None or not (folder / 'last_checkpoint').is_file():
            continue
        method, seed = found['method'], int(found['seed'])
        if not exits(folder):
            results.setdefault(method, []).append(
                dict(seed=seed, **plain_result(folder))
            )
            continue
        for how in ways_of(method, folder):
            name = method if how == 'own' else f'{method}, run elastic'
            results.setdefault(name, []).append(
                dict(seed=seed, **curves_of_run(folder, how))
            )
        mmengine.dump(results, args.out, indent=1)
    console = Console(width=200, markup=False)
    for kind in ('calibrated', 'best', 'exits'):
        console.print(kind)
        console.print(table(results, kind))
    plot(results, args.out.with_suffix('.png'), args.score)


if __name__ == '__main__':
    main()
