"""What setup.py needs to build the C++ scan, where that is possible."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

SOURCES = Path('mmscope/ops/csrc')
if sys.platform == 'win32':
    FLAGS, LINK_FLAGS = ['/O2', '/openmp'], []
else:
    FLAGS = ['-O3', '-g0', '-fno-math-errno', '-fno-trapping-math']
    # threads come from torch, whose headers use OpenMP where it is on
    LINK_FLAGS = [] if sys.platform == 'darwin' else ['-fopenmp']
# for `make test-asan`: an access out of bounds or undefined behaviour ends
# the process with a report
SANITIZE = [
    *('-O2', '-g', '-fno-omit-frame-pointer'),
    *('-fsanitize=address,undefined', '-fno-sanitize-recover=all'),
]


def without_extension(reason: object) -> dict[str, Any]:
    """Say why the package will use plain torch."""
    warnings.warn(f'the C++ scan is not built: {reason}', stacklevel=2)
    return {}


def options() -> dict[str, Any]:
    """Arguments of ``setuptools.setup``: none if the scan is left out."""
    if os.environ.get('MMSCOPE_NO_EXT', '0') != '0':
        return without_extension('MMSCOPE_NO_EXT is set')
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        return without_extension(
            f'{error}; install torch and use pip --no-build-isolation'
        )

    class OptionalBuild(BuildExtension):
        def run(self) -> None:
            try:
                super().run()
            # compilers fail in many ways, and none may stop the installation
            except Exception as error:
                without_extension(error)
                self.extensions = []

    flags, link_flags = FLAGS, LINK_FLAGS
    if os.environ.get('MMSCOPE_SANITIZE', '0') != '0':
        flags, link_flags = SANITIZE, [*LINK_FLAGS, *SANITIZE[-2:]]
    scan = CppExtension(
        'mmscope.ops._C',
        sorted(str(path) for path in SOURCES.glob('*.cpp')),
        depends=sorted(str(path) for path in SOURCES.glob('*.h')),
        extra_compile_args=flags + LINK_FLAGS,
        extra_link_args=link_flags,
    )
    return {'ext_modules': [scan], 'cmdclass': {'build_ext': OptionalBuild}}
