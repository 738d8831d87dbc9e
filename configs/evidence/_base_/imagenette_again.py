# Four epochs more of trained weights of imagenette_vim.py, which lie in
# imagenette_vim.pth
_base_ = ['imagenette.py']

load_from = 'imagenette_vim.pth'
max_epochs = 4
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
