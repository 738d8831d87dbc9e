"""Checkpoints of the official Vim and of mmscope, loaded loudly."""

import math
import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

StateDict = dict[str, Tensor]

BLOCK_KEYS = (
    'norm.weight',
    *(f'mixer.{name}' for name in ('A_log', 'A_b_log', 'D', 'D_b')),
    *(
        f'mixer.{name}.weight'
        for name in (
            *('in_proj', 'out_proj', 'x_proj', 'x_proj_b'),
            *('dt_proj', 'dt_proj_b', 'conv1d', 'conv1d_b'),
        )
    ),
    *(
        f'mixer.{name}.bias'
        for name in ('dt_proj', 'dt_proj_b', 'conv1d', 'conv1d_b')
    ),
)
STEM_KEYS = (
    'patch_embed.proj.weight',
    'patch_embed.proj.bias',
    'cls_token',
    'pos_embed',
    'norm_f.weight',
)
# what a Vim checkpoint cannot have, and what a backbone may not read
NEW_IN_MMSCOPE = r'(coarse_(cls_)?pos_embed|level_norms\.|reuse\.|exit_head\.)'
NOT_IN_BACKBONE = r'(head\.|norm_f\.|exit_head\.|level_norms\.)'


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or is not of this model."""


@dataclass
class KeyReport:
    """What became of every key of a checkpoint and of a model.

    Attributes:
        used: Keys that were loaded.
        derived: Keys of the model that were filled from others.
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model does not read.
        expected: Those of the last two that are no cause for concern.
    """

    used: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)

    @property
    def problems(self) -> list[str]:
        """Keys that matter and are missing or unexpected."""
        missing = [f'missing {k}' for k in self.missing]
        unexpected = [f'unexpected {k}' for k in self.unexpected]
        return [
            line
            for line in missing + unexpected
            if line.split(' ', 1)[1] not in self.expected
        ]

    def __str__(self) -> str:
        lines = []
        for name in ('used', 'derived', 'missing', 'unexpected'):
            keys = getattr(self, name)
            lines.append(f'{name}: {len(keys)}')
            for key in keys:
                note = ' (expected)' if key in self.expected else ''
                lines.append(f'  {key}{note}')
        return '\n'.join(lines)


def read_state_dict(path: str | Path) -> StateDict:
    """Read the weights of a checkpoint, whatever they are wrapped in.

    Args:
        path: A file with a state dict, bare or under 'model' (official Vim)
            or 'state_dict' (mmengine).

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'checkpoint {path} does not exist; check the path'
        )
    checkpoint = _load_file(path)
    for wrapper in ('model', 'state_dict'):
        if isinstance(checkpoint, dict) and wrapper in checkpoint:
            checkpoint = checkpoint[wrapper]
    if (
        not isinstance(checkpoint, dict)
        or not checkpoint
        or not all(isinstance(v, Tensor) for v in checkpoint.values())
    ):
        raise CheckpointError(
            f'{path} is not a checkpoint: expected a state dict, bare or '
            f"under 'model' or 'state_dict', got {type(checkpoint).__name__}"
        )
    return {k.removeprefix('module.'): v for k, v in checkpoint.items()}


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers, and calls nothing else.

    Checkpoints of mmengine and of Vim hold loggers and arguments, too.
    """

    def find_class(self, module: str, name: str) -> object:
        """Resolve what tensors are made of; stand-ins for the rest."""
        if module.startswith('torch') and (
            name.startswith('_rebuild') or name.endswith('Storage')
        ):
            return super().find_class(module, name)
        if (module, name) in {
            ('collections', 'OrderedDict'),
            ('torch', 'Size'),
            ('torch', 'device'),
        }:
            return super().find_class(module, name)
        return _Skipped


class _Skipped:
    """Stand-in for an object of a checkpoint that is no weight."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> '_Skipped':
        return self

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, *_: object) -> None:
        pass

    def append(self, _: object) -> None:
        """Swallow the items of a skipped list."""

    def extend(self, _: object) -> None:
        """Swallow the items of a skipped list."""


def _load_tensors(file: object, **options: object) -> object:
    return _TensorUnpickler(file, **options).load()


def _load_file(path: Path) -> object:
    """Read a checkpoint without running any code of its pickle."""
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as err:  # what is no checkpoint may raise anything
        if 'Unsupported' not in str(err):
            raise _unreadable(path) from err
    try:
        return torch.load(
            path,
            map_location='cpu',
            pickle_module=SimpleNamespace(
                Unpickler=_TensorUnpickler,
                load=_load_tensors,
                __name__='pickle',
            ),
            weights_only=False,
        )
    except Exception as err:
        raise _unreadable(path) from err


