# Plain Vim on labelmefacade: see docs/evidence.md
_base_ = ['_base_/vim.py', '_base_/labelmefacade.py']

# mmseg's own segmentor takes images of several sizes one by one
val_dataloader = dict(batch_size=1)
test_dataloader = dict(batch_size=1)
