"""What mmengine's model wrappers and data samples hold."""

from mmengine.model import is_model_wrapper
from mmengine.structures import BaseDataElement
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a distributed wrapper, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def swaps_channels(preprocessor: nn.Module) -> bool:
    """Whether a data preprocessor turns BGR images to RGB, or the reverse.

    The libraries give it no public name, and three private ones.

    Args:
        preprocessor: Data preprocessor of a model.
    """
    names = (
        '_channel_conversion',  # mmengine's, so mmdet's and OneDL's mmseg's
        'channel_conversion',  # the classic mmseg's
        'to_rgb',  # mmpretrain's
    )
    return any(getattr(preprocessor, name, False) for name in names)


def canvas_of(sample: BaseDataElement) -> tuple[int, int]:
    """Height and width that the model saw, padding included.

    Raises:
        ValueError: the sample does not say.
    """
    info = sample.metainfo
    for key in ('batch_input_shape', 'pad_shape', 'img_shape'):
        if key in info:
            return tuple(info[key][:2])
    raise ValueError('a prediction does not say its img_shape')
