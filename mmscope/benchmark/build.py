"""Build the model of a config for a measurement, without a Runner."""

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmscope.engine.config_keys import misspelt_keys
from mmscope.utils.config import model_config


def build_model(cfg: Config) -> nn.Module:
    """Build a config's model in evaluation mode, with random weights.

    SyncBN becomes BN, which runs anywhere and is the same in evaluation.

    Raises:
        ValueError: the config has no model with a backbone, or a key that
            is not known.
    """
    if 'backbone' not in cfg.get('model', {}):
        raise ValueError(
            f'{cfg.filename} has no model.backbone; give the config of a '
            'model of mmseg, mmdet or mmpretrain'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with misspelt_keys(cfg):
        model = revert_sync_batchnorm(MODELS.build(model_config(cfg)))
    model.eval()
    return model


def default_shape(cfg: Config) -> tuple[int, int]:
    """Size that a config trains on: its crop_size, image_size or img_size."""
    size = (
        cfg.get('crop_size')
        or cfg.get('image_size')
        or cfg.model.backbone.get('img_size', 512)
    )
    return (size, size) if isinstance(size, int) else tuple(size)
