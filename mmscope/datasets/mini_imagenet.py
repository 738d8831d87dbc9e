"""miniImageNet for supervised classification: a split inside each class."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

CSV_FILES = ('train.csv', 'val.csv', 'test.csv')
COLUMNS = ('filename', 'label')
NUM_CLASSES = 100
SUFFIXES = ('.jpg', '.jpeg', '.png')
Images = dict[str, list[Path]]


def write_mini_imagenet(
    root: str | Path,
    images: str | Path | None = None,
    imagenet: str | Path | None = None,
    per_class: int = 600,
    num_val: int = 100,
    seed: int = 0,
    force: bool = False,
) -> dict[str, int]:
    """Write ``meta/train.txt``, ``meta/val.txt`` and ``meta/classes.txt``.

    The usual csv files share out the classes, as few-shot learning needs it;
    here each class gives images to both sets. A line is ``path label``, the
    path relative to ``root``, the label the place in ``classes.txt``, which
    mmpretrain's ``CustomDataset`` reads with ``data_prefix=''``.

    Args:
        root: Folder of the csv files, which gets ``meta/``.
        images: Folder of the images that the csv files name; ``root/images``
            by default.
        imagenet: Training folder of ImageNet-1K, one folder a class, instead
            of ``images``. The csv files then say which classes alone: each
            gives ``per_class`` images drawn from its folder.
        per_class: Images of a class.
        num_val: How many of them are for validation.
        seed: Seed of the draw.
        force: Whether files of another split are replaced.

    Returns:
        Number of images of 'train' and of 'val'.

    Raises:
        ValueError: a csv file is none, classes or images are not as many as
            they should be, or the numbers leave a set empty.
        FileNotFoundError: a csv file, a folder or an image is missing.
        FileExistsError: there is another split, and ``force`` is off.
    """
    # '..' in the lines must mean the same through symbolic links
    root = Path(root).resolve()
    if not 0 < num_val < per_class:
        raise ValueError(
            f'num_val must be at least 1 and below per_class={per_class}, got '
            f'{num_val}'
        )
    if images and imagenet:
        raise ValueError(
            f'give images={images} or imagenet={imagenet}, not both'
        )
    names = read_csv_files(root)
    if imagenet:
        found = _draw_from(Path(imagenet).resolve(), names, per_class, seed)
    else:
        folder = Path(images or root / 'images').resolve()
        found = _listed_in(folder, names, per_class)
    files = _split(root, found, num_val, seed)
    _write(root / 'meta', files, force)
    return {name: len(files[f'{name}.txt']) for name in ('train', 'val')}


def read_csv_files(folder: Path) -> dict[str, list[str]]:
    """Read which images each class has, by the name of the class.

    Args:
        folder: Folder of ``train.csv``, ``val.csv`` and ``test.csv``.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: one lacks a column or a value, an image comes twice, or
            they name another number of classes than 100.
    """
    missing = [name for name in CSV_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{folder} has no {", ".join(missing)}; miniImageNet comes with '
            f'{", ".join(CSV_FILES)}: put them there'
        )
    names: dict[str, list[str]] = {}
    for path in (folder / name for name in CSV_FILES):
        for filename, label in _rows(path):
            names.setdefault(label, []).append(filename)
    counts = Counter(name for listed in names.values() for name in listed)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(
            f'{len(twice)} images are listed more than once in the csv files '
            f'of {folder}, the first is {twice[0]}; list each once'
        )
    if len(names) != NUM_CLASSES:
        raise ValueError(
            f'the csv files of {folder} name {len(names)} classes, and '
            f'miniImageNet has {NUM_CLASSES}; all of {", ".join(CSV_FILES)} '
            'are needed, each whole'
        )
    return dict(sorted(names.items()))


def _rows(path: Path) -> list[tuple[str, str]]:
    """Pairs of filename and label of a csv file."""
    with open(path, newline='', encoding='utf-8-sig') as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        lacking = [name for name in COLUMNS if name not in columns]
        if lacking:
            raise ValueError(
                f'{path} has no column {", ".join(lacking)}; its first line '
                f'must be {",".join(COLUMNS)}, got {",".join(columns)!r}'
            )
        rows = []
        for row in reader:
            pair = tuple(row[name] for name in COLUMNS)
            if not all(pair):
                raise ValueError(
                    f'{path}, line {reader.line_num}: filename and label are '
                    f'needed, got {pair}'
                )
            rows.append(pair)
    return rows


def _listed_in(
    folder: Path, names: Mapping[str, list[str]], per_class: int
) -> Images:
    """Paths of the images that the csv files list."""
    _check_folder(folder, 'images', 'the images that the csv files name')
    for label, listed in names.items():
        if len(listed) != per_class:
            raise ValueError(
                f'the csv files list {len(listed)} images of {label}, and '
                f'{per_class} are expected of each class; set --per-class'
            )
    there = {entry.name for entry in os.scandir(folder)}
    missing = [
        n for listed in names.values() for n in listed if n not in there
    ]
    if missing:
        total = per_class * len(names)
        raise FileNotFoundError(
            f'{len(missing)} of {total} images are not in {folder}, the first '
            f'is {missing[0]}; for the folders of ImageNet, whose files have '
            'other names, use --imagenet'
        )
    return {
        label: [folder / name for name in sorted(listed)]
        for label, listed in names.items()
    }


def _draw_from(
    folder: Path, names: Mapping[str, list[str]], per_class: int, seed: int
) -> Images:
    """Draw images of each class from ImageNet's folders."""
    _check_folder(folder, 'imagenet', "a folder of each class ('n01532829')")
    lacking = [label for label in names if not (folder / label).is_dir()]
    if lacking:
        raise FileNotFoundError(
            f'{folder} has no folder of {len(lacking)} of {len(names)} '
            f'classes, the first is {lacking[0]}; --imagenet must be the '
            'training folder of ImageNet-1K'
        )
    drawn = {}
    for label in names:
        paths = sorted(
            path
            for path in (folder / label).iterdir()
            if path.suffix.lower() in SUFFIXES
        )
        if len(paths) < per_class:
            raise ValueError(
                f'{folder / label} has {len(paths)} images, {per_class} are '
                'needed; set --per-class'
            )
        drawn[label] = _shuffled(paths, 'draw', seed, label)[:per_class]
    return drawn


