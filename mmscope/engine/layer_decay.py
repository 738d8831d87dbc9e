"""Learning rates that fall with the depth of the backbone's layers."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmscope.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with layer-wise learning rates.

    The learning rate of a parameter of the backbone is multiplied by
    ``layer_decay_rate`` for each layer that lies above it. mmdet's and
    mmseg's constructors know only the backbones that they name; this one
    asks the backbone's ``get_layer_depth``, which ours and mmpretrain's have.

    ``paramwise_cfg`` takes ``layer_decay_rate``, in (0, 1], beside all of
    mmengine's options.

    Raises:
        ValueError: ``layer_decay_rate`` is missing or out of range.
        TypeError: the backbone has no ``get_layer_depth``.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if rate is None or not 0 < rate <= 1:
            raise ValueError(
                'LayerDecayConstructor needs paramwise_cfg=dict('
                f'layer_decay_rate=...) in (0, 1], got {rate}'
            )
        self.rate = rate

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: bool | None = None,
    ) -> None:
        """Make a group of each parameter, see mmengine."""
        super().add_params(params, module, prefix, is_dcn_module)
        if not prefix:  # mmengine descends into submodules by this method
            self._scale(params, module)

    def _scale(self, params: list[dict], model: nn.Module) -> None:
        depth_of = getattr(model.backbone, 'get_layer_depth', None)
        if depth_of is None:
            raise TypeError(
                'layer-wise decay needs a backbone with get_layer_depth, got '
                f'{type(model.backbone).__name__}; use a backbone of mmscope '
                "or mmpretrain, or constructor='DefaultOptimWrapper"
                "Constructor'"
            )
        names = {
            id(parameter): name
            for name, parameter in model.backbone.named_parameters()
        }
        for group in params:
            name = names.get(id(group['params'][0]))
            if name is None:
                continue
            depth, num_depths = depth_of(name)
            factor = self.rate ** (num_depths - 1 - depth)
            group['lr'] = factor * group.get('lr', self.base_lr)
