# Vim's own batch and weight decay: 8 GPUs x 128 images
_base_ = './vim_t_in1k.py'

train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
auto_scale_lr = dict(base_batch_size=1024)
