# A guess at the paper's 30M parameters and 352 G, which it does not explain:
# heads_full.py with the 192 channels of the "lite" heads and fully connected
# layers of 512
_base_ = './heads_full.py'

width = 192
fc_width = 512
rois = dict(out_channels=width)
heads = dict(
    neck=dict(out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=rois,
        bbox_head=[
            dict(
                head,
                in_channels=width,
                conv_out_channels=width,
                fc_out_channels=fc_width,
            )
            for head in _base_.heads.roi_head.bbox_head
        ],
        mask_roi_extractor=rois,
        mask_head=dict(in_channels=width, conv_out_channels=width),
    ),
)
