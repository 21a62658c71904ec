"""The section "Evaluation" of a model's card, which is a Markdown file, and the figures in its osft_run.json."""

import json
import re

from kfp_osft.shared.files.atomic import replacing_file, write_json
from kfp_osft.shared.knowledge import unmeasured
from kfp_osft.shared.reporting.plain_text import markdown_text
from kfp_osft.shared.training.run_file import RUN_FILE
from kfp_osft.stages.evaluate_model.comparison import Compared
from kfp_osft.stages.evaluate_model.result import Evaluation

_CARD = "README.md"
_HEADING = "## Evaluation"
# To the next heading of the same rank, or to the end.
_SECTION = re.compile(rf"^{_HEADING}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
# After what the model learnt and kept, before its use.
_BEFORE = "## Use it"


def add_to_card(result: Evaluation) -> None:
    """Puts the section into README.md of the tuned model, in the place of an earlier one and of the sentences that say
    it was not measured, and the figures into its osft_run.json. A model that was not exported here, or that lies in a
    cache of the Hub, stays as it is."""
    folder = result.models.tuned
    card, run_file = folder / _CARD, folder / RUN_FILE
    # The Hub's cache consists of links.
    if not run_file.is_file() or not card.is_file() or card.is_symlink():
        return
    run = json.loads(run_file.read_text(encoding="utf-8"))
    run["evaluation"] = {"passed": result.passed, "failures": result.failures, "metrics": result.metrics()}
    write_json(run_file, run)
    text = with_section(card.read_text(encoding="utf-8"), section(result))
    for sentence in (unmeasured.GENERAL_TEXT, *([unmeasured.WEIGHTS] if result.weights is not None else ())):
        text = text.replace(f"- {sentence}\n", "")
    with replacing_file(card) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    # As the other files of the model: replacing_file writes for the owner's umask alone.
    for file in (card, run_file):
        file.chmod(file.stat().st_mode | 0o044)


def with_section(card: str, new: str) -> str:
    """The card with the section in the place of an earlier one, or before its use, or at its end."""
    without = _SECTION.sub("", card)
    before, heading, after = without.partition(_BEFORE)
    return f"{before.rstrip()}\n\n{new}\n{heading}{after}"


def section(result: Evaluation) -> str:
    """The section as Markdown."""
    lines = [
        _HEADING,
        "",
        "Base and tuned model side by side, on rows and texts that were not trained on; losses in nats per token.",
        "",
        "| | figure | base | tuned | change |",
        "|---|---|---|---|---|",
        *(_row(each) for each in result.figures),
        "",
        f"**{'Passed' if result.passed else 'Not passed'}**: forgetting of at most "
        f"{result.options.limits.max_forgetting:.1%} and an improvement of at least "
        f"{result.options.limits.min_improvement:.1%} were asked for.",
        *(f"- {markdown_text(failure)}" for failure in result.failures),
        "",
    ]
    if result.verdict:
        lines += [f"Weights: {markdown_text(result.verdict)}.", ""]
    return "\n".join(lines)


def _row(each: Compared) -> str:
    change = "" if each.change is None else f"{each.change:+.1%}"
    name, figure = markdown_text(each.name), markdown_text(each.figure)
    return f"| {name} | {figure} | {each.before:.3f} | {each.after:.3f} | {change} |"
