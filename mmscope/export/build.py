"""The model of a config, as it is exported."""

from mmengine.config import Config
from torch import nn

from mmscope.benchmark.build import build_model
from mmscope.datasets.wrappers import inner_datasets
from mmscope.engine.options import set_eta
from mmscope.models import require_exits
from mmscope.utils.checkpoint import load_weights


def model_to_export(
    cfg: Config,
    checkpoint: str,
    alpha: float | None = None,
    eta: float | None = None,
) -> nn.Module:
    """Build a config's model with one share of cells and load its weights.

    Args:
        cfg: Config, which is changed to what is exported.
        checkpoint: File of the weights.
        alpha: Share of the cells to refine; by default the config's, or the
            largest of several.
        eta: Confidence from which an image exits; by default the config's.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: the model has no exits, or a value is out of range.
    """
    require_exits(cfg, 'export')
    backbone = cfg.model.backbone
    if alpha is None:
        alpha = backbone.get('alpha', 0.8)
        alpha = max(alpha) if isinstance(alpha, list | tuple) else alpha
    backbone.update(alpha=alpha, tau=None, scan_backend='auto')
    backbone.cuda_graphs = False
    if eta is not None:
        set_eta(cfg, eta)
    model = build_model(cfg)
    load_weights(model, checkpoint, cfg.filename)
    return model


def classes_of(cfg: Config) -> list[str]:
    """Names of the classes of a config's test data, none if it has none."""
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        names = dataset.get('classes') or dataset.get('metainfo', {}).get(
            'classes'
        )
        if names:
            return list(names)
    return []
