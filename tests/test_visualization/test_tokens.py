"""Pictures of merged and pruned tokens."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as SEGMENTORS
from mmseg.structures import SegDataSample

from mmscope.visualization import draw_tokens, paint_tokens, token_slots

MERGING = dict(type='mmscope.TokenMerging', num_merged=60, blocks=(1,))
METAS = dict(img_shape=(60, 90), ori_shape=(60, 90), flip=False)
PRUNING = dict(type='mmscope.HiddenAlignPruning', ratio=0.5, blocks=(1,))


BACKBONE = dict(
    type='mmscope.VisionMambaBackbone',
    arch=dict(embed_dims=32, num_layers=3, d_state=4),
    img_size=64,
    out_indices=(2,),
)


def make(reduction: dict | None) -> torch.nn.Module:
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                BACKBONE, out_type='cls_token', token_reduction=reduction
            ),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
            data_preprocessor=dict(mean=[120] * 3, std=[60] * 3, to_rgb=True),
        )
    )


def item() -> dict:
    torch.manual_seed(1)
    image = torch.randint(0, 255, (3, 60, 90), dtype=torch.uint8)
    sample = DataSample(metainfo=dict(img_shape=(60, 90)))
    return dict(inputs=image, data_samples=sample)


def test_cells_of_a_token_have_their_mean_colour():
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[:, :2], image[:, 2:4], image[:, 4:] = 10, 30, 200
    # the first two cells of either row are one, the third is pruned
    slots = np.array([[0, 0, -1], [0, 0, -1]])
    painted = paint_tokens(image, slots, 2)
    assert (painted[:, :4] == 20).all()
    assert (painted[:, 4:] == int(0.25 * 200 + 0.75 * 235)).all()
    # a line between tokens, on the side behind it
    painted = paint_tokens(image, np.array([[0, 1, 1], [0, 1, 1]]), 2)
    assert (painted[:, :2] == 10).all()
    assert (painted[:, 2] < painted[:, 3]).all()


@pytest.mark.parametrize(
    'reduction', [MERGING, PRUNING], ids=['merge', 'prune']
)
def test_slots_are_those_of_the_image_that_is_seen(reduction, tmp_path):
    model, one = make(reduction), item()
    image, blocks = token_slots(model, one)
    # BGR is turned for those who look
    assert np.array_equal(
        image, one['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
    )
    # 60 x 90 pixels are 4 x 6 cells
    assert [slots.shape for slots in blocks] == [(4, 6)] * 3
    left = [len(np.unique(slots[slots >= 0])) for slots in blocks]
    assert left == [24, 17, 17] if reduction is MERGING else [24, 12, 12]
    assert ((blocks[-1] < 0).any()) == (reduction is PRUNING)
    draw_tokens([(image, blocks)] * 2, 16, tmp_path / 'tokens.png')
    assert (tmp_path / 'tokens.png').is_file()


def test_of_windows_the_first_is_drawn():
    """As the configs of ADE20K test: an image is larger than a window."""
    init_default_scope('mmseg')
    model = SEGMENTORS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='SegDataPreProcessor', bgr_to_rgb=True, size_divisor=1
            ),
            backbone=dict(BACKBONE, token_reduction=MERGING),
            decode_head=dict(
                type='FCNHead',
                in_channels=32,
                channels=8,
                num_convs=1,
                num_classes=4,
            ),
            test_cfg=ConfigDict(
                mode='slide', crop_size=(32, 48), stride=(32, 48)
            ),
        )
    )
    one = dict(item(), data_samples=SegDataSample(metainfo=METAS))
    image, blocks = token_slots(model, one)
    assert image.shape == (32, 48, 3)
    assert blocks[0].shape == (2, 3)
    seen = one['inputs'][[2, 1, 0], :32, :48].permute(1, 2, 0)
    assert np.array_equal(image, seen.numpy())
    assert paint_tokens(image, blocks[-1], 16).shape == image.shape


def test_a_model_that_reduces_nothing_has_nothing_to_draw():
    with pytest.raises(ValueError, match='set model.backbone.token_reduct'):
        token_slots(make(None), item())
