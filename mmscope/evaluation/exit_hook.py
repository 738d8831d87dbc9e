"""What exit statistics need of a run and cannot see as a metric."""

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmscope.registry import HOOKS

from .exit_metric import ExitMetric
from .task_metric import why_no_main_score


@HOOKS.register_module()
class ExitStatisticsHook(Hook):
    """Let ExitMetric and the task's metric work side by side.

    In testing, ExitMetric judges exited and refined images by the first
    metric beside it in ``test_evaluator`` whose main score is known. In
    validation, exit statistics alone are no metrics: mmdet gives no AP where
    nothing was found, as early in training, and mmengine's CheckpointHook
    then looks in vain for the score that chooses the best checkpoint.
    """

    priority = 'VERY_HIGH'

    def before_test_epoch(self, runner: Runner) -> None:
        """Hand the task's metric to ExitMetric."""
        metrics = runner.test_loop.evaluator.metrics
        tasks = [m for m in metrics if why_no_main_score(m) is None]
        for metric in _exit_metrics(metrics):
            if metric.task is None and tasks:
                metric.judge_by(tasks[0])

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Drop exit statistics where the task has no score."""
        found = _exit_metrics(runner.val_loop.evaluator.metrics)
        own = tuple(f'{metric.prefix}/' for metric in found)
        if metrics and own and all(name.startswith(own) for name in metrics):
            metrics.clear()


def _exit_metrics(metrics: list[BaseMetric]) -> list[ExitMetric]:
    return [metric for metric in metrics if isinstance(metric, ExitMetric)]