def _unreadable(path: Path) -> CheckpointError:
    size = path.stat().st_size
    return CheckpointError(
        f'{path} ({size} bytes) is truncated or not a PyTorch checkpoint; '
        'download or save it again'
    )


def is_vim(state: StateDict) -> bool:
    """Whether these are weights of the official Vim: CLS in pos_embed."""
    return 'pos_embed' in state and 'cls_pos_embed' not in state


def convert_vim_state_dict(state: StateDict) -> tuple[StateDict, KeyReport]:
    """Rename the weights of an official Vim to ours.

    Vim keeps the position embedding of CLS, which stands in the middle of
    the sequence, in the middle row of ``pos_embed``, not in the first.

    Args:
        state: Weights with Vim's names.

    Returns:
        Weights with our names, and what became of each key.

    Raises:
        CheckpointError: a key that matters is missing, or ``pos_embed`` has
            no row for CLS.
    """
    depths = [int(m[1]) for k in state if (m := re.match(r'layers\.(\d+)', k))]
    wanted = [
        *STEM_KEYS,
        *(
            f'layers.{n}.{key}'
            for n in range(max(depths, default=0) + 1)
            for key in BLOCK_KEYS
        ),
    ]
    report = KeyReport(
        used=[k for k in wanted if k in state],
        missing=[k for k in wanted if k not in state],
        unexpected=[k for k in state if k not in set(wanted)],
    )
    report.expected.update(_matching(r'(head|rope)\.', report.unexpected))
    _raise_problems(report, 'not the weights of an official Vim')

    converted = {k: state[k] for k in report.used}
    num_patches = state['pos_embed'].shape[1] - 1
    if math.isqrt(num_patches) ** 2 != num_patches:
        raise CheckpointError(
            f'pos_embed has {num_patches + 1} rows, which is no square grid '
            'and one row for CLS; use weights with a class token (midclstok)'
        )
    middle = num_patches // 2
    pos_embed = state['pos_embed']
    converted['pos_embed'] = torch.cat(
        [pos_embed[:, :middle], pos_embed[:, middle + 1 :]], dim=1
    )
    converted['cls_pos_embed'] = pos_embed[:, middle : middle + 1].clone()
    report.derived.append('cls_pos_embed')
    return converted, report


def convert_vim_checkpoint(src: str | Path, dst: str | Path) -> KeyReport:
    """Convert a checkpoint of the official Vim into a file of ours.

    The file suits ``init_cfg=dict(type='Pretrained', checkpoint=dst)`` of
    both backbones.

    Args:
        src: Vim's checkpoint.
        dst: File to write.

    Returns:
        What became of every key.

    Raises:
        FileNotFoundError: ``src`` does not exist.
        CheckpointError: it is no checkpoint of the official Vim.
    """
    state = read_state_dict(src)
    if 'cls_pos_embed' in state:
        raise CheckpointError(f"{src} has mmscope's names already")
    converted, report = convert_vim_state_dict(state)
    torch.save(dict(state_dict=converted, meta=dict(source='Vim')), dst)
    return report


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
    if prefix is None and 'backbone.cls_token' in state:
        prefix = 'backbone'
    if prefix is not None:
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
        state, _ = convert_vim_state_dict(state)

    report = KeyReport(derived=_derive_new_keys(module, state))
    wanted = module.state_dict()
    report.used = [k for k in wanted if k in state]
    report.missing = [k for k in wanted if k not in state]
    report.unexpected = [k for k in state if k not in wanted]
    report.expected.update(_matching(NEW_IN_MMSCOPE, report.missing))
    report.expected.update(_matching(NOT_IN_BACKBONE, report.unexpected))
    _raise_problems(report, f'{path} is not of this model')
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
        'coarse_cls_pos_embed': 'cls_pos_embed',
        'coarse_pos_embed': 'pos_embed',
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


def _matching(pattern: str, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if re.match(pattern, key)]


def _raise_problems(report: KeyReport, what: str) -> None:
    problems = report.problems
    if problems:
        shown = '; '.join(problems[:8])
        more = f' and {len(problems) - 8} more' if len(problems) > 8 else ''
        raise CheckpointError(
            f'{what}: {shown}{more}; check arch and checkpoint'
        )
