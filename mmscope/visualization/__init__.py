"""Pictures and plots."""

from .answers import build_visualizer, draw_answer
from .class_hook import ClassVisualizationHook
from .names import PictureNames
from .scope_hook import ScopeVisualizationHook
from .scope_pictures import ScopePicture, picture_scope
from .sheet import draw_scope, render_scope
from .tokens import draw_tokens, paint_tokens, token_slots

__all__ = [
    'ClassVisualizationHook',
    'PictureNames',
    'ScopePicture',
    'ScopeVisualizationHook',
    'build_visualizer',
    'draw_answer',
    'draw_scope',
    'draw_tokens',
    'paint_tokens',
    'picture_scope',
    'render_scope',
    'token_slots',
]
