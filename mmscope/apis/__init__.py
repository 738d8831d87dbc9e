"""Inference on images."""

from .inferencer import Answer, ScopeInferencer
from .inputs import find_images

__all__ = ['Answer', 'ScopeInferencer', 'find_images']
