"""Writing figures of matplotlib."""

from pathlib import Path

import matplotlib.pyplot as plt


def save_figure(
    figure: plt.Figure, path: str | Path, top: float = 1.0
) -> None:
    """Write a figure, making its folder, and close it.

    Args:
        figure: The figure.
        path: Picture to write.
        top: Share of the height below a legend on top.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(rect=(0, 0, 1, top))
    figure.savefig(path, dpi=110, bbox_inches='tight')
    plt.close(figure)
