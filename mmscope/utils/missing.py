"""What to say of a file or folder that is not there."""

from difflib import get_close_matches
from pathlib import Path


def missing(kind: str, path: str | Path) -> FileNotFoundError:
    """Make the error of a path that is none of its kind.

    It tells a folder from a file, and names what may be meant.

    Args:
        kind: What it should have been, such as 'config'.
        path: Path at which there is none.
    """
    path = Path(path)
    if path.exists():
        other = 'folder' if path.is_dir() else 'file'
        return FileNotFoundError(f'{kind} {path} is a {other}')
    text = f'{kind} {path} does not exist'
    if not path.parent.is_dir():
        return FileNotFoundError(f'{text}, nor does its folder')
    names = [other.name for other in path.parent.iterdir()]
    if near := get_close_matches(path.name, names, 1):
        return FileNotFoundError(f'{text}; is {near[0]} meant?')
    return FileNotFoundError(f'{text}; check the path')
