"""Report about the rows: kept and dropped, their lengths, the share of tokens with loss, one sample."""

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kfp_osft.shared.rows.chat_tokens import NO_LOSS
from kfp_osft.shared.rows.messages import Places, Warnings
from kfp_osft.shared.training.health import FEW_STEPS
from kfp_osft.stages.preprocess.documents import blocks_of
from kfp_osft.stages.preprocess.processed_rows import ProcessedRow

#: instructlab-training drops shorter samples (data_process.filter_samples_by_length).
SHORTEST_SAMPLE = 20
#: Marks around the tokens with loss in the sample that is shown.
LOSS_BEGIN, LOSS_END = "[[", "]]"

_MOST_CHARACTERS_LOGGED = 4000
_INDENT = " " * 4


class DataReport:
    """Counts rows as they pass.

    Args:
        max_seq_len: samples of this many tokens or more are dropped.
    """

    def __init__(self, max_seq_len: int) -> None:
        self._max_seq_len = max_seq_len
        self._lengths: Counter[int] = Counter()
        self._loss_tokens = 0
        self._longest = 0
        self.too_long, self.too_short = Places(), Places()
        #: Rows that themselves say that nothing is to be learnt from them.
        self.left_out = Warnings()
        self.warnings = Warnings()

    @property
    def rows(self) -> int:
        """Rows that passed."""
        return self.samples + self.dropped + self.left_out.count

    @property
    def samples(self) -> int:
        """Rows that were kept."""
        return self._lengths.total()

    @property
    def dropped(self) -> int:
        """Rows that were dropped because of their length."""
        return self.too_long.count + self.too_short.count

    def keep(self, length: int, loss_tokens: int) -> None:
        """Counts a row that is trained on."""
        self._lengths[length] += 1
        self._loss_tokens += loss_tokens
        self._longest = max(self._longest, length)

    def drops(self, place: str, length: int) -> bool:
        """Whether a row of that many tokens (a lower bound if it is far too long) is dropped; counts it if so."""
        if SHORTEST_SAMPLE <= length < self._max_seq_len:
            return False
        self._longest = max(self._longest, length)
        (self.too_short if length < SHORTEST_SAMPLE else self.too_long).add(place)
        return True

    def dropped_in_words(self) -> str:
        """The reasons with their counts and first rows, and the longest row; empty if nothing was dropped."""
        reasons = [
            f"{places.count:,} with {reason} ({places})" for reason, places in self.reasons().items() if places.count
        ]
        return "; ".join([*reasons, f"the longest row has {self._longest:,}"]) if reasons else ""

    def reasons(self) -> dict[str, Places]:
        """The dropped rows by reason."""
        return {
            f"{self._max_seq_len} tokens or more (training_max_seq_len)": self.too_long,
            f"fewer than {SHORTEST_SAMPLE} tokens": self.too_short,
        }

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON: counts of rows and of tokens, the dropped rows by reason, and the warnings."""
        tokens = sum(length * count for length, count in self._lengths.items())
        return {
            "rows": self.rows,
            "samples": self.samples,
            "too_long": self.too_long.count,
            "too_short": self.too_short.count,
            "tokens": tokens,
            "loss_tokens": self._loss_tokens,
            "longest": self._longest,
            "loss_share": round(self._loss_tokens / tokens, 4),
            "tokens_of_a_sample": {
                "median": _quantile(self._lengths, 0.5),
                "95th": _quantile(self._lengths, 0.95),
                "longest": max(self._lengths),
            },
            "dropped": {
                reason: {"count": places.count, "first": places.first} for reason, places in self.reasons().items()
            },
            "dropped_in_words": self.dropped_in_words(),
            "left_out": self.left_out.count,
            "left_out_in_words": self.left_out.lines(),
            "warnings": self.warnings.lines(),
        }


#: The part of a report that goes into training_config.
COUNTS = ("rows", "samples", "too_long", "too_short", "tokens", "loss_tokens", "longest")


def planned_training(report: Mapping[str, Any], osft: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """What the training will do with the samples: steps, tokens, and warnings about both.

    mini-trainer takes effective_batch_size samples per step, over all workers together, and the rest of an epoch as one
    more step.

    Args:
        report: of the samples.
        osft: the checked parameters of training_hub.osft.
        workers: training pods.
    """
    batch, epochs, samples = osft["effective_batch_size"], osft["num_epochs"], blocks_of(report, osft)
    steps = epochs * -(-samples // batch)
    warnings = []
    if batch > samples:
        warnings.append(
            f"training_effective_batch_size={batch} exceeds the {samples:,} samples, so each epoch is a single step"
        )
    if steps < FEW_STEPS:
        warnings.append(
            f"the training has only {steps} step{'s' * (steps > 1)}, which hardly changes a model; lower "
            "training_effective_batch_size, raise training_num_epochs, or give more rows"
        )
    return {
        "steps": steps,
        "epochs": epochs,
        "effective_batch_size": batch,
        "workers": workers,
        "tokens": epochs * report["tokens"],
        "warnings": warnings,
    }


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report for people, line by line; the sample is one of many lines."""
    lines = [
        *(f"Warning: {warning}" for warning in report["warnings"]),
        f"Rows: {report['rows']:,} read, {report['samples']:,} to train on",
    ]
    if report["dropped_in_words"]:
        lines.append(f"Dropped: {report['dropped_in_words']}")
    lines += [f"Left out: {line}" for line in report["left_out_in_words"]]
    lengths, planned = report["tokens_of_a_sample"], report["training"]
    lines += [
        f"Tokens: {report['tokens']:,}, {report['loss_share']:.0%} of them with loss; a sample has "
        f"{lengths['median']:,} (median), {lengths['95th']:,} (95th percentile), at most {lengths['longest']:,}",
        f"Training: {planned['steps']:,} steps of {planned['effective_batch_size']:,} samples in {planned['epochs']} "
        f"epoch{'s' * (planned['epochs'] > 1)} on {planned['workers']} worker{'s' * (planned['workers'] > 1)}, "
        f"{planned['tokens']:,} tokens",
        *(f"Warning: {warning}" for warning in planned["warnings"]),
    ]
    if held_out := report.get("validation"):
        lines += [f"Warning: held-out rows: {warning}" for warning in held_out["warnings"]]
        lines.append(
            f"Held out: {held_out['samples']:,} of {held_out['rows']:,} rows, {held_out['tokens']:,} tokens"
            + (f"; dropped: {held_out['dropped_in_words']}" if held_out["dropped_in_words"] else "")
        )
    if sample := report.get("sample"):
        shown = sample if len(sample) <= _MOST_CHARACTERS_LOGGED else sample[:_MOST_CHARACTERS_LOGGED] + " ..."
        # Indented, or a row's "Error: ..." would read as this stage's own.
        indented = textwrap.indent(shown, _INDENT, lambda line: True)
        lines.append(f"The first sample, between {LOSS_BEGIN} and {LOSS_END} what is learnt:\n{indented}")
    return lines


def marked_text(sample: ProcessedRow, decode: Callable[[Sequence[int]], str]) -> str:
    """A sample's text, with LOSS_BEGIN and LOSS_END around each run of tokens with loss."""
    pieces: list[str] = []
    begin = 0
    has_loss = [label != NO_LOSS for label in sample.labels]
    while begin < len(has_loss):
        end = begin
        while end < len(has_loss) and has_loss[end] == has_loss[begin]:
            end += 1
        text = decode(sample.input_ids[begin:end])
        pieces.append(LOSS_BEGIN + text + LOSS_END if has_loss[begin] else text)
        begin = end
    return "".join(pieces)


def _quantile(lengths: Counter[int], share: float) -> int:
    """The smallest length that at least this share of the samples do not exceed."""
    needed, passed = share * lengths.total(), 0
    for length in sorted(lengths):
        passed += lengths[length]
        if passed >= needed:
            return length
    return 0
