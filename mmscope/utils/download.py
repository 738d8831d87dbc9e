"""Files that lie elsewhere, brought here once."""

from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

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
    mmengine and torch keep theirs; the first process fetches, the others wait.

    Args:
        path: A file, ``file://``, ``http(s)://``, or one of mmengine's names
            of models: ``open-mmlab://``, ``mmcls://``, ``torchvision://``.

    Raises:
        ValueError: the address is of another kind, or names no model.
        OSError: it cannot be fetched.
    """
    scheme, separator, name = str(path).partition('://')
    if not separator:
        return Path(path)
    if scheme == 'file':
        return Path(urlparse(str(path)).path)
    if scheme in CATALOGUES:
        return local_file(_look_up(scheme, name))
    if scheme not in ('http', 'https'):
        raise ValueError(
            f'{path} is of a kind that is not read: use a file, http(s)://, '
            f'or a name in {", ".join(f"{kind}://" for kind in CATALOGUES)}'
        )
    kept = Path(torch.hub.get_dir()) / 'checkpoints'
    file = kept / Path(urlparse(str(path)).path).name
    try:
        if get_rank() == 0 and not file.exists():
            MMLogger.get_current_instance().info(
                '%s is kept as %s', path, file
            )
            kept.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(str(path), str(file))
    except (URLError, OSError) as err:
        raise OSError(
            f'{path} cannot be fetched ({err}); check the address and the '
            'network, or download it by hand and name the file'
        ) from err
    finally:
        barrier()
    return file


def _look_up(scheme: str, name: str) -> str:
    """The address of a model that mmengine knows by name."""
    name = get_deprecated_model_names().get(name, name)
    known = CATALOGUES[scheme]()
    if name not in known:
        alike = [one for one in known if one.split('_')[0] in name][:5]
        raise ValueError(
            f'{scheme}://{name} is no model that mmengine knows; it knows '
            f'{", ".join(alike or sorted(known)[:5])} and others'
        )
    return known[name]
