"""Check that what mmscope needs is installed and new enough.

A package's version is read from its metadata, so that ``import mmscope``
stays light. Keep torch and mmengine out of the imports of this folder's
``__init__``: the check has to run where they are missing.
"""

from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.version import Version

# minimums only: an upper bound would refuse sets that work
MINIMUM_VERSIONS = {
    'torch': '2.8.0',
    'mmengine': '0.10.4',
    'mmcv': '2.1.0',
    'mmseg': '1.2.2',
    'mmdet': '3.3.0',
    'mmpretrain': '1.2.0',
}
# names on PyPI: of the maintained line, then of the classic one
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}


def require(name: str, minimum: str | None = None) -> None:
    """Raise an ImportError with the fix unless a package will do.

    Both lines of OpenMMLab's packages are accepted, ``mmcv`` as well as
    ``onedl-mmcv``: they install the same import names.

    Args:
        name: Import name of the package.
        minimum: Oldest version that will do. Defaults to the one in
            ``MINIMUM_VERSIONS``.
    """
    minimum = minimum or MINIMUM_VERSIONS[name]
    version = installed_version(name)
    if version is None:
        found = 'is not installed'
    # a pre-release counts as the release: vendors ship torch 2.4.0a0
    elif Version(Version(version).base_version) < Version(minimum):
        found = f'is at {version}'
    else:
        return
    raise ImportError(
        f'mmscope needs {name} >= {minimum}, but {name} {found}; '
        f'to fix it run: {fix_command(name, minimum)}'
    )


def installed_version(name: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # a bare folder has no origin
        return None
    if dist := find_distribution(name):
        return dist.version
    # not from a wheel: a source tree on the path, for one
    return import_module(name).__version__


def find_distribution(name: str) -> metadata.Distribution | None:
    """Return the distribution that a package's files belong to, if any."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent.resolve()
    for candidate in DISTRIBUTIONS.get(name, (name,)):
        try:
            dist = metadata.distribution(candidate)
        except metadata.PackageNotFoundError:
            continue
        if Path(dist.locate_file(name)).resolve() == folder:
            return dist
    return None


def fix_command(name: str, minimum: str) -> str:
    """Return the pip command that installs a package that will do.

    It stays in the line of packages that is there already: the two lines
    overwrite each other's files.
    """
    maintained, classic = DISTRIBUTIONS.get(name, (name, name))
    present = {
        dist.metadata['Name']
        for dist in map(find_distribution, ('mmengine', 'mmcv'))
        if dist
    }
    target = classic if present & {'mmengine', 'mmcv'} else maintained
    # mmcv compiles against the torch that is installed
    options = '--no-build-isolation ' if name == 'mmcv' else ''
    return f"pip install {options}'{target}>={minimum}'"
