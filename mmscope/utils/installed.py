"""What is installed beside the package: configs and tools."""

from difflib import get_close_matches
from pathlib import Path

import mmscope

# how configs of installed packages are named
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


def config_path(name: str) -> str:
    """Path of a config, which may be one of the package.

    Args:
        name: A path, or 'mmscope::upernet/mambascope_t_ade20k.py'.

    Raises:
        FileNotFoundError: the package has no such config.
    """
    if not name.startswith(SCOPE):
        return name
    folder = shared_folder() / 'configs'
    path = folder / name.removeprefix(SCOPE)
    if path.is_file():
        return str(path)
    names = [
        f'{SCOPE}{other.relative_to(folder).as_posix()}'
        for other in folder.glob('*/*.py')
    ]
    near = get_close_matches(name, names, n=3) or sorted(names)[:3]
    raise FileNotFoundError(
        f'mmscope has no config {name}; it has {", ".join(near)}'
    )
