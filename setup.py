"""Package mmscope; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r"__version__ = '(.+)'", (HERE / 'mmscope/version.py').read_text()
)[1]
EXTENSION = run_path(str(HERE / 'mmscope/ops/extension.py'))

setup(
    name='mmscope',
    version=VERSION,
    description='Coarse-to-fine Vision Mamba (MambaScope) for OpenMMLab',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='mmscope contributors',
    license='Apache-2.0',
    packages=find_packages(include=['mmscope', 'mmscope.*']),
    **EXTENSION['options'](),
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.6',
        'numpy',
        'packaging',
        'matplotlib',
        'rich',
    ],
    extras_require={
        # extras, so that pip never puts one distribution of these packages
        # over the other: both lines install the same import names
        'mm': [
            'onedl-mmengine==0.10.12',
            'onedl-mmcv==2.3.6',
            'onedl-mmsegmentation==1.4.2',
            'onedl-mmdetection==3.5.1',
            'onedl-mmpretrain==1.3.6',
            'pycocotools',
        ],
        'mamba': ['mamba-ssm'],
        'demo': ['scikit-image'],
        'dev': [
            'codespell',
            'hypothesis',
            'pre-commit',
            'pytest',
            'pytest-xdist',
            'ruff',
        ],
    },
)
