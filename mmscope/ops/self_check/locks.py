"""Locks between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none: there, nobody waits
    fcntl = None


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a file's lock, which ends with the process at the latest.

    Args:
        path: File to lock, made if it is not there.

    Raises:
        OSError: the file cannot be written.
    """
    with Path(path).open('w') as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
