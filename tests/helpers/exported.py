"""Tiny exported models, and what torch answers beside."""

from copy import deepcopy
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from segmentor_fixtures import SEGMENTOR
from torch import Tensor, nn

from mmscope.export import export_onnx
from mmscope.models import MambaScopeClassifier, exit_settings
from mmscope.registry import MODELS

# in float32, of logits that are about 1
TOLERANCE = dict(rtol=1e-4, atol=1e-5)
ARCH = dict(embed_dims=32, num_layers=2, d_state=4)


def make_classifier(**options: object) -> MambaScopeClassifier:
    """A tiny classifier in evaluation mode; options of its backbone."""
    torch.manual_seed(0)
    head = dict(type='mmscope.SingleLabelExitHead', num_classes=5)
    backbone = dict(
        type='mmscope.MambaScopeBackbone',
        arch=ARCH,
        img_size=(96, 128),  # so that positions are resampled
        out_indices=(1,),
        out_type='cls_token',
        alpha=0.5,
        exit_head=head,
    )
    model = MambaScopeClassifier(
        {**backbone, **options},
        data_preprocessor=dict(
            type='mmpretrain.ClsDataPreprocessor',
            mean=[123.0, 117.0, 104.0],
            std=[58.0, 57.0, 56.0],
            to_rgb=True,
        ),
    )
    # heads start near 0, where every class is as likely
    nn.init.normal_(model.backbone.exit_head.fc.weight)
    return model.eval()


def make_segmentor(**options: object) -> nn.Module:
    """A tiny segmentor in evaluation mode; options of its backbone."""
    torch.manual_seed(0)
    init_default_scope('mmseg')
    cfg = deepcopy(SEGMENTOR)
    cfg.auxiliary_head = None
    cfg.backbone.update(options)
    model = MODELS.build(cfg)
    nn.init.normal_(model.backbone.exit_head.fc.weight)
    return model.eval()


@torch.no_grad()
def torch_labels(
    model: nn.Module, images: Tensor, eta: float
) -> tuple[Tensor, list[SegDataSample]]:
    """Labels (B, h, w) and samples that a segmentor gives images."""
    size = tuple(images.shape[2:])
    samples = [
        SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        for _ in images
    ]
    data = dict(inputs=list(images), data_samples=samples)
    with exit_settings(model, eta=eta):
        found = model.test_step(data)
    return torch.cat([one.pred_sem_seg.data for one in found]), found


def export(model: nn.Module, folder: Path, size: tuple[int, int]) -> Path:
    """Export a model and return the folder."""
    export_onnx(model, folder, size, [f'class {i}' for i in range(5)])
    return folder
