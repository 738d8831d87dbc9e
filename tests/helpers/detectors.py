"""Tiny detectors and images for them."""

from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmscope.registry import MODELS

ROOT = Path(__file__).parents[2]
CLASSES = 5
BACKBONE = dict(
    type='mmscope.MambaScopeBackbone',
    arch=dict(embed_dims=32, num_layers=4, d_state=4),
    img_size=(64, 96),
    out_indices=(3,),
    alpha=0.5,
    eta=1.0,
    exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=CLASSES),
    exit_resolution='coarse',
)
NECKS = dict(
    simple=dict(
        type='mmscope.SimpleFeaturePyramid', in_channels=32, out_channels=16
    ),
    fpn=[
        dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=32,
            rescales=[4, 2, 1, 0.5],
            norm_cfg=dict(type='BN'),
        ),
        dict(type='FPN', in_channels=[32] * 4, out_channels=16, num_outs=5),
    ],
)


def cascade_config() -> ConfigDict:
    """The model of our own config, with a tenth of all widths."""
    name = 'configs/cascade_mask_rcnn/mambascope_t_coco.py'
    model = Config.fromfile(ROOT / name).model
    narrow = dict(in_channels=16, conv_out_channels=16)
    model.data_preprocessor.update(mean=[0.0] * 3, std=[1.0] * 3)
    model.data_preprocessor.pad_size_divisor = 32
    model.data_preprocessor.batch_augments[0].size = (64, 96)
    model.backbone = ConfigDict(BACKBONE)
    model.neck = ConfigDict(NECKS['simple'])
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.rpn_head.anchor_generator.scales = [4]
    roi_head = model.roi_head
    roi_head.bbox_roi_extractor.out_channels = 16
    roi_head.mask_roi_extractor.out_channels = 16
    for head in roi_head.bbox_head:
        head.update(narrow, fc_out_channels=32, num_classes=CLASSES)
    roi_head.mask_head.update(narrow, num_classes=CLASSES)
    for stage in model.train_cfg.rcnn:
        stage.sampler.num = 16
    model.train_cfg.rpn_proposal.update(nms_pre=40, max_per_img=20)
    model.test_cfg.rpn.update(nms_pre=40, max_per_img=20)
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    return model


def build(model: dict, **options: object) -> nn.Module:
    """Build a model; options with '__' reach into its config."""
    init_default_scope('mmdet')
    for path, value in options.items():
        *nodes, last = path.split('__')
        node = model
        for name in nodes:
            node = node[name]
        node[last] = value
    model = MODELS.build(ConfigDict(model))
    model.init_weights()
    return model.eval()


def varied(count: int, size: tuple[int, int] = (64, 96)) -> list[Tensor]:
    """Images whose confidences differ."""
    scales = torch.linspace(0.2, 4, count)
    return [scale * torch.randn(3, *size) for scale in scales]


def make_sample(
    size: tuple[int, int] = (64, 96),
    boxes: list[list[float]] = ((8, 8, 40, 40), (50, 20, 90, 60)),
    labels: list[int] = (1, 3),
    ori_shape: tuple[int, int] | None = None,
) -> DetDataSample:
    """A sample whose masks fill its boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(
        masks, boxes.int(), strict=True
    ):
        mask[top:bottom, left:right] = 1
    height, width = ori_shape or size
    sample = DetDataSample(
        metainfo=dict(
            img_path='some.jpg',
            img_shape=size,
            ori_shape=(height, width),
            scale_factor=(size[1] / width, size[0] / height),
        )
    )
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.tensor(labels, dtype=torch.long),
        masks=BitmapMasks(masks.numpy(), *size),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return sample


def predict(
    model: nn.Module,
    images: list[Tensor],
    eta: float | None = None,
    ori_shape: tuple[int, int] | None = None,
) -> list[DetDataSample]:
    """Run a model as test loops do."""
    if eta is not None:
        model.backbone.eta = eta
    samples = [
        make_sample(tuple(image.shape[1:]), [], [], ori_shape)
        for image in images
    ]
    with torch.no_grad():
        return model.test_step(dict(inputs=images, data_samples=samples))


def train_step(
    model: nn.Module,
    images: list[Tensor] | None = None,
    samples: list[DetDataSample] | None = None,
) -> dict:
    """Losses of a batch, as training loops get them."""
    model.train()
    images = varied(2) if images is None else images
    samples = [make_sample() for _ in images] if samples is None else samples
    data = dict(inputs=images, data_samples=samples)
    return model(**model.data_preprocessor(data, True), mode='loss')
