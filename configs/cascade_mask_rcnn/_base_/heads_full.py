# The heads that Vim's own scripts train: 256 channels, fully connected layers
# of 1024, one mask head for all stages, L1 losses of boxes, and stages of
# weight 1. A config that has this beside a detector as its _base_ takes them:
# model = _base_.heads
width = 256
fc_width = 1024
rois = dict(out_channels=width)
heads = dict(
    neck=dict(out_channels=width),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        loss_bbox=dict(_delete_=True, type='L1Loss'),
    ),
    roi_head=dict(
        type='mmscope.SharedMaskCascadeRoIHead',
        stage_loss_weights=[1, 1, 1],
        bbox_roi_extractor=rois,
        bbox_head=[
            dict(
                type='Shared4Conv1FCBBoxHead',
                in_channels=width,
                conv_out_channels=width,
                fc_out_channels=fc_width,
                norm_cfg=dict(type='mmscope.LayerNorm2d'),
                num_classes=80,
                reg_class_agnostic=True,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=stds),
                loss_cls=dict(type='CrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss'),
            )
            for stds in (
                [0.1, 0.1, 0.2, 0.2],
                [0.05, 0.05, 0.1, 0.1],
                [0.033, 0.033, 0.067, 0.067],
            )
        ],
        mask_roi_extractor=rois,
        mask_head=dict(in_channels=width, conv_out_channels=width),
    ),
)
