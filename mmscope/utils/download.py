"""Files that lie elsewhere, brought here once."""

from difflib import get_close_matches
from os.path import join
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from .installed import installed_path

# mmengine's names of models: where each name is looked up
CATALOGUES = {
    'open-mmlab': get_external_models,
    'openmmlab': get_external_models,
    'mmcls': get_mmcls_models,
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
}


def local_file(path: str | Path) -> Path:
    """The file of a path or address, downloaded where it has to be.

    Downloads are kept in torch's folder ``hub/checkpoints`` by their name, as
    mmengine and torch keep theirs, and not fetched again. The first process
    fetches while the others wait; those that do not see its files, on other
    machines, fetch after it.

    Args:
        path: A file, ``file://``, ``http(s)://``, or one of mmengine's names
            of models: ``open-mmlab://``, ``mmcls://``, ``torchvision://``;
            or weights of the package, ``mmscope::demo/...``.

    Raises:
        FileNotFoundError: the package has no such weights.
        ValueError: the address is of another kind, or names no model or file.
        OSError: it cannot be fetched.
    """
    scheme, separator, name = str(path).partition('://')
    if not separator:
        return Path(installed_path(str(path))).expanduser()
    if scheme == 'file':
        return _named_by(str(path))
    if scheme in CATALOGUES:
        return local_file(_look_up(scheme, name))
    if scheme not in ('http', 'https'):
        raise ValueError(
            f'{path} is of a kind that is not read: use a file, http(s)://, '
            f'or a name in {", ".join(f"{kind}://" for kind in CATALOGUES)}'
        )
    return _download(str(path))


def _named_by(address: str) -> Path:
    """The file of an address ``file://``."""
    parts = urlparse(address)
    if parts.netloc not in ('', 'localhost'):
        raise ValueError(
            f'{address} is a file of the machine {parts.netloc!r}: write '
            'file:///PATH, with three slashes, for one of this machine'
        )
    return Path(url2pathname(parts.path))


def _download(address: str) -> Path:
    name = Path(urlparse(address).path).name
    if not name:
        raise ValueError(f'{address} names no file; add that of the weights')
    file = Path(torch.hub.get_dir()) / 'checkpoints' / name
    MMLogger.get_current_instance().info('%s is kept as %s', address, file)
    try:
        if get_rank() == 0:
            _fetch(address, file)
    finally:
        barrier()
    _fetch(address, file)
    return file


def _fetch(address: str, file: Path) -> None:
    """Download a file unless it is there."""
    if file.exists():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(file))
    except OSError as err:  # URLError is one
        raise OSError(
            f'{address} cannot be fetched ({err}); check the address and the '
            'network, or download it by hand and name the file'
        ) from err


def _look_up(scheme: str, name: str) -> str:
    """The address of a model that mmengine knows by name, or its file."""
    name = get_deprecated_model_names().get(name, name)
    known = CATALOGUES[scheme]()
    if name not in known:
        alike = get_close_matches(name, known, n=5)
        raise ValueError(
            f'{scheme}://{name} is no model that mmengine knows; it knows '
            f'{", ".join(alike or sorted(known)[:5])} and others'
        )
    address = known[name]
    return address if '://' in address else join(_get_mmengine_home(), address)
