"""Verdicts in the user's cache folder, a file each."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .. import triton_check
from .locks import locked
from .run import Check, Verdict

DRIVER = Path('/proc/driver/nvidia/version')


def cache_folder() -> Path | None:
    """The folder of verdicts, by the platform's convention; None if none."""
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    given = os.environ.get('XDG_CACHE_HOME')
    if sys.platform == 'win32' and not given:
        given = os.environ.get('LOCALAPPDATA')
    elif home and not given:
        mac = sys.platform == 'darwin'
        given = home / ('Library/Caches' if mac else '.cache')
    return Path(given) / 'mmscope' / 'self_check' if given else None


@cache
def _sources() -> str:
    """A digest of the operators' sources: better than a version."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob('*.py')):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _driver() -> str:
    """The version of the GPU's driver."""
    if DRIVER.exists():
        return DRIVER.read_text().split('\n')[0]
    from torch.utils import collect_env

    return str(collect_env.get_nvidia_driver_version(collect_env.run))


def _version(package: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ''


def identity(check: Check) -> dict[str, Any]:
    """All that a verdict depends on, for a file of JSON."""
    found = dict(
        operator=check.operator,
        backend=check.backend,
        dtype=check.dtype,
        sources=_sources(),
        torch=torch.__version__,
        triton=triton_check.VERSION or '',
        mamba_ssm=_version('mamba-ssm'),
    )
    if torch.device(check.device).type != 'cuda':
        return {**found, 'device': check.device}
    properties = torch.cuda.get_device_properties(check.device)
    return dict(
        **found,
        device=properties.name,
        capability=f'{properties.major}.{properties.minor}',
        driver=_driver(),
    )


def _file(check: Check) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    text = json.dumps(identity(check), sort_keys=True)
    return folder / f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.json'


def remembered(check: Check) -> Verdict | None:
    """The verdict in the cache; None if there is none that can be read."""
    path = _file(check)
    if path is None:
        return None
    try:
        kept = json.loads(path.read_text())
        known, reason = kept['identity'], kept['reason']
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if known != identity(check) or not isinstance(reason, str | None):
        return None
    return Verdict(reason)


@contextmanager
def only_one(check: Check) -> Iterator[None]:
    """Let one process at a time run a check; the others read its verdict.

    The ranks of a training would run the same one all at once. Where no
    folder can be written, they do.
    """
    path = _file(check)
    with ExitStack() as stack:
        if path is not None:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path.with_suffix('.lock')))
        yield


def remember(check: Check, verdict: Verdict) -> None:
    """Write a final verdict, where the folder can be written."""
    path = _file(check)
    if path is None or not verdict.final:
        return
    text = json.dumps(
        dict(identity=identity(check), reason=verdict.reason), indent=2
    )
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # another process may write the same file: whole, or not at all
        with tempfile.NamedTemporaryFile(
            'w', dir=path.parent, suffix='.tmp', delete=False
        ) as file:
            file.write(text)
        os.replace(file.name, path)
