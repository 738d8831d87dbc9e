# Plain Vim on debris of runways: see docs/evidence.md
_base_ = ['_base_/cascade_vim.py', '_base_/foda.py']
