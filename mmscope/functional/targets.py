"""Which classes an image contains: the targets of the exit head."""

from collections.abc import Sequence

import torch
from torch import Tensor


def classes_in_mask(
    mask: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Turn segmentation masks into multi-label targets.

    Args:
        mask: Class indices of one image (H, W) or of a batch (B, H, W),
            any integer dtype.
        num_classes: Number of classes K; labels are 0 .. K - 1.
        ignore_index: Label of the pixels that belong to no class.

    Returns:
        1.0 where a class has at least one pixel, (B, K), float32; B is 1
        for a mask without a batch axis.
    """
    _check_num_classes(num_classes)
    if mask.ndim not in (2, 3):
        raise ValueError(
            f'mask must be (H, W) or (B, H, W), got {tuple(mask.shape)}: '
            'squeeze the channel axis'
        )
    batch = mask.unsqueeze(0) if mask.ndim == 2 else mask
    labels = _as_long(batch.flatten(1), 'mask')
    ignored = labels == ignore_index
    _check_labels(
        labels,
        ignored | ((labels >= 0) & (labels < num_classes)),
        f'mask may hold 0 to {num_classes - 1} and {ignore_index} (ignored)',
        'or set reduce_zero_label=True if 0 means unlabelled in the files, '
        f'or seg_pad_val={ignore_index} if it is padding',
    )
    # ignored pixels vote for a class K, which is cut off again
    return _multi_hot(labels.masked_fill(ignored, num_classes), num_classes)


def classes_in_instances(labels: Sequence[Tensor], num_classes: int) -> Tensor:
    """Turn the instance labels of a batch into multi-label targets.

    Args:
        labels: Per image the class indices of its instances, (N_i,); an
            image without instances, N_i = 0, gives a row of zeros.
        num_classes: Number of classes K; labels are 0 .. K - 1.

    Returns:
        1.0 where a class has at least one instance, (B, K), float32.
    """
    _check_num_classes(num_classes)
    if not labels:
        raise ValueError(
            'labels must hold one tensor per image, got an empty list: pass '
            'an empty tensor for an image without instances'
        )
    rows = []
    for index, row in enumerate(labels):
        name = f'labels[{index}]'
        if row.ndim != 1:
            raise ValueError(f'{name} must be (N,), got {tuple(row.shape)}')
        row = _as_long(row, name)
        _check_labels(
            row,
            (row >= 0) & (row < num_classes),
            f'{name} may hold 0 to {num_classes - 1}',
            "or check the dataset's metainfo['classes']",
        )
        rows.append(_multi_hot(row.unsqueeze(0), num_classes))
    return torch.cat(rows)


def _multi_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Mark the labels that occur: (B, N) in 0 .. K -> (B, K), K dropped."""
    present = torch.zeros(len(labels), num_classes + 1, device=labels.device)
    return present.scatter_(1, labels, 1.0)[:, :num_classes].contiguous()


def _as_long(labels: Tensor, name: str) -> Tensor:
    # an empty float tensor is what torch.tensor([]) gives: nothing to lose
    if labels.numel() and (labels.is_floating_point() or labels.is_complex()):
        raise ValueError(
            f'{name} must hold integer class indices, got {labels.dtype}: '
            'convert it with .long()'
        )
    return labels.long()


def _check_labels(
    labels: Tensor, allowed: Tensor, rule: str, other_fix: str
) -> None:
    if allowed.all():
        return
    wrong = labels[~allowed].unique().tolist()
    shown = ', '.join(map(str, wrong[:5])) + (', ...' if wrong[5:] else '')
    fix = 'remove the negative labels'
    if wrong[-1] >= 0:
        fix = f'set num_classes to at least {wrong[-1] + 1}'
    raise ValueError(f'{rule}, found {shown}: {fix}, {other_fix}')


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f'num_classes must be at least 1, got {num_classes}')
