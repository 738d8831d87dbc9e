"""The command that runs a plan."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from .schedule import Schedule


def plan_command(
    config: str,
    schedule: Schedule,
    amp: bool = False,
    changes: Mapping[str, object] | None = None,
) -> str:
    """Write the command that trains as planned, for a shell.

    Args:
        config: Config file.
        schedule: What to train with.
        amp: Whether ``--amp`` is given.
        changes: Settings that the plan was made with; it goes before them.
    """
    words = ['python', 'tools/train.py', config]
    if schedule.gpus > 1:
        words = ['tools/dist_train.sh', config, str(schedule.gpus)]
    if amp:
        words.append('--amp')
    options = {**(changes or {}), **schedule.options}
    if options:
        words += ['--cfg-options', *written(options)]
    return shlex.join(words)


def written(options: Mapping[str, object]) -> Iterable[str]:
    """Write settings as ``--cfg-options`` reads them.

    Args:
        options: Value by the place of a setting, such as
            ``train_dataloader.batch_size``.

    Raises:
        ValueError: a value cannot be written so.
    """
    for key, value in options.items():
        if isinstance(value, dict):
            raise ValueError(
                f'{key}={value} is a dict; set its keys one by one'
            )
        yield f'{key}={_text(value)}'


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        inner = ','.join(map(_text, value))
        return f'({inner})' if isinstance(value, tuple) else f'[{inner}]'
    return str(value)
