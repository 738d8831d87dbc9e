"""Which images are refined, and how many cells of each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Refinement(NamedTuple):
    """Which images are refined, and how many cells of each.

    Attributes:
        hard: Rows of the images to refine, ascending, (K,).
        scores: Scores of all cells of the batch (B, N_c), or None where no
            image is refined.
        groups: Number of cells and which of ``hard`` get it, ascending, for
            each number that occurs; None stands for all of them.
        most: Largest number of cells that an image can get.
    """

    hard: Tensor
    scores: Tensor | None
    groups: tuple[tuple[int, Tensor | None], ...]
    most: int


def refine_alike(
    exited: Tensor, eta: float, num: int, scores: Callable[[], Tensor]
) -> Refinement:
    """Refine the same number of cells in all images that do not exit.

    The device is asked which these are only if it has to.

    Args:
        exited: Images that keep their coarse answer, (B,) bool.
        eta: Threshold that they were decided at.
        num: Number of cells.
        scores: Function that scores the cells, (B, N_c).
    """
    if eta in (0, 1):
        count = exited.shape[0] if eta == 1 else 0
        hard = torch.arange(count, device=exited.device)
    else:
        # the one synchronisation with the host
        hard = exited.logical_not().nonzero().squeeze(1)
    if not hard.shape[0]:
        return Refinement(hard, None, (), num)
    return Refinement(hard, scores(), ((num, None),), num)


def refine_by_need(
    exited: Tensor, wanted: Tensor, nums: Sequence[int], scores: Tensor
) -> Refinement:
    """Refine the smallest number of cells that covers those wanted.

    Args:
        exited: Images that keep their coarse answer, (B,) bool.
        wanted: Number of cells that are worth it in each image, (B,).
        nums: Numbers of cells that can be refined, ascending, (R,). Images
            that want more get the last.
        scores: Scores of the cells, (B, N_c).
    """
    ladder = torch.tensor(nums, device=wanted.device)
    rung = torch.bucketize(wanted, ladder).clamp(max=len(nums) - 1)
    # the one synchronisation with the host
    rungs = rung.masked_fill(exited, -1).tolist()
    hard = [row for row, one in enumerate(rungs) if one >= 0]
    found = sorted({rungs[row] for row in hard})
    groups = []
    for one in found:
        index = [place for place, row in enumerate(hard) if rungs[row] == one]
        whole = len(index) == len(hard)
        groups.append((nums[one], None if whole else wanted.new_tensor(index)))
    rows = wanted.new_tensor(hard)
    return Refinement(rows, scores, tuple(groups), nums[-1])
