"""Figures of the fault tests, printed at the end."""

from collections import Counter

import pytest

_FIGURES: dict[str, Counter] = {}


@pytest.fixture
def count():
    """Adds figures of one kind of fault: count("kills", stage="preprocess", wrong=0, ...)."""

    def add(kind: str, **figures: int) -> None:
        _FIGURES.setdefault(kind, Counter()).update(figures)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _FIGURES:
        return
    terminalreporter.section("faults")
    for kind, figures in _FIGURES.items():
        terminalreporter.write_line(f"{kind}: " + ", ".join(f"{number} {name}" for name, number in figures.items()))
