"""Tools in several processes, as torchrun starts them.

As a script it is one of these processes, and runs the tools that a file
names one after another: to import torch and mmengine once takes seconds.
"""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Tell the variables of a process of one thread that imports as we do."""
    return {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path]),
    }


def torchrun(
    count: int, *command: object, options: Sequence[object] = ('--standalone',)
) -> subprocess.CompletedProcess:
    """Run a Python file in some processes of one thread each.

    Args:
        count: Number of processes.
        command: File and its arguments.
        options: More options of torchrun.
    """
    words = '-m', 'torch.distributed.run', *options, '--nproc-per-node', count
    return subprocess.run(
        [sys.executable, *map(str, (*words, *command))],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )


def run_tools(count: int, folder: Path, *commands: Sequence[object]) -> str:
    """Run tools in turn in some processes, with ``--launcher pytorch``.

    Args:
        count: Number of processes.
        folder: Folder for the list of tools.
        commands: Name and arguments of each tool.

    Returns:
        What they printed.
    """
    path = folder / 'commands.json'
    path.write_text(json.dumps([list(map(str, one)) for one in commands]))
    done = torchrun(count, __file__, path)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def main() -> None:
    from single_run import single_run

    for tool, *arguments in json.loads(Path(sys.argv[1]).read_text()):
        path = str(ROOT / 'tools' / tool)
        with single_run():
            # argparse reads options of lists up to the next option
            sys.argv = [path, *arguments, '--launcher', 'pytorch']
            runpy.run_path(path, run_name='__main__')


if __name__ == '__main__':
    main()
