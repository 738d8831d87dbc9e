"""Weights between the official Vim's names and ours, either way."""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import (
    CheckpointError,
    KeyReport,
    StateDict,
    read_state_dict,
)

# ours, which stack the directions: Vim's of either direction
DIRECTIONS = {
    'conv_weight': ('conv1d.weight', 'conv1d_b.weight'),
    'conv_bias': ('conv1d.bias', 'conv1d_b.bias'),
    'x_proj': ('x_proj.weight', 'x_proj_b.weight'),
    'dt_proj': ('dt_proj.weight', 'dt_proj_b.weight'),
    'dt_bias': ('dt_proj.bias', 'dt_proj_b.bias'),
    'A_log': ('A_log', 'A_b_log'),
    'D': ('D', 'D_b'),
}
STEM_KEYS = (
    'patch_embed.proj.weight',
    'patch_embed.proj.bias',
    'cls_token',
    'norm_f.weight',
)
BLOCK_KEYS = (
    'norm.weight',
    'mixer.in_proj.weight',
    'mixer.out_proj.weight',
)
# what a Vim checkpoint cannot have
NEW_IN_MMSCOPE = (
    r'(coarse_(cls_)?pos_embed|level_norms\.|reuse\.|exit_head\.|'
    r'cell_score\.|registers$)'
)


def is_vim(state: StateDict) -> bool:
    """Whether these are weights of the official Vim: CLS in pos_embed."""
    ours = {'cls_pos_embed', 'pos_embed_grid'}
    return 'pos_embed' in state and not ours & state.keys()


def from_vim(state: StateDict) -> tuple[StateDict, KeyReport]:
    """Turn weights of an official Vim into ours.

    Vim keeps the position embedding of CLS, which stands in the middle of
    the sequence, in the middle row of ``pos_embed``, not in the first, and
    its grids are square.

    Args:
        state: Weights with Vim's names.

    Returns:
        Weights with our names, and what became of each key.

    Raises:
        CheckpointError: a key that matters is missing, or ``pos_embed`` has
            no row for CLS.
    """
    same = _same_keys(state)
    stacked = {
        f'{mixer}{ours}': tuple(mixer + name for name in names)
        for mixer in _mixers(state)
        for ours, names in DIRECTIONS.items()
    }
    wanted = [
        *same,
        'pos_embed',
        *(k for pair in stacked.values() for k in pair),
    ]
    report = _report(state, wanted)
    report.expect(r'(head|rope)\.', report.unexpected)
    report.check('not the weights of an official Vim')

    converted = {key: state[key] for key in same}
    for ours, pair in stacked.items():
        tensor = torch.stack([state[key] for key in pair])
        is_taps = ours.endswith('conv_weight')  # (2, D, 1, K)
        converted[ours] = tensor.squeeze(2) if is_taps else tensor
    rows = state['pos_embed']
    side = math.isqrt(rows.shape[1] - 1)
    if side**2 != rows.shape[1] - 1:
        raise CheckpointError(
            f'pos_embed has {rows.shape[1]} rows, which is no square grid '
            'and one row for CLS; use weights with a class token (midclstok)'
        )
    middle = side**2 // 2
    converted['pos_embed'] = torch.cat(
        [rows[:, :middle], rows[:, middle + 1 :]], dim=1
    )
    converted['pos_embed_grid'] = torch.tensor([side, side])
    converted['cls_pos_embed'] = rows[:, middle : middle + 1].clone()
    report.derived += [*stacked, 'cls_pos_embed', 'pos_embed_grid']
    return converted, report


def to_vim(state: StateDict) -> tuple[StateDict, KeyReport]:
    """Turn weights of ours into those of an official Vim.

    What Vim does not have is left out. A backbone that returns maps has no
    final norm, and gives none.

    Args:
        state: Weights of either backbone.

    Returns:
        Weights with Vim's names, and what became of each key.

    Raises:
        CheckpointError: a key that matters is missing, or the position
            embeddings are of a grid that is not square.
    """
    same = _same_keys(state)
    stacked = [mixer + name for mixer in _mixers(state) for name in DIRECTIONS]
    embeds = ['pos_embed', 'pos_embed_grid', 'cls_pos_embed']
    report = _report(state, [*same, *embeds, *stacked])
    report.expect(NEW_IN_MMSCOPE, report.unexpected)
    report.expect(r'norm_f\.', report.missing)
    report.check('not the weights of a backbone of mmscope')

    height, width = state['pos_embed_grid'].tolist()
    if height != width:
        raise CheckpointError(
            f'the position embeddings are of a grid of {height} x {width}, '
            'and Vim has square ones; load the weights into a backbone with '
            'a square img_size, which resamples them, and save that'
        )
    converted = {key: state[key] for key in same if key in state}
    for key in stacked:
        mixer, name = key.rsplit('.', 1)
        for vims, tensor in zip(DIRECTIONS[name], state[key], strict=True):
            is_taps = name == 'conv_weight'
            tensor = tensor.unsqueeze(1) if is_taps else tensor
            converted[f'{mixer}.{vims}'] = tensor.clone()
    rows, middle = state['pos_embed'], height * width // 2
    converted['pos_embed'] = torch.cat(
        [rows[:, :middle], state['cls_pos_embed'], rows[:, middle:]], dim=1
    )
    report.derived += [key for key in converted if key not in state]
    return converted, report


