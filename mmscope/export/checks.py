"""What can be exported, and what cannot."""

from torch import nn

from mmscope.models.cell_scores import OracleCells, RandomCells
from mmscope.models.early_exit import EarlyExitMixin
from mmscope.models.exit_policies import ForcedExit, OracleExit, RandomExit
from mmscope.models.mambascope import MambaScopeBackbone

# they look at files, at the ground truth, or at nothing
NOT_SERVED = (ForcedExit, OracleExit, RandomExit, OracleCells, RandomCells)


def check_exportable(model: nn.Module) -> None:
    """Refuse what has no such graphs.

    Raises:
        ValueError: it is no such model, trains, refines as much as an image
            needs, or decides by what no server knows.
    """
    name = type(model).__name__
    net = getattr(model, 'backbone', None)
    if not isinstance(net, MambaScopeBackbone) or not (
        isinstance(model, EarlyExitMixin)
        and (model.predicts_pixels or model.reads == 'cls_token')
    ):
        raise ValueError(
            'only a MambaScopeSegmentor or MambaScopeClassifier is exported, '
            f'got {name}'
        )
    if model.training:
        raise ValueError(f'{name} is in training mode; call eval() first')
    settings = net.exit_settings
    if settings.tau is not None:
        raise ValueError(
            f'tau={settings.tau} refines as many cells as an image needs, and '
            'the fine graph has a fixed share: build the model with tau=None'
        )
    if not settings.shares[-1] > 0:
        raise ValueError('alpha=0 never refines: there is no fine graph')
    for part in (settings.policy, settings.cell_score):
        if isinstance(part, NOT_SERVED):
            raise ValueError(
                f'{type(part).__name__} is for experiments and cannot be '
                'served; choose another exit_policy or cell_score'
            )
    backends = {layer.mixer.backend for layer in net.layers}
    if backends - {None, 'torch'}:
        raise ValueError(
            f'scan backends {sorted(map(str, backends))} cannot be exported: '
            "build the model with scan_backend='auto'"
        )
