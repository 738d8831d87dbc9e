"""Pictures of early exit during validation."""

from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmscope.datasets.subset import spread
from mmscope.models import require_exits
from mmscope.registry import HOOKS
from mmscope.utils.structures import unwrap

from .scope_pictures import picture_scope
from .sheet import render_scope


@HOOKS.register_module()
class ScopeVisualizationHook(Hook):
    """Draw what the coarse pass looked at, after each validation.

    The pictures go to every visualizer backend of the config: files,
    TensorBoard, Weights & Biases.

    Args:
        num_images: Images of the validation set, evenly spread over it.
        interval: Validations between two drawings.

    Raises:
        ValueError: one of them is not positive.
    """

    priority = 'LOW'

    def __init__(self, num_images: int = 4, interval: int = 1) -> None:
        for name, value in dict(
            num_images=num_images, interval=interval
        ).items():
            if value < 1:
                raise ValueError(f'{name} must be positive, got {value}')
        self.num_images = num_images
        self.interval = interval
        self.num_validations = 0

    def before_run(self, runner: Runner) -> None:
        """Refuse a model without exits before anything has been run.

        Raises:
            ValueError: the model never decides.
        """
        require_exits(unwrap(runner.model), 'ScopeVisualizationHook')

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw after a validation during training."""
        self.num_validations += 1
        if self.num_validations % self.interval == 0:
            self._draw(runner, runner.val_loop.dataloader.dataset)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Draw after a test."""
        self._draw(runner, runner.test_loop.dataloader.dataset)

    def _draw(self, runner: Runner, dataset: BaseDataset) -> None:
        if not is_main_process():
            return
        model = unwrap(runner.model)
        chosen = spread(len(dataset), self.num_images)
        visualizer = runner.visualizer
        pictures = picture_scope(
            model, (dataset[i] for i in chosen), visualizer
        )
        for picture in pictures:
            visualizer.add_image(
                f'scope_{picture.name}',
                render_scope([picture], model.backbone.eta),
                step=runner.iter,
            )
