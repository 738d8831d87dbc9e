# A small plain Vim behind a Cascade R-CNN of boxes alone
_base_ = ['../../cascade_mask_rcnn/_base_/cascade_mask_rcnn.py']

embed_dims = channels = 64
image_size = (192, 192)
num_classes = 12
heads = [
    dict(
        head,
        type='Shared2FCBBoxHead',
        in_channels=channels,
        fc_out_channels=256,
        num_classes=num_classes,
    )
    for head in _base_.model.roi_head.bbox_head
]
stages = [
    dict(stage, sampler=dict(stage.sampler, num=64))
    for stage in _base_.model.train_cfg.rcnn
]
model = dict(
    data_preprocessor=dict(
        pad_size_divisor=64,
        pad_mask=False,
        batch_augments=[dict(type='BatchFixedSizePad', size=image_size)],
    ),
    backbone=dict(
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=embed_dims, num_layers=6),
        img_size=image_size,
        out_indices=(5,),
    ),
    neck=dict(in_channels=embed_dims, out_channels=channels),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        num_convs=1,
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=channels
        ),
        bbox_head=heads,
        mask_roi_extractor=None,
        mask_head=None,
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100), rcnn=stages
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=30)
    ),
)
