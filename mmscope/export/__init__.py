"""MambaScope as ONNX graphs, and a runner that serves them."""

from .onnx import export_onnx
from .record import ExportRecord
from .runner import OnnxScope, ServedAnswer

__all__ = ['ExportRecord', 'export_onnx', 'OnnxScope', 'ServedAnswer']
