"""The code of a Markdown page, run in order as a reader would."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(
    r'^(?:<!-- (?P<marker>not run|file|fails): (?P<note>.+?) -->\n+)?'
    r'```(?P<language>\w+)\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
RUN = ('shell', 'python')


class Block(NamedTuple):
    """A fenced block of a page.

    Args:
        language: What stands behind the fence.
        code: Its lines.
        marker: 'run'; or what a comment on the line before says:
            ``<!-- not run: reason -->``, ``<!-- file: name -->`` for what
            the reader puts into a file, ``<!-- fails: text -->`` for a
            command whose error has this text.
        note: What the comment says behind the colon.
    """

    language: str
    code: str
    marker: str
    note: str


def blocks_of(page: Path) -> Iterator[Block]:
    """Find the blocks of a page that are code or files, in order.

    Args:
        page: Markdown file.
    """
    for match in FENCE.finditer(page.read_text()):
        marker, note = match['marker'] or 'run', match['note'] or ''
        if marker == 'file' or match['language'] in RUN:
            yield Block(match['language'], match['code'], marker, note)


def run_page(
    page: Path, folder: Path, changes: Mapping[str, str] | None = None
) -> list[str]:
    """Run a page's blocks in a folder; each is a process of its own.

    Shell blocks stop at the first command that fails.

    Args:
        page: Markdown file.
        folder: Where it runs.
        changes: Texts that are replaced first, such as a number of
            iterations.

    Returns:
        What each block that was run has printed.

    Raises:
        AssertionError: a block failed or, marked so, did not; or a change
            was not found.
    """
    printed, left = [], dict(changes or {})
    for block in blocks_of(page):
        code = block.code
        for old, new in (changes or {}).items():
            if old in code:
                code = code.replace(old, new)
                left.pop(old, None)
        if block.marker == 'file':
            path = folder / block.note
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
        elif block.marker != 'not run':
            printed.append(_run(block, code, folder))
    assert not left, f'{page.name} has no {list(left)}'
    return printed


def _run(block: Block, code: str, folder: Path) -> str:
    program = {
        'python': [sys.executable, '-c'],
        'shell': ['bash', '-euo', 'pipefail', '-c'],
    }[block.language]
    bin_folder = str(Path(sys.executable).parent)
    done = subprocess.run(
        [*program, code],
        cwd=folder,
        env=os.environ
        | {
            'PATH': os.pathsep.join([bin_folder, os.environ['PATH']]),
            # tables that need not break lines
            'COLUMNS': '400',
        },
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    fails = block.marker == 'fails'
    report = f'{code}\nended with {done.returncode}:\n{output[-4000:]}'
    assert (done.returncode != 0) == fails, report
    assert not fails or block.note in output, f'no {block.note!r} in {report}'
    return output
