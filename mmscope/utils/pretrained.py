"""Weights to start from, of the official Vim or of mmscope."""

from pathlib import Path

from mmengine.logging import MMLogger
from torch import nn

from .checkpoint import (
    CheckpointError,
    KeyReport,
    StateDict,
    read_state_dict,
)
from .vim_checkpoint import NEW_IN_MMSCOPE, backbone_state, from_vim, is_vim

# what a backbone may not read
NOT_IN_BACKBONE = (
    r'(head\.|norm_f\.|exit_head\.|level_norms\.|cls_token$|cls_pos_embed$)'
)
# layers with a row for each class
CLASSIFIERS = ('exit_head.',)

# keys of init_cfg beside type and checkpoint; tensors are read to the CPU
OPTIONS = {'prefix', 'weights'}
IGNORED = {'map_location'}


def load_from_config(module: nn.Module, config: dict) -> KeyReport:
    """Load what an ``init_cfg`` of type 'Pretrained' names.

    Args:
        module: A backbone of mmscope.
        config: The ``init_cfg``: ``checkpoint``, and ``prefix`` and
            ``weights`` as for :func:`load_pretrained`.

    Raises:
        ValueError: a key is unknown or lacking; and as that does.
    """
    options = {k: v for k, v in config.items() if k not in IGNORED}
    del options['type']
    checkpoint = options.pop('checkpoint', None)
    if checkpoint is None or options.keys() - OPTIONS:
        raise ValueError(
            "init_cfg of type 'Pretrained' takes checkpoint and, beside it, "
            f'{" and ".join(sorted(OPTIONS))}, got {sorted(config)}'
        )
    return load_pretrained(module, checkpoint, **options)


def load_pretrained(
    module: nn.Module,
    path: str | Path,
    prefix: str | None = None,
    weights: str = 'model',
) -> KeyReport:
    """Load a backbone's weights from a checkpoint of Vim or of mmscope.

    The coarse position embeddings and the level norms, which Vim and
    classifiers do not have, start as the fine ones and as ``norm_f``; and
    ``norm_f``, which backbones for dense tasks may lack, as the last of those.
    An exit head of another number of classes is left out, and so are norms of
    another number of levels.

    Args:
        module: A backbone of mmscope.
        path: The checkpoint, or an address, see :func:`local_file`.
        prefix: Take only the keys below it; by default 'backbone' where the
            checkpoint is of a whole model.
        weights: 'model', 'ema' or 'raw', see :func:`read_state_dict`.

    Returns:
        What became of every key; it is logged too.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, or of another model, or
            has no averages.
        OSError: an address cannot be fetched.
        ValueError: ``weights`` is unknown.
    """
    state = read_state_dict(path, weights=weights)
    if prefix is None:
        state = backbone_state(state)
    else:
        start = prefix.rstrip('.') + '.'
        state = {
            k.removeprefix(start): v
            for k, v in state.items()
            if k.startswith(start)
        }
        if not state:
            raise CheckpointError(
                f'{path} has no key that starts with {start}'
            )
    if is_vim(state):
        state, _ = from_vim(state)

    wanted = module.state_dict()
    report = KeyReport(
        dropped=_drop_others(state, wanted),
        derived=_derive_new_keys(module, state),
        resized=_resized(module, state),
    )
    filled = {*report.derived}
    report.used = [k for k in wanted if k in state and k not in filled]
    report.missing = [k for k in wanted if k not in state]
    report.unexpected = [k for k in state if k not in wanted]
    report.expect(NEW_IN_MMSCOPE, report.missing)
    report.expected.update(report.dropped)
    report.expect(NOT_IN_BACKBONE, report.unexpected)
    report.check(f'{path} is not of this model')
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as err:
        raise CheckpointError(
            f'{path} is of another architecture: {err}'
        ) from err
    MMLogger.get_current_instance().info('loaded %s\n%s', path, report)
    return report


def _drop_others(state: StateDict, wanted: StateDict) -> list[str]:
    """Take out layers of other classes, and norms of other levels.

    Norms have the number of their level, not that of its block.
    """
    dropped = [
        key
        for key in state
        if key.startswith(CLASSIFIERS)
        and key in wanted
        and len(state[key]) != len(wanted[key])
        and state[key].shape[1:] == wanted[key].shape[1:]
    ]
    levels, others = _levels(state), _levels(wanted)
    if levels and len(levels) != len(others):
        state.setdefault('norm_f.weight', state[levels[-1]])
        dropped += levels
    for key in dropped:
        del state[key]
    return dropped


def _levels(state: StateDict) -> list[str]:
    """Names of the norms of levels, in order."""
    keys = [key for key in state if key.startswith('level_norms.')]
    return sorted(keys, key=lambda key: int(key.split('.')[1]))


def _resized(module: nn.Module, state: StateDict) -> list[str]:
    """Say which position embeddings loading will resample, and how."""
    told = []
    for name, own in module.pos_grids.items():
        stored = state.get(f'{name}_grid')
        if stored is None or name not in state:
            continue
        grid = tuple(stored.tolist())
        if grid != tuple(own):
            sizes = [f'{height} x {width}' for height, width in (grid, own)]
            told.append(f'{name} from {" to ".join(sizes)}')
    return told


def _derive_new_keys(module: nn.Module, state: StateDict) -> list[str]:
    """Fill keys that the checkpoint does not have from those that it has."""
    sources = {
        f'coarse_{name}': name
        for name in ('cls_pos_embed', 'pos_embed', 'pos_embed_grid')
    }
    wanted = set(module.state_dict())
    for key in sorted(wanted):
        if key.startswith('level_norms.'):
            sources[key] = 'norm_f.weight'
    if levels := _levels(state):
        sources['norm_f.weight'] = levels[-1]
    derived = [
        key
        for key, source in sources.items()
        if key in wanted and key not in state and source in state
    ]
    for key in derived:
        state[key] = state[sources[key]].clone()
    return derived
