"""Which keys a config may have where: those that are read."""

import dis
import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from typing import NamedTuple

from mmengine.registry import Registry, root
from mmengine.runner import Runner
from torch.utils.data import DataLoader

# what Runners build other things with, or take out before they do
SPECIAL = {'type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based'}
SPECIAL |= {'constructor', 'paramwise_cfg', 'requires_grad', 'indices'}
# registries whose builders read the config itself
SKIPPED = ('runner', 'runner constructor', 'strategy')
# by their place in a config: what mmengine builds where there is no type
DEFAULT_TYPES = {
    'log_processor': ('LogProcessor',),
    'optim_wrapper': ('OptimWrapper', 'AmpOptimWrapper'),
    'train_cfg': ('EpochBasedTrainLoop', 'IterBasedTrainLoop'),
    'val_cfg': ('ValLoop',),
    'test_cfg': ('TestLoop',),
    'visualizer': ('Visualizer',),
}
PARAMWISE = {'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult'}
PARAMWISE |= {'flat_decay_mult', 'dwconv_decay_mult', 'dcn_offset_lr_mult'}
PARAMWISE |= {'bypass_duplicate', 'custom_keys', 'layer_decay_rate'}
PARAMWISE |= {'decay_rate', 'decay_type', 'num_layers'}
# by the key that they are at: what is read of dicts that have no type
PLAIN = {
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'mp_cfg': {'mp_start_method', 'opencv_num_threads'},
    'paramwise_cfg': PARAMWISE,
}
LOADER = {'type', '_delete_', 'num_batch_per_epoch', 'worker_init_fn'}
LOADER |= {'disable_subprocess_warning'}
# top-level keys that only the Runner's methods, libraries or our tools read
READ = {'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'compile'}
READ |= {'activation_checkpointing', 'efficient_conv_bn_eval', 'strategy'}
READ |= {'cudnn_benchmark', 'custom_imports', 'runner_type', 'tta_model'}
READ |= {'tta_pipeline', 'calibration_dataloader', 'crop_size', 'image_size'}


def top_level_keys() -> set[str]:
    """Keys that a Runner or a tool reads at the top of a config."""
    return parameters(Runner).read - {'cfg'} | READ


class Keys(NamedTuple):
    """What is known about the keys of a dict.

    Attributes:
        read: Keys that are read.
        all_known: Whether no others can be; a constructor with ``**kwargs``
            may take some out.
        dropped: Whether others are dropped without a word; of those that
            are not, some are errors, and some are taken out before.
    """

    read: set[str]
    all_known: bool
    dropped: bool = False


def keys_of(node: dict, path: tuple[str, ...], scope: str) -> Keys:
    """Keys that are read of a dict in a config.

    Args:
        node: The dict.
        path: Keys that lead to it from the top of the config.
        scope: Scope in which its type is looked up.

    Returns:
        Names of the arguments of what it builds, those of every class where
        several have that name; none where nothing is known about it.
    """
    if not path:
        return Keys(top_level_keys(), True, True)
    kinds = _kinds(node.get('type'), scope)
    if not kinds and len(path) == 1:
        for name in DEFAULT_TYPES.get(path[0], ()):
            kinds += _kinds(name, 'mmengine')
    if kinds:
        found = [parameters(kind) for kind in kinds]
        read = set().union(*(one.read for one in found))
        return Keys(
            read | SPECIAL,
            all(one.all_known for one in found),
            all(one.dropped for one in found),
        )
    if path[-1].endswith('_dataloader'):
        return Keys(parameters(DataLoader).read | LOADER, True)
    if path == ('randomness',):
        return parameters(Runner.set_randomness)
    plain = path[-1] in PLAIN
    return Keys(PLAIN.get(path[-1], set()), plain, plain)


@cache
def parameters(kind: Callable) -> Keys:
    """Names of the arguments of a class or function.

    A class that passes ``**kwargs`` on takes those of the next one whose
    constructor it inherits.

    Args:
        kind: Class or function.
    """
    makers: Iterable[Callable] = [kind]
    if inspect.isclass(kind):
        makers = [
            vars(owner)['__init__']
            for owner in kind.__mro__[:-1]
            if '__init__' in vars(owner)
        ]
    names: set[str] = set()
    for number, maker in enumerate(makers):
        found = list(inspect.signature(maker).parameters.values())
        names |= {p.name for p in found if p.kind in _BY_NAME} - {'self'}
        rest = [p.name for p in found if p.kind is p.VAR_KEYWORD]
        if not rest or not _reads(maker, rest[0]):
            return Keys(names, number == 0 or bool(rest), bool(rest))
    return Keys(names, not makers)


def _reads(maker: Callable, name: str) -> bool:
    """Whether a function does anything with one of its arguments."""
    code = getattr(inspect.unwrap(maker), '__code__', None)
    return code is None or any(
        step.opname.startswith('LOAD') and step.argval == name
        for step in dis.get_instructions(code)
    )


_BY_NAME = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def nearest(key: str, names: Iterable[str], cutoff: float = 0.8) -> str | None:
    """The name that a key is most like, None if it is like none.

    Args:
        key: What was written.
        names: What could be meant.
        cutoff: Likeness in [0, 1] that is enough, by ``difflib``; names of
            the same letters in another order always are.
    """
    names = sorted(names)
    if found := get_close_matches(key, names, 1, cutoff):
        return found[0]
    turned = [name for name in names if sorted(name) == sorted(key)]
    return turned[0] if turned else None


def _kinds(kind: object, scope: str) -> list[Callable]:
    """What a type may be the name of."""
    if not isinstance(kind, str):
        return [kind] if callable(kind) else []
    return list(_registered(kind, scope))


@cache
def _registered(name: str, scope: str) -> tuple[Callable, ...]:
    """Everything that registries have by a name."""
    found = []
    with root.MODELS.switch_scope_and_registry(scope):
        pass  # imports the library of that scope
    for registry in vars(root).values():
        if isinstance(registry, Registry) and registry.name not in SKIPPED:
            own = registry.children.get(scope, registry)
            kind = own.get(name)
            if kind is not None and kind not in found:
                found.append(kind)
    return tuple(found)
