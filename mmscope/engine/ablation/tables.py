"""What the paper's ablations report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmengine

FILE = 'paper.yml'


@dataclass(frozen=True)
class PaperRow:
    """A row of a table.

    Attributes:
        name: Name of the row; its config is ``TABLE_NAME.py``.
        label: What the row changes, in words.
        top1: The paper's accuracy in percent.
        gflops: The paper's cost of the fine pass, or None.
    """

    name: str
    label: str
    top1: float
    gflops: float | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table, or a figure with numbers.

    Attributes:
        name: Such as 'table4'.
        title: What it ablates.
        dataset: The data set that the paper's figures are of.
        stated: Whether the paper says so.
        rows: In the paper's order.
        remark: What the paper leaves open about its figures, or ''.
    """

    name: str
    title: str
    dataset: str
    stated: bool
    rows: tuple[PaperRow, ...]
    remark: str = ''

    def choose(self, names: Sequence[str] | None) -> list[PaperRow]:
        """Take rows by their names, or all of them.

        Args:
            names: Names of rows, or None for all.

        Raises:
            ValueError: there is no row of a name.
        """
        by_name = {row.name: row for row in self.rows}
        names = list(dict.fromkeys(names or by_name))
        for name in names:
            if name not in by_name:
                raise ValueError(
                    f'{self.name} has no row {name!r}; choose from '
                    f'{", ".join(by_name)}'
                )
        return [by_name[name] for name in names]


def read_tables(folder: str | Path) -> dict[str, PaperTable]:
    """Read the tables that a folder of configs is about.

    Args:
        folder: Folder with ``paper.yml`` and a config for each row.
    """
    content = mmengine.load(Path(folder) / FILE)
    return {name: _table(name, table) for name, table in content.items()}


def find_table(tables: Mapping[str, PaperTable], name: str) -> PaperTable:
    """Take a table by its name.

    Args:
        tables: Tables of :func:`read_tables`.
        name: Name of one.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in tables:
        raise ValueError(
            f'there is no table {name!r}; choose from {", ".join(tables)}'
        )
    return tables[name]


def _table(name: str, content: dict) -> PaperTable:
    rows = content.pop('rows')
    listed = tuple(PaperRow(row, **values) for row, values in rows.items())
    return PaperTable(name, rows=listed, **content)
