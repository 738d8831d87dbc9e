"""Inference on images."""

from .inferencer import ScopeInferencer, find_images

__all__ = ['ScopeInferencer', 'find_images']
