"""Settings of the documentation: sphinx-build -W docs build/docs."""

import io
import re
import sys
from contextlib import redirect_stdout
from operator import attrgetter
from pathlib import Path
from unittest.mock import patch

from mmengine.registry import Registry

from mmscope import cli, registry
from mmscope.version import __version__

HERE = Path(__file__).parent
project = 'mmscope'
author = 'mmscope contributors'
copyright = '2026, mmscope contributors'
version = release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
]
source_suffix = {'.md': 'markdown'}
exclude_patterns = []
myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 4
# a shell prompt is no part of a command
copybutton_prompt_text = r'\$ |>>> '
copybutton_prompt_is_regexp = True
# the fields of named tuples are documented once
napoleon_use_ivar = True
autodoc_member_order = 'bysource'
add_module_names = False
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_default_options = {'members': True, 'show-inheritance': True}
# the libraries' own classes refer to their own pages
suppress_warnings = ['ref.python', 'autodoc.import_object']

html_theme = 'furo'
html_title = f'mmscope {release}'
html_copy_source = False
html_theme_options = {'navigation_with_keys': True}

OUTSIDE = re.compile(r'\[([^\]]+)\]\((\.\./[^)#]+)(#[^)]*)?\)')


def show_paths(app: object, docname: str, source: list[str]) -> None:
    """Print what lies outside this folder as paths: no page shows it."""
    folder = (HERE / docname).parent

    def shown(match: re.Match) -> str:
        target = (folder / match[2]).resolve()
        if not target.exists():
            raise FileNotFoundError(f'{docname} links to {match[2]}')
        if target.is_relative_to(HERE):
            return match[0]
        return f'{match[1]} (`{target.relative_to(HERE.parent).as_posix()}`)'

    source[0] = OUTSIDE.sub(shown, source[0])


def help_of(name: str, path: Path) -> str:
    """What a command prints for --help."""
    out = io.StringIO()
    argv = [f'mmscope {name}', '--help']
    with (
        patch.object(sys, 'argv', argv),
        patch.dict('os.environ', COLUMNS='88'),
        redirect_stdout(out),
    ):
        try:
            cli.run(path)
        except SystemExit:
            return out.getvalue()
    raise RuntimeError(f'{path} does not know --help')


def write_tools() -> None:
    """Write the page of all commands, from their own help."""
    parts = [
        '# Commands',
        '`mmscope COMMAND`, wherever the package is installed, is '
        '`python tools/FILE.py` in a checkout.',
    ]
    for name, path in cli.commands().items():
        parts += [
            f'## {name}',
            f'`tools/{path.name}`',
            f'```text\n{help_of(name, path).rstrip()}\n```',
        ]
    write('commands.md', parts)


def write_types() -> None:
    """Write the page of all that configs can name, from the registries."""
    parts = [
        '# What configs can name',
        "Each goes by `type='mmscope.NAME'` in a config of mmseg, mmdet or "
        'mmpretrain, without `custom_imports`.',
    ]
    registries = {
        each.name: each
        for each in vars(registry).values()
        if isinstance(each, Registry)
    }
    for name, each in sorted(registries.items()):
        each.import_from_location()
        parts.append(f'## {name[0].upper()}{name[1:]}')
        for kind in sorted(
            each.module_dict.values(), key=attrgetter('__name__')
        ):
            parts.append(
                f'```{{eval-rst}}\n.. autoclass:: {kind.__module__}.'
                f'{kind.__name__}\n   :no-members:\n```'
            )
    write('config_types.md', parts)


def write(name: str, parts: list[str]) -> None:
    """Write a generated page."""
    folder = HERE / 'generated'
    folder.mkdir(exist_ok=True)
    (folder / name).write_text('\n\n'.join(parts) + '\n')


write_tools()
write_types()


def setup(app: object) -> None:
    """Register what this file adds."""
    app.connect('source-read', show_paths)
