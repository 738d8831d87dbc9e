# Plain Vim by the demo's recipe: see docs/evidence.md
_base_ = ['../demo/mambascope_demo.py']

for name in ('coarse_decode_weight', 'exit_weight'):
    _base_.model.pop(name)
for name in ('alpha_schedule', 'exit_statistics'):
    _base_.default_hooks.pop(name)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(
        _delete_=True,
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=_base_.embed_dims, num_layers=6),
        img_size=160,
        out_indices=(1, 2, 3, 5),
    ),
)
# mmseg's own segmentor takes images of several sizes one by one
val_dataloader = dict(batch_size=1)
test_dataloader = dict(batch_size=1)
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU'])]
test_evaluator = val_evaluator