def _check_folder(folder: Path, option: str, content: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{folder} is no folder; --{option} must be that of {content}'
        )


def _shuffled(
    paths: list[Path], purpose: str, seed: int, label: str
) -> list[Path]:
    """Shuffle the images of a class, whatever the other classes have."""
    shuffled = sorted(paths)
    # seeds that are text give the same numbers on every machine
    Random(f'{purpose} {seed} {label}').shuffle(shuffled)
    return shuffled


def _split(
    root: Path, found: Images, num_val: int, seed: int
) -> dict[str, list[str]]:
    """Lines of the three files."""
    files = {'train.txt': [], 'val.txt': [], 'classes.txt': list(found)}
    for number, (label, paths) in enumerate(found.items()):
        shuffled = _shuffled(paths, 'split', seed, label)
        sets = {'val.txt': shuffled[:num_val], 'train.txt': shuffled[num_val:]}
        for name, members in sets.items():
            files[name] += [
                f'{Path(os.path.relpath(path, root)).as_posix()} {number}'
                for path in sorted(members)
            ]
    return files


def _write(meta: Path, files: Mapping[str, list[str]], force: bool) -> None:
    """Write all files, or none where there is another split."""
    texts = {meta / n: '\n'.join(lines) + '\n' for n, lines in files.items()}
    other = [
        path
        for path, text in texts.items()
        if path.exists() and path.read_text() != text
    ]
    if other and not force:
        raise FileExistsError(
            f'{other[0]} holds another split; use --force to replace it, or '
            'the seed and numbers that it was made with'
        )
    meta.mkdir(exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
