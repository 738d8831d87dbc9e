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
NOT_IN_BACKBONE = r'(head\.|norm_f\.|exit_head\.|level_norms\.)'


def load_pretrained(
    module: nn.Module, path: str | Path, prefix: str | None = None
) -> KeyReport:
    """Load a backbone's weights from a checkpoint of Vim or of mmscope.

    The coarse position embeddings and the level norms, which Vim does not
    have, start as the fine ones and as ``norm_f``.

    Args:
        module: A backbone of mmscope.
        path: The checkpoint.
        prefix: Take only the keys below it; by default 'backbone' where the
            checkpoint is of a whole model.

    Returns:
        What became of every key; it is logged too.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, or of another model.
    """
    state = read_state_dict(path)
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

    report = KeyReport(derived=_derive_new_keys(module, state))
    wanted = module.state_dict()
    report.used = [k for k in wanted if k in state]
    report.missing = [k for k in wanted if k not in state]
    report.unexpected = [k for k in state if k not in wanted]
    report.expect(NEW_IN_MMSCOPE, report.missing)
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


def _derive_new_keys(module: nn.Module, state: StateDict) -> list[str]:
    """Fill keys that Vim does not have from those that it has."""
    sources = {
        f'coarse_{name}': name
        for name in ('cls_pos_embed', 'pos_embed', 'pos_embed_grid')
    }
    wanted = set(module.state_dict())
    for key in sorted(wanted):
        if key.startswith('level_norms.'):
            sources[key] = 'norm_f.weight'
    derived = [
        key
        for key, source in sources.items()
        if key in wanted and key not in state and source in state
    ]
    for key in derived:
        state[key] = state[sources[key]].clone()
    return derived
