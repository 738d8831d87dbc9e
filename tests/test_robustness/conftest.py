"""The table of what was tried."""

import hostile
import pytest


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> None:
    """Print how many inputs there were, by area."""
    if hostile.OUTCOMES:
        terminalreporter.write_line(hostile.table())
