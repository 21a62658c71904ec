"""README.md of a sequence: what was learnt in which order, and what is left of it."""

from collections.abc import Sequence
from pathlib import Path

from kfp_osft.pipelines.sequence.result import SequenceResult
from kfp_osft.shared.files.atomic import replacing_file
from kfp_osft.shared.model.folder import public_name
from kfp_osft.shared.reporting.plain_text import markdown_text


def write_card(result: SequenceResult, path: Path) -> None:
    """Writes the card, whole or not at all."""
    with replacing_file(path) as unfinished:
        unfinished.write_text(card_of(result), encoding="utf-8")


def card_of(result: SequenceResult) -> str:
    """The card as Markdown: lineage, figures, matrices."""
    lines = [
        "# A sequence of tasks, learnt with OSFT",
        "",
        f"Base model: {markdown_text(public_name(result.base_model))}. Each task started from the model of the one "
        "before.",
        "",
        "| | task | unfreeze rank ratio | general loss against the base | against the model before | weights |",
        "|---|---|---|---|---|---|",
    ]
    for number, (each, (base, before)) in enumerate(zip(result.learnt, result.drifts(), strict=True), start=1):
        cells = (each.task.name, f"{each.task.unfreeze_rank_ratio:g}", signed(base), signed(before), each.kept)
        lines.append(f"| {number} | {' | '.join(map(markdown_text, cells))} |")
    lines += ["", *_matrix("Exact match after each task", result.names, result.accuracies(), "{:.1%}")]
    lines += _matrix("Loss after each task, nats per token", result.names, result.losses(), "{:.3f}")
    lines += ["## Figures", "", "| figure | value |", "|---|---|"]
    lines += [f"| {markdown_text(name)} | {value:.4g} |" for name, value in result.metrics().items()]
    return "\n".join([*lines, ""])


def signed(change: float | None) -> str:
    """A relative change in percent, with its sign; empty where it is not known."""
    return "" if change is None else f"{change:+.1%}"


def _matrix(title: str, names: Sequence[str], rows: Sequence[Sequence[float]] | None, number: str) -> list[str]:
    if rows is None:
        return []
    lines = [f"## {title}", "", f"| after | {' | '.join(map(markdown_text, names))} |", "|---" * (len(names) + 1) + "|"]
    for name, row in zip(names, rows, strict=True):
        cells = [*(number.format(value) for value in row), *[""] * (len(names) - len(row))]
        lines.append(f"| {markdown_text(name)} | {' | '.join(cells)} |")
    return [*lines, ""]
