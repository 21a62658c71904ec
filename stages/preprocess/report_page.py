"""The report on rows and training, in the log and as a page of KFP's UI, in Markdown."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.artifacts import OutputArtifact
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.plain_text import markdown_text
from kfp_osft.shared.reporting.redaction import shown
from kfp_osft.stages.preprocess.data_report import report_lines

_LABEL = re.compile(r"(\w[\w -]*): (.+)", re.DOTALL)
_FENCE = "~" * 3


def publish(report: dict[str, Any], more: list[str], page: OutputArtifact | None) -> None:
    """Logs the report and further lines, and writes the same to the page, if there is one."""
    lines = [*report_lines(report), *more]
    for line in lines:
        log(line)
    if page is not None:
        place = Path(page.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        # Before it is escaped, which a secret would not survive.
        place.write_text(as_markdown([shown(line) for line in lines]), encoding="utf-8", errors="backslashreplace")


def as_markdown(lines: Sequence[str]) -> str:
    """A page of the lines that were logged: a list of their labels; what has several lines, as a block of text."""
    return "# Before the training\n\n" + "\n".join(map(_item, lines)) + "\n"


def _item(line: str) -> str:
    first, _, rest = line.partition("\n")
    label = _LABEL.fullmatch(first)
    item = f"- **{label[1]}:** {markdown_text(label[2])}" if label else f"- {markdown_text(first)}"
    if not rest:
        return item
    fence = _FENCE
    while fence in rest:
        fence += "~"
    return f"{item}\n\n{fence}text\n{textwrap.dedent(rest)}\n{fence}\n"
