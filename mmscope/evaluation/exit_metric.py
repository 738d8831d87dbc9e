"""Exit statistics beside the metrics of the task."""

from collections.abc import Sequence
from pathlib import Path

import mmengine
from mmengine.evaluator import BaseMetric

from mmscope.registry import METRICS


@METRICS.register_module()
class ExitMetric(BaseMetric):
    """Share of images, or of their windows, that kept the coarse answer.

    It reads ``exited`` and ``exit_confidence`` of every prediction, and
    works beside IoUMetric and CocoMetric and in distributed evaluation.

    Args:
        out_file: Json file for the decision about each image, or None.
        collect_device: Where results of several processes meet.
        prefix: Prefix of the metrics' names.
    """

    default_prefix = 'exit'

    def __init__(
        self,
        out_file: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_file = out_file

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Record the decision about each image.

        Raises:
            KeyError: a prediction has none.
        """
        for sample in data_samples:
            if 'exited' not in sample:
                raise KeyError(
                    'ExitMetric needs predictions with `exited`; use a model '
                    'of mmscope with an exit head'
                )
            self.results.append(
                dict(
                    image=Path(sample.get('img_path', '')).name,
                    exited=float(sample['exited']),
                    confidence=float(sample['exit_confidence']),
                )
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Average over the images."""
        if self.out_file:
            mmengine.dump(results, self.out_file, indent=2)
        return dict(
            rate=sum(r['exited'] for r in results) / len(results),
            confidence=sum(r['confidence'] for r in results) / len(results),
        )
