"""Config and random weights of a tiny model, for tools that take both."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmscope.registry import MODELS


@pytest.fixture(scope='session')
def save_weights(
    tiny_config: Callable[..., Path], tmp_path_factory
) -> Callable[..., tuple[Path, Path]]:
    """Write a config and random weights of its model."""

    def save(**options: object) -> tuple[Path, Path]:
        config = tiny_config(**options)
        init_default_scope('mmseg')
        torch.manual_seed(0)
        model = MODELS.build(Config.fromfile(config).model)
        # answers differ, and are among the classes of the sample data
        with torch.no_grad():
            for parameter in model.decode_head.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            model.decode_head.conv_seg.bias[8:] = -100
        path = tmp_path_factory.mktemp('weights') / 'weights.pth'
        torch.save(dict(state_dict=model.state_dict()), path)
        return config, path

    return save


@pytest.fixture(scope='session')
def model_files(save_weights) -> tuple[Path, Path]:
    return save_weights()
