"""Whether files can be written, asked before the work that they keep."""

import os
from pathlib import Path


def check_folder(path: str | Path, option: str) -> None:
    """Refuse a folder that nothing can be written into.

    Nothing is made: what is not there yet can be made where the nearest
    folder above it can be written to.

    Args:
        path: Folder, which need not exist.
        option: Name of the option that chooses it, for the error.

    Raises:
        NotADirectoryError: it, or what is above it, is no folder.
        PermissionError: it, or the folder that it would be made in, is read
            only to this user.
    """
    _check(Path(path), f'{option} {path}', option)


def _check(path: Path, given: str, option: str) -> None:
    folder = path.absolute()
    found = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    if not found.is_dir():
        raise NotADirectoryError(
            f'{given}: {found} is no folder; choose another '
            f'{option}, or move that file away'
        )
    if not os.access(found, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
        raise PermissionError(
            f'{given}: {found} cannot be written to by this user; '
            f'choose another {option}, or make that folder writable'
        )


def check_file(path: str | Path | None, option: str) -> None:
    """Refuse a file that cannot be written.

    Args:
        path: File, which need not exist; None where none is wanted.
        option: Name of the option that chooses it, for the error.

    Raises:
        IsADirectoryError: it is a folder.
        NotADirectoryError: what is above it is no folder.
        PermissionError: it, or its folder, is read only to this user.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise IsADirectoryError(
            f'{option} {path} is a folder; give the name of a file in it'
        )
    _check(Path(path).parent, f'{option} {path}', option)
    exists = os.path.exists(path)
    if exists and not os.access(path, os.W_OK, effective_ids=_EFFECTIVE):
        raise PermissionError(
            f'{option} {path} cannot be written to by this user; choose '
            'another file, or make this one writable'
        )


_EFFECTIVE = os.access in os.supports_effective_ids
