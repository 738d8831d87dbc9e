"""Which settings a run had, and whether others are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import mmengine
from mmengine.config import Config

FILE = 'ablation.json'
# where and how, not what
PLACES = ('work_dir', 'load_from', 'resume', 'launcher')
LOADING = ('num_workers', 'persistent_workers', 'prefetch_factor')
Settings = dict[str, object]


def settings_of(cfg: Config) -> Settings:
    """Flatten a config, by dotted keys, to what may change a result.

    Args:
        cfg: Complete config.

    Returns:
        Plain values, as json keeps them.
    """
    content = {k: v for k, v in cfg.to_dict().items() if k not in PLACES}
    flat = {
        key: value
        for key, value in _flatten(content)
        if key.rsplit('.', 1)[-1] not in LOADING
    }
    return json.loads(json.dumps(flat))


def _flatten(value: object, prefix: str = '') -> Iterator[tuple[str, object]]:
    """Pairs of a dotted key and a value that holds no dict."""
    items = None
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple) and any(
        isinstance(item, Mapping) for item in value
    ):
        items = enumerate(value)
    if items is None:
        yield prefix, value
        return
    for key, item in items:
        yield from _flatten(item, f'{prefix}.{key}' if prefix else str(key))


def differences(old: Settings, new: Settings) -> list[str]:
    """Say in which settings two runs differ.

    Args:
        old: Settings of a run that was.
        new: Settings that are asked for.
    """
    return [
        f'{key}={old.get(key)!r} (asked: {new.get(key)!r})'
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]


def read_record(folder: Path) -> dict | None:
    """Read what a folder says of its run.

    Args:
        folder: Folder of a row.

    Returns:
        ``row``, ``settings`` and ``result`` (None of an unfinished run), or
        None where there is no record.
    """
    path = folder / FILE
    return mmengine.load(path) if path.is_file() else None


def write_record(
    folder: Path, settings: Settings, result: dict | None = None
) -> None:
    """Write what :func:`read_record` reads, whole or not at all.

    Args:
        folder: Folder of the row.
        settings: Settings of the run.
        result: What came out, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = dict(row=folder.name, result=result, settings=settings)
    draft = folder / f'.{FILE}'
    mmengine.dump(record, draft, file_format='json', indent=2)
    draft.replace(folder / FILE)
