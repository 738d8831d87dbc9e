"""An evaluator for exit statistics beside the metrics of the task."""

from mmengine.evaluator import Evaluator

from mmscope.registry import EVALUATOR


@EVALUATOR.register_module()
class ExitEvaluator(Evaluator):
    """mmengine's, but without exit statistics where the task has no score.

    mmdet gives no AP where nothing was found, as early in training.
    mmengine's CheckpointHook then keeps no best checkpoint if there are no
    metrics at all, and fails if there are others.

    Args:
        metrics: Configs of the task's metric and of ``mmscope.ExitMetric``.
    """

    def evaluate(self, size: int) -> dict:
        """Scores of all metrics, or none.

        Args:
            size: Images in the dataset.
        """
        metrics = super().evaluate(size)
        if all(name.startswith('exit/') for name in metrics):
            return {}
        return metrics
