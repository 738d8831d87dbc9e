"""Pictures and plots."""

from .exit_plots import plot_stages, plot_sweep
from .fps_plot import plot_fps
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
    'build_visualizer',
    'draw_answer',
    'draw_scope',
    'picture_scope',
    'plot_stages',
    'plot_fps',
    'plot_sweep',
    'render_scope',
]
