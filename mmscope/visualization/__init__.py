"""Pictures and plots."""

from .exit_pictures import (
    PictureCollector,
    draw_contact_sheet,
    plot_sweep,
)
from .fps_plot import plot_fps

__all__ = [
    'PictureCollector',
    'draw_contact_sheet',
    'plot_fps',
    'plot_sweep',
]
