"""Misspelt keys of configs, which mmengine adds without a word."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.logging import MMLogger

from .signatures import READ, SPECIAL, keys_of, nearest

# dicts whose keys are names of the user's own
FREE = {'custom_keys', 'metainfo', 'data_prefix', 'classes', 'key_mapping'}
# of keys in files; those that others write are less like what is read
LIKENESS = 0.82
UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'")
Path = tuple[str, ...]
Place = tuple[dict, Path, str]


def check_keys(cfg: Config) -> None:
    """Refuse keys that are dropped, and are like one that is read.

    A key that is like none may be a variable of the config. One that reaches
    a constructor is left to it, see :func:`misspelt_keys`.

    Args:
        cfg: Complete config.

    Raises:
        ValueError: a key is misspelt; it is named with what is allowed
            there.
    """
    for node, path, scope in _dicts(cfg, (), _scope(cfg)):
        known, _, dropped = keys_of(node, path, scope)
        # variables may be called almost as what else a config may have
        likely = known if path else known - READ
        for key in node.keys() - known if dropped else ():
            right = nearest(key, likely, LIKENESS)
            if right is None or not path and _is_variable(cfg, key):
                continue
            raise ValueError(_sentence((*path, key), node, known, right))


def check_options(cfg: Config, options: Mapping[str, object]) -> None:
    """Refuse options that misspell what they would change.

    Args:
        cfg: The config before they are merged.
        options: ``--cfg-options``, values by keys with dots.

    Raises:
        ValueError: an option is new, is not read, and is like something
            that the config has or could have there.
    """
    merged = Config(cfg.to_dict())
    merged.merge_from_dict(dict(options))
    for path in _leaves(options, ()):
        _check_option(cfg, merged, path)


def _check_option(cfg: Config, merged: Config, path: Path) -> None:
    """Check the first part of an option that the config does not have."""
    old, new, scope = cfg, merged, _scope(cfg)
    for _depth, key in enumerate(path):
        if not isinstance(old, dict | Config):
            if not isinstance(old, list | tuple) or not key.isdigit():
                return
            old, new = old[int(key)], new[int(key)]
            continue
        scope = old.get('_scope_') or scope
        if key not in old:
            break
        old, new = old[key], new[key]
    else:
        return
    where = path[:_depth]
    read, all_known, _ = keys_of(new, where, scope)
    if key in read or FREE.intersection(where[-1:]):
        return
    known = read | set(old)
    # a constructor that takes nothing else refuses it in any case
    cutoff = 0.5 if all_known and new.get('type') else 0.8
    right = nearest(key, known if all_known else old, cutoff)
    if right is not None:
        raise ValueError(_sentence((*where, key), new, known, right))
    if not where:
        MMLogger.get_current_instance().warning(
            '--cfg-options %s: the config has no %s, and neither the Runner '
            'nor a tool reads it; the nearest that is read is %s',
            *('.'.join(path), key, nearest(key, known, 0.0)),
        )


@contextmanager
def misspelt_keys(cfg: Config) -> Iterator[None]:
    """Name the key of a config that a constructor does not know.

    Args:
        cfg: Complete config; what is built inside the block is its.

    Raises:
        ValueError: a constructor got a key that it does not take.
    """
    try:
        yield
    except TypeError as err:
        found = UNEXPECTED.search(str(err))
        for node, path, scope in _dicts(cfg, (), _scope(cfg)):
            key = found and found[1]
            known = keys_of(node, path, scope).read
            if key in node and known and key not in known:
                right = nearest(key, known, 0.0)
                raise ValueError(
                    _sentence((*path, key), node, known, right)
                ) from err
        raise


def _dicts(node: object, path: Path, scope: str) -> Iterator[Place]:
    """Every dict in a config, the keys that lead to it, and its scope."""
    if isinstance(node, dict | Config):
        scope = node.get('_scope_') or scope
        yield node, path, scope
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list | tuple):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        return
    for key, value in items:
        yield from _dicts(value, (*path, key), scope)


def _leaves(options: Mapping[str, object], path: Path) -> Iterator[Path]:
    """The keys that lead to each value of options."""
    for key, value in options.items():
        here = (*path, *str(key).split('.'))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, here)
        else:
            yield here


def _scope(cfg: Config) -> str:
    return cfg.get('default_scope') or 'mmengine'


def _is_variable(cfg: Config, key: str) -> bool:
    """Whether a config uses a key of its own elsewhere, by name or value."""
    if len(re.findall(rf'\b{re.escape(key)}\b', cfg.text or '')) > 1:
        return True
    value, others = cfg[key], {k: v for k, v in cfg.items() if k != key}
    return any(
        value == part
        for node, _, _ in _dicts(others, (), '')
        for part in node.values()
    )


def _sentence(path: Path, node: dict, known: set[str], right: str) -> str:
    *where, key = path
    owner = node.get('type') if where else 'a config'
    owner = getattr(owner, '__name__', owner) or '.'.join(where)
    return (
        f'{".".join(path)}: {owner} has no {key!r}; did you mean {right!r}? '
        f'It takes {", ".join(sorted(known - SPECIAL))}'
    )
