"""Sample data for demos and tests: made here, deterministic, in seconds.

Every picture is a crop of a real photograph with shapes drawn over it. Its
difficulty, from one large object on a plain ground to many small ones, is
spread evenly, so that early exits have something to decide.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import Progress

from .layouts import (
    META,
    VERSION,
    layout_files,
    link_or_copy,
    read_meta,
    write_layouts,
)

MIN_SIDE, MAX_SIDE = 64, 1024


def write_sample_data(
    root: str | Path,
    num_train: int = 960,
    num_val: int = 128,
    size: tuple[int, int] = (128, 224),
    seed: int = 0,
    force: bool = False,
) -> dict[str, Any]:
    """Write the sample data in ADE20K's and COCO's layout.

    The set appears under ``root`` at once or, after an error, not at all.
    The same arguments and library versions give the same bytes.

    Args:
        root: Folder to make; may exist if it is empty, or already holds
            this very set, which is then left alone.
        num_train: Number of training pictures.
        num_val: Number of validation pictures.
        size: Smallest and largest side of the pictures in pixels.
        seed: Another seed gives other pictures.
        force: Replace a set that an earlier call wrote. Files that do not
            belong to it are kept.

    Returns:
        ``root``, ``written`` (False if the set was there already) and the
        contents of ``meta.json``: ``counts``, ``size``, ``seed``,
        ``classes``, ``palette``, ``images`` with their difficulty, ...

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: ``root`` holds something else; nothing was changed.
    """
    _check_count('num_train', num_train)
    _check_count('num_val', num_val)
    size = _check_size(size)
    if not _is_int(seed) or seed < 0:
        raise ValueError(f'seed must be an integer from 0 on, got {seed!r}')
    # a link to a folder stays one: what it points to is replaced
    root = Path(root).expanduser().resolve()
    counts = {'training': num_train, 'validation': num_val}
    written = force or not _is_there(root, counts, size, seed)
    if written:
        foreign = _foreign_files(root, layout_files(counts))
        with _folder_beside(root) as folder:
            _draw(folder, counts, size, seed)
            for file in foreign:
                link_or_copy(root / file, folder / file)
            _swap(folder, root)
    return {'root': str(root), 'written': written, **read_meta(root)}


def _draw(
    folder: Path, counts: dict[str, int], size: tuple[int, int], seed: int
) -> None:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(
            'Drawing pictures', total=sum(counts.values())
        )
        write_layouts(
            folder, counts, size, seed, lambda: progress.advance(task)
        )


def _is_there(
    root: Path, counts: dict[str, int], size: tuple[int, int], seed: int
) -> bool:
    """Tell whether root holds this very set already.

    Raises:
        FileExistsError: it holds another set, or a part of this one.
    """
    meta = read_meta(root)
    if meta is None:
        return False
    wanted = dict(version=VERSION, counts=counts, size=list(size), seed=seed)
    found = {key: meta.get(key) for key in wanted}
    if found != wanted:
        raise FileExistsError(
            f'{root} holds sample data made with {found}, asked for is '
            f'{wanted}: choose another folder, or replace it with force '
            '(--force)'
        )
    files = sorted(layout_files(counts))
    if missing := [file for file in files if not (root / file).exists()]:
        raise FileExistsError(
            f'{root} holds this sample data, but {len(missing)} of its '
            f'{len(files)} files are missing, first {missing[0]}: make it '
            'anew with force (--force)'
        )
    return True


def _foreign_files(root: Path, new_files: set[str]) -> list[str]:
    """List the files under root that no earlier call wrote.

    Raises:
        FileExistsError: root is no sample data, or a file is in the way.
    """
    if not root.exists():
        return []
    if not root.is_dir():
        raise FileExistsError(f'{root} is a file: choose another folder')
    present = {
        path.relative_to(root).as_posix()
        for path in root.rglob('*')
        if path.is_symlink() or not path.is_dir()
    }
    meta = read_meta(root)
    if meta is None:
        if next(root.iterdir(), None):
            raise FileExistsError(
                f'{root} is not empty and holds no sample data (no {META} of '
                'it): choose a new or empty folder. Nothing was changed'
            )
        return []
    foreign = present - layout_files(meta['counts'])
    if in_the_way := sorted(foreign & new_files):
        raise FileExistsError(
            f'{root / in_the_way[0]} was not written by an earlier call and '
            'would be overwritten: move it away. Nothing was changed'
        )
    return sorted(foreign)


@contextmanager
def _folder_beside(root: Path) -> Iterator[Path]:
    """Make a folder to work in, on root's own disk; gone at the end."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(
        prefix=f'.{root.name}.', dir=root.parent, ignore_cleanup_errors=True
    ) as private:
        # one level below, with the permissions of an ordinary folder
        folder = Path(private) / 'new'
        folder.mkdir()
        yield folder


def _swap(folder: Path, root: Path) -> None:
    """Put a folder in root's place; what was there goes beside the folder."""
    if not root.exists():
        folder.rename(root)
        return
    aside = folder.with_name('old')
    root.rename(aside)
    try:
        folder.rename(root)
    except BaseException:
        aside.rename(root)
        raise


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_count(name: str, value: int) -> None:
    if not _is_int(value) or not 1 <= value < 1_000_000:
        raise ValueError(
            f'{name} must be an integer from 1 to 999999, got {value!r}'
        )


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    in_range = (
        len(sides) == 2
        and all(map(_is_int, sides))
        and MIN_SIDE <= sides[0] <= sides[1] <= MAX_SIDE
    )
    if not in_range:
        raise ValueError(
            f'size must be two integers, {MIN_SIDE} <= smallest <= largest '
            f'<= {MAX_SIDE}, got {size!r}'
        )
    return sides
