"""Pictures and plots."""

from .exit_pictures import (
    PictureCollector,
    draw_contact_sheet,
    plot_sweep,
)

__all__ = ['PictureCollector', 'draw_contact_sheet', 'plot_sweep']
