"""Inputs that are tried by property tests, and what became of them.

A property test runs with few examples in ``make test``, and with many under
``--hypothesis-profile=fuzz``, or HOSTILE_EXAMPLES of them.
"""

import os
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings

import mmscope

PACKAGE = Path(mmscope.__file__).parent
EXAMPLES = int(os.environ.get('HOSTILE_EXAMPLES', '1000'))
# (area, 'accepted' or the name of the error): number of inputs
OUTCOMES: Counter[tuple[str, str]] = Counter()
SHORTEST = 25  # letters of an error that says value, rule and fix

_checks = dict(
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
settings.register_profile('hostile', max_examples=12, **_checks)
settings.register_profile('fuzz', max_examples=EXAMPLES, **_checks)
settings.load_profile('hostile')


@contextmanager
def tried(area: str) -> Iterator[None]:
    """Count one input: accepted, or refused by mmscope with a message.

    An error counts as refused if mmscope raised it itself, not code that it
    calls, and if it says something. Any other one fails the test.

    Args:
        area: Row of the table.
    """
    try:
        yield
    except Exception as err:
        frames = traceback.extract_tb(err.__traceback__)
        source = Path(frames[-1].filename)
        raised = frames[-1].line.startswith('raise')
        if not (source.is_relative_to(PACKAGE) and raised):
            raise
        assert len(str(err)) >= SHORTEST, str(err)
        OUTCOMES[area, type(err).__name__] += 1
    else:
        OUTCOMES[area, 'accepted'] += 1


def table() -> str:
    """Outcomes by area, in Markdown."""
    lines = ['| area | inputs | accepted | refused with a message |']
    lines.append('|---|---|---|---|')
    for area in sorted({area for area, _ in OUTCOMES}):
        found = {k: n for (a, k), n in OUTCOMES.items() if a == area}
        accepted, total = found.pop('accepted', 0), sum(found.values())
        kinds = ', '.join(f'{n} {k}' for k, n in sorted(found.items()))
        lines.append(
            f'| {area} | {accepted + total} | {accepted} | {kinds or 0} |'
        )
    lines.append(f'| all | {sum(OUTCOMES.values())} | | |')
    return '\n'.join(lines)
