"""The report on rows and training, in the log and as a page of KFP's UI, in Markdown."""

import html
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.artifacts import OutputArtifact
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.reporting.redaction import shown
from kfp_osft.stages.preprocess.data_report import report_lines

_LABEL = re.compile(r"(\w[\w -]*): (.+)", re.DOTALL)
_SPECIAL = re.compile(r"([\\*_`\[\]])")
_FENCE = "~" * 3


def publish(report: dict[str, Any], more: list[str], page: OutputArtifact | None) -> None:
    """Logs the report and further lines, and writes the same to the page, if there is one."""
    lines = [*report_lines(report), *more]
    for line in lines:
        log(line)
    if page is not None:
        place = Path(page.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(shown(as_markdown(lines)), encoding="utf-8", errors="backslashreplace")


def as_markdown(lines: Sequence[str]) -> str:
    """A page of the lines that were logged: a list of their labels; what has several lines, as a block of text."""
    return "# Before the training\n\n" + "\n".join(map(_item, lines)) + "\n"


def _item(line: str) -> str:
    first, _, rest = line.partition("\n")
    label = _LABEL.fullmatch(first)
    item = f"- **{label[1]}:** {_escaped(label[2])}" if label else f"- {_escaped(first)}"
    if not rest:
        return item
    fence = _FENCE
    while fence in rest:
        fence += "~"
    return f"{item}\n\n{fence}text\n{textwrap.dedent(rest)}\n{fence}\n"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", html.escape(text, quote=False))
