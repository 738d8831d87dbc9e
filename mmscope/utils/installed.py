"""What is installed beside the package: configs, weights and tools."""

from difflib import get_close_matches
from pathlib import Path

import mmscope

# how files of installed packages are named
SCOPE = 'mmscope::'


def shared_folder() -> Path:
    """Folder that holds ``configs`` and ``tools``.

    That of the installed package, or in a checkout its root.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    package = Path(mmscope.__file__).parent
    for folder in (package / '.mim', package.parent):
        if (folder / 'configs').is_dir() and (folder / 'tools').is_dir():
            return folder
    raise FileNotFoundError(
        f'{package} was installed without configs and tools; install a wheel '
        'of mmscope, or from its sources with pip install .'
    )


def installed_path(name: str) -> str:
    """Path of a config or of weights, which may be the package's.

    Args:
        name: A path, or 'mmscope::upernet/mambascope_t_ade20k.py'.

    Raises:
        FileNotFoundError: the package has no such file.
    """
    if not name.startswith(SCOPE):
        return name
    folder = shared_folder() / 'configs'
    path = folder / name.removeprefix(SCOPE)
    if path.is_file():
        return str(path)
    names = [
        f'{SCOPE}{other.relative_to(folder).as_posix()}'
        for other in folder.glob(f'*/*{path.suffix or ".py"}')
    ]
    near = get_close_matches(name, names, n=3) or sorted(names)[:3]
    raise FileNotFoundError(
        f'mmscope has no file {name}; it has {", ".join(near)}'
    )