def convert_vim_checkpoint(
    src: str | Path,
    dst: str | Path,
    to_vim_names: bool = False,
    classifier: bool = False,
    weights: str = 'model',
) -> KeyReport:
    """Write a checkpoint of the official Vim as one of ours, or back.

    Ours suits ``init_cfg=dict(type='Pretrained', checkpoint=dst)`` of both
    backbones.

    Args:
        src: Vim's checkpoint; for the way back, of a backbone of ours or of
            a model that has one.
        dst: File to write.
        to_vim_names: Whether to write Vim's names.
        classifier: Whether to write a whole ImageClassifier of mmpretrain,
            Vim's head with it, as configs/imagenet has it.
        weights: 'model', 'ema' or 'raw', see :func:`read_state_dict`.

    Returns:
        What became of every key.

    Raises:
        FileNotFoundError: ``src`` does not exist.
        CheckpointError: it is no checkpoint of the kind that is converted,
            or lacks the head that is asked for.
        ValueError: a classifier is asked for with Vim's names.
    """
    if classifier and to_vim_names:
        raise ValueError(
            "a classifier of mmpretrain has no Vim's names: leave out one of "
            'classifier and to_vim_names'
        )
    state = backbone_state(read_state_dict(src, weights=weights))
    if is_vim(state) == to_vim_names:
        has = "Vim's" if to_vim_names else "mmscope's"
        raise CheckpointError(f'{src} has {has} names already')
    if to_vim_names:
        converted, report = to_vim(state)
        torch.save(dict(model=converted), dst)
    else:
        converted, report = from_vim(state)
        if classifier:
            converted = _whole_classifier(converted, state, report, src)
        torch.save(dict(state_dict=converted, meta=dict(source='Vim')), dst)
    return report


def _whole_classifier(
    converted: StateDict, state: StateDict, report: KeyReport, src: str | Path
) -> StateDict:
    """Weights of an ImageClassifier: a backbone's, and Vim's head."""
    head = {f'head.{name}': f'head.fc.{name}' for name in ('weight', 'bias')}
    if lacking := head.keys() - state.keys():
        raise CheckpointError(
            f'{src} has no {" and ".join(sorted(lacking))}, which a '
            'classifier needs; convert its backbone alone'
        )
    report.used += head
    report.unexpected = [k for k in report.unexpected if k not in head]
    side = math.isqrt(converted['pos_embed'].shape[1])
    grid = torch.tensor([side, side])
    return {
        **{f'backbone.{key}': value for key, value in converted.items()},
        'backbone.pos_embed_grid': grid,
        **{ours: state[vims] for vims, ours in head.items()},
    }


def backbone_state(state: StateDict) -> StateDict:
    """Weights of the backbone, where these are of a whole model."""
    start = 'backbone.'
    if f'{start}pos_embed' not in state:
        return state
    return {
        key.removeprefix(start): tensor
        for key, tensor in state.items()
        if key.startswith(start)
    }


def _mixers(state: StateDict) -> list[str]:
    """Prefixes of the mixers up to the deepest that a key names."""
    matches = (re.match(r'layers\.(\d+)\.', key) for key in state)
    last = max((int(m[1]) for m in matches if m), default=0)
    return [f'layers.{n}.mixer.' for n in range(last + 1)]


def _same_keys(state: StateDict) -> list[str]:
    """Keys that have the same name and value in both."""
    blocks = [m.removesuffix('mixer.') for m in _mixers(state)]
    return [*STEM_KEYS, *(b + key for b in blocks for key in BLOCK_KEYS)]


def _report(state: dict[str, Tensor], wanted: list[str]) -> KeyReport:
    names = set(wanted)
    return KeyReport(
        used=[k for k in wanted if k in state],
        missing=[k for k in wanted if k not in state],
        unexpected=[k for k in state if k not in names],
    )
