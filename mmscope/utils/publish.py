"""Checkpoints reduced to what others need: weights and names of classes."""

from pathlib import Path

import torch
from torch import Tensor

from mmscope.version import __version__

from .checkpoint import (
    MMENGINE_WRAPPERS,
    CheckpointError,
    load_data,
    read_state_dict,
)
from .download import local_file

# what mmseg, mmdet and mmpretrain read of the meta of a checkpoint
KEPT_META = ('dataset_meta', 'epoch', 'iter')


def publish_checkpoint(
    src: str, dst: str | Path, weights: str = 'model', half: bool = False
) -> int:
    """Write the weights of a training's checkpoint, without its state.

    Optimizer, schedules, logs and the config, which has paths of a machine,
    are left out. What is written loads wherever ``src`` did, but cannot be
    resumed from.

    Args:
        src: Checkpoint of a training, or its address.
        dst: Checkpoint to write; its folder is made.
        weights: 'model', 'ema' or 'raw', see :func:`read_state_dict`.
        half: Whether weights are kept in 16 bits, for half the size; models
            compute in their own precision all the same.

    Returns:
        Size of the file in bytes.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it cannot be read, or has weights beyond the range
            of 16 bits.
    """
    state = read_state_dict(src, MMENGINE_WRAPPERS, weights)
    if half:
        state = {key: _halve(key, value) for key, value in state.items()}
    whole = load_data(local_file(src))
    meta = whole.get('meta', {}) if isinstance(whole, dict) else {}
    kept = {key: meta[key] for key in KEPT_META if key in meta}
    dst = Path(dst)
    dst.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        dict(state_dict=state, meta=dict(kept, mmscope_version=__version__)),
        dst,
    )
    return dst.stat().st_size


def _halve(key: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not half.isfinite().all():
        raise CheckpointError(
            f'{key} has values up to {value.abs().max():.3g}, and 16 bits '
            f'hold {torch.finfo(half.dtype).max:g}; leave out half'
        )
    return half
