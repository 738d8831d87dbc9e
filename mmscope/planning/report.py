"""A plan as tables and lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from .plan import Plan
from .work import Range

GIB = 2**30


def memory_table(plan: Plan) -> Table:
    """The parts of a process's memory."""
    table = Table('memory of a process', 'GiB')
    table.columns[1].justify = 'right'
    for name, size in plan.parts.items():
        if size:
            table.add_row(name, gib(size))
    table.add_section()
    table.add_row('in all', gib(plan.memory))
    table.add_row(plan.device.name, gib(plan.device.memory))
    return table


def schedule_table(plan: Plan) -> Table:
    """Batch, learning rate, iterations and time."""
    schedule = plan.schedule
    total = (
        f'{schedule.gpus} x {schedule.batch} x {schedule.accumulation} = '
        f'{schedule.total}'
    )
    meant = 'as the config' if schedule.exact else f'not {schedule.reference}'
    table = Table('plan', '')
    rows = {
        'processes x batch x accumulation': f'{total} ({meant})',
        'most images of a process that fit': f'{plan.most}',
        'learning rate': f'{schedule.lr:g}',
        'iterations of a process': f'{plan.iterations}',
        'images in all': f'{plan.images}',
        'G multiply-adds of an image, forward': f'{plan.work.giga:.3f}',
    }
    for name, value in rows.items():
        table.add_row(name, value)
    if plan.step is not None:
        kind = 'measured' if plan.measured else 'estimate'
        hours = [schedule.gpus * one for one in plan.hours]
        table.add_section()
        table.add_row(f'ms a step, {kind}', spread(plan.step))
        table.add_row(f'hours, {kind}', spread(plan.hours))
        table.add_row(f'hours of all processes, {kind}', spread(Range(*hours)))
    return table


def remedy_table(plan: Plan) -> Table:
    """What else could be done where a plan does not fit."""
    table = Table('instead', 'GiB', 'batch that fits')
    for one in plan.remedies:
        table.add_row(one.name, gib(one.memory), str(one.most or 'none'))
    return table


def lines(plan: Plan) -> Iterator[str]:
    """What tables do not say."""
    if not plan.fits:
        more = plan.memory - plan.device.memory
        yield (
            f'DOES NOT FIT: {plan.schedule.batch} images of a process need '
            f'{gib(more)} GiB more than {plan.device.name} has'
        )
    yield from plan.schedule.notes
    if plan.measured is None:
        if plan.step is not None:
            yield (
                'time is an estimate, scaled from an H100; without loading '
                'of data, communication and validation'
            )
        return
    if not plan.measured.real_data:
        yield 'timed on noise: the data are not here, and loading not in it'
    if plan.measured.val_batch is None:
        yield 'validation is not in it: its data are not here'
    else:
        yield (
            'validation is in it, at '
            f'{1e3 * plan.measured.val_batch:.0f} ms a batch'
        )
    if plan.measured.peak is not None:
        yield (
            f'a step took {gib(plan.measured.peak)} GiB beside weights and '
            'optimizer states'
        )


def spread(value: Range) -> str:
    """A range, or the one number that both ends are."""
    low, high = (f'{end:.3g}' for end in value)
    if max(value) >= 1000:
        low, high = (f'{end:.0f}' for end in value)
    return low if value.low == value.high else f'{low} – {high}'


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f'{size / GIB:.2f}'
