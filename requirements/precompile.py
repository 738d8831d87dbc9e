"""Flags to compile mmcv with: torch's headers are compiled once for all files.

CFLAGS="$(python requirements/precompile.py FOLDER)"

With GCC two thirds of the time that mmcv takes to compile are spent reading
these headers again for each of its files. setuptools takes CFLAGS instead of
Python's own flags, so that the optimisation has to be named here.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

ABI = f'-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}'
FLAGS = ('-O2', '-g0', ABI)
# older versions of torch name their compiler to pybind11
PYBIND = {
    f'PYBIND11_{name}': getattr(torch._C, f'_PYBIND11_{name}', None)
    for name in ('COMPILER_TYPE', 'STDLIB', 'BUILD_ABI')
}
# those that mmcv's setup.py and torch's extension builder add: the headers
# are taken only where all that matters is the same
ADDED = (
    *('-fPIC', '-std=c++17'),
    *('-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext'),
    *(f'-D{name}="{value}"' for name, value in PYBIND.items() if value),
)


def compiled_header(folder: Path) -> str | None:
    """A header that holds torch's, or None where that does not work."""
    compiler = sysconfig.get_config_var('CXX').split()
    version = subprocess.run(
        [*compiler, '--version'], capture_output=True, text=True
    ).stdout
    if 'Free Software Foundation' not in version or ' ' in str(folder):
        return None  # other compilers keep such headers in another way
    folder.mkdir(parents=True, exist_ok=True)
    header = folder / 'torch_types.h'
    header.write_text('#include <torch/types.h>\n')
    includes = [sysconfig.get_path('include'), *include_paths()]
    done = subprocess.run(
        [
            *(*compiler, *FLAGS, *ADDED, *(f'-I{path}' for path in includes)),
            *('-x', 'c++-header', header, '-o', f'{header}.gch'),
        ],
        capture_output=True,
    )
    return str(header) if done.returncode == 0 else None


def main() -> None:
    header = compiled_header(Path(sys.argv[1]).absolute())
    more = ('-include', header) if header else ()
    sys.stdout.write(' '.join((*FLAGS, *more)))


if __name__ == '__main__':
    main()
