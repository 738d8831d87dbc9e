"""Package mmscope; the settings of the tools are in pyproject.toml."""

import re
import shutil
from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
# what mim, and configs that inherit from 'mmscope::...', look for in the
# installed package
SHARED = ('configs', 'tools', 'model-index.yml')
VERSION = re.search(
    r"__version__ = '(.+)'", (HERE / 'mmscope/version.py').read_text()
)[1]
EXTENSION = run_path(str(HERE / 'mmscope/ops/extension.py'))


class BuildWithShared(build_py):
    """Puts configs and tools into the package, links for an editable one."""

    def run(self) -> None:
        super().run()
        root = HERE if self.editable_mode else Path(self.build_lib)
        shared = root / 'mmscope' / '.mim'
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(parents=True)
        for name in SHARED:
            source, target = HERE / name, shared / name
            if self.editable_mode:
                target.symlink_to(Path('../..') / name)
            elif source.is_dir():
                skipped = shutil.ignore_patterns('__pycache__')
                shutil.copytree(source, target, ignore=skipped)
            else:
                shutil.copy(source, target)


extension = EXTENSION['options']()
commands = dict(extension.pop('cmdclass', {}), build_py=BuildWithShared)

setup(
    name='mmscope',
    version=VERSION,
    description='Coarse-to-fine Vision Mamba (MambaScope) for OpenMMLab',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='mmscope contributors',
    license='Apache-2.0',
    packages=find_packages(include=['mmscope', 'mmscope.*']),
    package_data={'mmscope': ['py.typed']},
    entry_points={'console_scripts': ['mmscope = mmscope.cli:main']},
    cmdclass=commands,
    **extension,
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.8',
        'numpy>=1.24',
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
        'export': ['onnx', 'onnx-ir', 'onnxruntime', 'onnxscript'],
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
