# Plain Vim, trained on as its rivals are: see docs/rivals.md
_base_ = ['_base_/imagenette_again.py', '_base_/vim_classifier.py']
