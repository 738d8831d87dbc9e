"""At which stage images end, and whether they were right to."""

from collections.abc import Sequence

from mmscope.evaluation.task_metric import TaskMetric

from .answers import ExitAnswers
from .replay import TOLERANCE, Record, replay


def stage_counts(
    answers: ExitAnswers,
    etas: Sequence[float],
    tolerance: float = TOLERANCE,
) -> list[dict[str, float]]:
    """Count where images end, and which of them were right to (Figure 8).

    A coarse answer is right if it is as good as the fine one; an image is
    refined with reason if it is not. An image of which some windows exit
    counts in part for each.

    Returns:
        For each of ``etas``: 'eta', 'exited_right', 'exited_wrong',
        'refined_right', 'refined_wrong', and 'accuracy' of the decision.
    """
    good = answers.quality_drop <= tolerance
    records = []
    for eta in etas:
        exited = replay(answers, eta)
        refined = 1 - exited
        record = dict(
            eta=float(eta),
            exited_right=float(exited[good].sum()),
            exited_wrong=float(exited[~good].sum()),
            refined_right=float(refined[~good].sum()),
            refined_wrong=float(refined[good].sum()),
        )
        right = record['exited_right'] + record['refined_right']
        records.append(dict(record, accuracy=right / len(answers)))
    return records


def correct_counts(
    answers: ExitAnswers, etas: Sequence[float]
) -> list[Record]:
    """Count images that are classified at each stage (Figure 8).

    Args:
        answers: Both answers to N images, of which each is right or wrong.
        etas: Thresholds.

    Returns:
        For each of ``etas``: 'eta', 'coarse_right', 'coarse_wrong',
        'fine_right', 'fine_wrong', by the stage that images end at.
    """
    coarse, fine = answers.quality.T > 0
    records = []
    for eta in etas:
        exited = replay(answers, eta)
        refined = 1 - exited
        records.append(
            dict(
                eta=float(eta),
                coarse_right=float(exited[coarse].sum()),
                coarse_wrong=float(exited[~coarse].sum()),
                fine_right=float(refined[fine].sum()),
                fine_wrong=float(refined[~fine].sum()),
            )
        )
    return records


def count_stages(
    answers: ExitAnswers,
    metric: TaskMetric,
    etas: Sequence[float],
    tolerance: float = TOLERANCE,
) -> list[Record]:
    """What of both counts can be told of a task's answers, one dict each.

    Args:
        answers: Both answers to N images.
        metric: Metric of the task.
        etas: Thresholds.
        tolerance: Points that a coarse answer "as good" may lack.
    """
    records = stage_counts(answers, etas, tolerance)
    if not metric.right_or_wrong:
        return records
    counts = correct_counts(answers, etas)
    return [
        dict(one, **count) for one, count in zip(records, counts, strict=True)
    ]
