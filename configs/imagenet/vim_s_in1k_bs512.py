# Vim's own batch: 8 GPUs x 64 images
_base_ = './vim_s_in1k.py'

auto_scale_lr = dict(base_batch_size=512)
