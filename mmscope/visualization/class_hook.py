"""Pictures of classified images."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmscope.registry import HOOKS
from mmscope.utils.structures import unwrap

from .answers import draw_answer, image_seen


@HOOKS.register_module()
class ClassVisualizationHook(Hook):
    """Draw images with their class and the predicted one.

    mmpretrain's VisualizationHook draws what the pipeline hands on as if it
    were RGB, which OpenCV's images are not, and as small as it is. Of several
    processes the first draws, its share of the images.

    Args:
        draw: Whether to draw at all.
        interval: Images from one that is drawn to the next.
        test_out_dir: Folder for pictures of the test set, named after its
            files; None leaves them to the visualizer's backends.

    Raises:
        ValueError: ``interval`` is not positive.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 1000,
        test_out_dir: str | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f'interval must be positive, got {interval}')
        self.draw = draw
        self.interval = interval
        self.test_out_dir = test_out_dir
        self._num_seen = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Count images anew."""
        self._num_seen = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Count images anew."""
        self._num_seen = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw images of the validation set."""
        self._draw(runner, data_batch, outputs, None)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw images of the test set."""
        self._draw(runner, data_batch, outputs, self.test_out_dir)

    def _draw(
        self,
        runner: Runner,
        data_batch: dict,
        outputs: Sequence[BaseDataElement],
        folder: str | None,
    ) -> None:
        if not self.draw or not is_main_process():
            return
        model = unwrap(runner.model)
        for inputs, sample in zip(data_batch['inputs'], outputs, strict=True):
            number = self._num_seen
            self._num_seen += 1
            if number % self.interval:
                continue
            image = image_seen(inputs, model)
            drawn = draw_answer(sample, image, runner.visualizer, 'both')
            name = Path(sample.metainfo.get('img_path', f'{number}')).name
            if folder is None:
                runner.visualizer.add_image(name, drawn, runner.iter)
            else:
                file = Path(folder) / f'{name}.png'
                mmcv.imwrite(drawn[..., ::-1], str(file))


__all__ = ['ClassVisualizationHook']
