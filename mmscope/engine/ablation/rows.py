"""Rows of an ablation: trained, tested, counted, each in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmengine.config import Config

from mmscope.engine.config_keys import check_options
from mmscope.engine.launch import build_runner, load_config
from mmscope.engine.options import latest_checkpoint, set_resume
from mmscope.utils.flops import model_flops
from mmscope.utils.structures import unwrap

from .records import (
    Settings,
    differences,
    read_record,
    settings_of,
    write_record,
)
from .settings import Options, data_options, epoch_options
from .tables import PaperTable

NEW, UNFINISHED, FINISHED = 'new', 'unfinished', 'finished'


@dataclass(frozen=True)
class RowResult:
    """What a row gave.

    Attributes:
        top1: Accuracy in percent.
        top5: Accuracy within five answers, in percent.
        exit_rate: Share of test images that exited.
        parameters: Number of the model's parameters.
        gflops_coarse: Multiply-adds of the coarse pass in 10^9, all that
            runs.
        gflops: The same of both passes.
        gflops_fine_published: The same of the fine pass, as the papers
            count.
        trained_as: Folder of the run, which is another row's where their
            settings are the same.
    """

    top1: float
    top5: float
    exit_rate: float
    parameters: int
    gflops_coarse: float
    gflops: float
    gflops_fine_published: float
    trained_as: str


@dataclass(frozen=True)
class AblationRun:
    """Settings that all rows of an ablation share.

    Attributes:
        configs: Folder with a config for each row, ``TABLE_ROW.py``.
        work_dir: Folder that gets one for each row.
        dataset: One of ``DATASETS``.
        data: Folder of the data, or None for the data set's own.
        epochs: Epochs to train for, or None for the config's.
        seed: Seed of every row.
        options: ``--cfg-options``, after all others.
    """

    configs: Path
    work_dir: Path
    dataset: str = 'mini_imagenet'
    data: str | None = None
    epochs: int | None = None
    seed: int = 0
    options: Options = field(default_factory=dict)

    def folder(self, table: PaperTable, row: str) -> Path:
        """Folder of a row: its log, checkpoints, config and record.

        Args:
            table: Table of the row.
            row: Name of the row.
        """
        return self.work_dir / f'{table.name}_{row}'

    def config(self, table: PaperTable, row: str) -> Config:
        """Config of a row with the options of this run.

        Args:
            table: Table of the row.
            row: Name of the row.

        Raises:
            FileNotFoundError: the row has no config.
            ValueError: an option is refused, or misspelt.
        """
        folder = self.folder(table, row)
        path = self.configs / f'{folder.name}.py'
        cfg = load_config(str(path), str(folder))
        options = data_options(cfg, self.dataset, self.data)
        if self.epochs is not None:
            options |= epoch_options(cfg, self.epochs)
        cfg.merge_from_dict({**options, 'randomness.seed': self.seed})
        check_options(cfg, self.options)
        cfg.merge_from_dict(self.options)
        return cfg

    def check_rows(self, table: PaperTable, rows: Sequence[str]) -> None:
        """Refuse options that make two rows the same.

        Args:
            table: Table of the rows.
            rows: Names of rows.

        Raises:
            ValueError: they do, as ``model.backbone.alpha=0.5`` on Table 5.
        """
        seen: list[tuple[str, Settings]] = []
        for row in rows:
            settings = settings_of(self.config(table, row))
            for other, same in seen:
                if settings == same:
                    raise ValueError(
                        f'rows {other} and {row} of {table.name} are the same '
                        f'with --cfg-options {self.options}; leave out what '
                        'the table itself changes'
                    )
            seen.append((row, settings))

    def state(self, table: PaperTable, row: str) -> str:
        """Tell whether a row is 'new', 'unfinished' or 'finished'.

        Args:
            table: Table of the row.
            row: Name of the row.

        Raises:
            ValueError: its folder holds a run with other settings, or of
                something else.
        """
        folder = self.folder(table, row)
        record = read_record(folder)
        if record is None:
            if (folder / 'last_checkpoint').exists():
                raise ValueError(
                    f'{folder} holds checkpoints and no record of their '
                    'settings; choose another --work-dir, or remove it'
                )
            return NEW
        asked = settings_of(self.config(table, row))
        if others := differences(record['settings'], asked):
            raise ValueError(
                f'{folder} holds a run with other settings: '
                f'{"; ".join(others[:4])} ({len(others)} in all); ask for the '
                'same, choose another --work-dir, or remove it'
            )
        return UNFINISHED if record['result'] is None else FINISHED

    def run(self, table: PaperTable, row: str) -> RowResult:
        """Train and test a row, or go on with it, or read what it gave.

        The result of another finished row with the same settings in the same
        work dir is its result as well.

        Args:
            table: Table of the row.
            row: Name of the row.

        Raises:
            ValueError: see :meth:`state`.
            FileNotFoundError: the data are missing.
        """
        self.state(table, row)
        folder = self.folder(table, row)
        cfg = self.config(table, row)
        settings = settings_of(cfg)
        result = self._finished_with(settings)
        if result is None:
            _train(cfg, settings)
            result = _test(self.config(table, row), folder)
        write_record(folder, settings, asdict(result))
        return result

    def results(self, table: PaperTable) -> dict[str, RowResult]:
        """Results of the rows that are finished with these settings, by name.

        Args:
            table: Table of the rows.
        """
        found = {}
        for row in table.rows:
            record = read_record(self.folder(table, row.name)) or {}
            settings = settings_of(self.config(table, row.name))
            if record.get('result') and record['settings'] == settings:
                found[row.name] = RowResult(**record['result'])
        return found

    def _finished_with(self, settings: Settings) -> RowResult | None:
        """Result of a finished row with these settings, this or another."""
        for folder in sorted(self.work_dir.glob('*/')):
            record = read_record(folder) or {}
            if record.get('result') and record['settings'] == settings:
                return RowResult(**record['result'])
        return None


def _train(cfg: Config, settings: Settings) -> None:
    """Train a row, from its latest checkpoint if there is one."""
    set_resume(cfg, 'auto')
    runner = build_runner(cfg, 'none', ('train', 'val', 'test'))
    # the data are there: what lies in the folder from now on is this run's
    write_record(Path(cfg.work_dir), settings)
    runner.train()


def _test(cfg: Config, folder: Path) -> RowResult:
    """Test the last checkpoint as tools/test.py does, and count the model.

    The Runner that trained would not test the average of the weights.
    """
    cfg.work_dir = str(folder / 'test')
    checkpoint = latest_checkpoint(str(folder))
    runner = build_runner(cfg, 'none', ('test',), checkpoint)
    metrics = runner.test()
    model = unwrap(runner.model)
    size = cfg.model.backbone.img_size
    ours, published = (
        model_flops(model, (size, size), convention)
        for convention in ('two_direction', 'published')
    )
    return RowResult(
        top1=float(metrics['accuracy/top1']),
        top5=float(metrics['accuracy/top5']),
        exit_rate=float(metrics['exit/rate']),
        parameters=sum(p.numel() for p in model.parameters()),
        gflops_coarse=ours.coarse.total() / 1e9,
        gflops=ours.refined.total() / 1e9,
        gflops_fine_published=published.fine.total() / 1e9,
        trained_as=folder.name,
    )
