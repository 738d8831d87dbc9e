"""What is wrong with data: what was found, the rule, how to mend it."""

from typing import NamedTuple


class Problem(NamedTuple):
    """What an exception about data carries instead of a text.

    ``raise ValueError(Problem(...))`` shows all three as one sentence, and
    a table has them in three columns.

    Args:
        value: What was found, and where.
        rule: What is allowed.
        fix: What to do.
    """

    value: str
    rule: str
    fix: str

    def __str__(self) -> str:
        """One sentence."""
        return f'{self.value}; {self.rule}: {self.fix}'


def problem_of(err: Exception) -> Problem:
    """Read a problem out of an exception, whoever raised it.

    Args:
        err: An exception; of those without a Problem the text is the value.
    """
    for arg in err.args:
        if isinstance(arg, Problem):
            return arg
    return Problem(
        f'{type(err).__name__}: {err}',
        'datasets and pipelines work on every sample',
        'compare what this names with the config',
    )
