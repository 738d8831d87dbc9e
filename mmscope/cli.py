"""The command ``mmscope``: the files of tools/ from any folder.

``mmscope train CONFIG`` is ``python tools/train.py CONFIG``, with the tools
that are installed with the package.
"""

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmscope.utils.installed import shared_folder
from mmscope.version import __version__

# short names; other tools go by their file's
COMMANDS = {
    'train': 'train',
    'test': 'test',
    'fps': 'fps_bench',
    'flops': 'get_flops',
    'sweep': 'eta_sweep',
    'calibrate': 'calibrate_eta',
    'visualize': 'visualize_scope',
    'infer': 'image_demo',
    'cells': 'compare_cells',
    'router': 'train_router',
    'convert': 'convert_vim_checkpoint',
    'sample-data': 'make_sample_data',
}


def commands() -> dict[str, Path]:
    """File of each command."""
    folder = shared_folder() / 'tools'
    files = {path.stem: path for path in sorted(folder.glob('*.py'))}
    short = {name: files.pop(stem) for name, stem in COMMANDS.items()}
    rest = {stem.replace('_', '-'): path for stem, path in files.items()}
    return short | rest


def list_commands(found: dict[str, Path]) -> None:
    """Print every command with the first line of what it says of itself."""
    sheet = Table.grid(padding=(0, 2))
    sheet.add_column(no_wrap=True)
    for name, path in found.items():
        text = ast.get_docstring(ast.parse(path.read_text())) or ''
        sheet.add_row(name, text.partition('\n')[0])
    console = Console(markup=False)
    console.print(f'mmscope {__version__}: mmscope COMMAND [--help]')
    console.print(sheet)
    console.print("configs: paths, or 'mmscope::upernet/...' for its own")


def run(path: Path) -> None:
    """Run the main function of a tool."""
    spec = spec_from_file_location(path.stem, path)
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main()


def main() -> None:
    """Run the tool that the command line names.

    Raises:
        SystemExit: it names none, with the commands that there are.
    """
    found = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help'):
        list_commands(found)
    elif name == '--version':
        Console(markup=False).print(__version__)
    elif name in found:
        sys.argv = [f'mmscope {name}', *sys.argv[2:]]  # the program's name
        run(found[name])
    else:
        raise SystemExit(
            f'mmscope has no command {name}; it has {", ".join(found)}'
        )


if __name__ == '__main__':
    main()
