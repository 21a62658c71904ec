"""Figures of the fault tests, printed at the end, of all of xdist's workers together."""

from collections import Counter
from collections.abc import Callable

import pytest

_PREFIX = "faults: "


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Adds figures of one kind of fault: count("kills", runs=20, wrong=0, ...)."""

    def add(kind: str, **figures: int) -> None:
        # A property travels with the test's report from the worker to the process that prints.
        record_property(_PREFIX + kind, figures)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, figures in report.user_properties:
                if name.startswith(_PREFIX):
                    found.setdefault(name.removeprefix(_PREFIX), Counter()).update(figures)
    if found:
        terminalreporter.section("faults")
    for kind, figures in found.items():
        terminalreporter.write_line(f"{kind}: " + ", ".join(f"{number} {name}" for name, number in figures.items()))
