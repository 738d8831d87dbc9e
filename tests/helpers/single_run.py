"""Several runs in one process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from mmpretrain.visualization import UniversalVisualizer
from mmseg.visualization import SegLocalVisualizer


@contextmanager
def single_run() -> Iterator[None]:
    """Let a Runner start from nothing, on one thread.

    mmengine keeps loggers, message hubs and visualizers by name. For tiny
    networks, two threads would only wait for each other.
    """
    kept = (
        *(MMLogger, MessageHub, DefaultScope),
        # hooks ask the base class for the one that was made last
        *(Visualizer, SegLocalVisualizer, DetLocalVisualizer),
        UniversalVisualizer,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for manager in kept:
        manager._instance_dict.clear()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for manager in kept:
            manager._instance_dict.clear()
