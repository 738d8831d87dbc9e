"""Pictures and plots."""

from .scope_hook import ScopeVisualizationHook
from .scope_pictures import (
    ScopePicture,
    build_visualizer,
    draw_answer,
    draw_scope,
    picture_scope,
    render_scope,
)

__all__ = [
    'ScopePicture',
    'ScopeVisualizationHook',
    'build_visualizer',
    'draw_answer',
    'draw_scope',
    'picture_scope',
    'render_scope',
]
