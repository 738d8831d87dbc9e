# Plain Vim on Imagenette: see docs/classification.md
_base_ = ['_base_/imagenette.py', '_base_/vim_classifier.py']
