"""Inference on images."""

from mmscope.datasets.images import find_images

from .inferencer import Answer, ScopeInferencer

__all__ = ['Answer', 'ScopeInferencer', 'find_images']
