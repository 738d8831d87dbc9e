# Plain Vim on labelmefacade: see docs/evidence.md
_base_ = ['_base_/vim.py', '_base_/labelmefacade.py']
