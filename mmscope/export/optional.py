"""Packages that only export and serving need."""

from importlib.util import find_spec


def require_packages(what: str, *names: str) -> None:
    """Refuse to go on without packages.

    Args:
        what: What needs them, for the error.
        *names: Names that they are imported by.

    Raises:
        RuntimeError: one is not installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f'{what} needs {" and ".join(missing)}: '
            "pip install 'mmscope[export]'"
        )
