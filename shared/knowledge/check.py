"""What a training kept of what the base model knew: where the weights changed, and the loss before and after."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.knowledge.coverage import Coverage, coverage_of, percent
from kfp_osft.shared.knowledge.general_text import GENERAL_TEXT
from kfp_osft.shared.knowledge.kept_subspace import FreeChange, MatrixChange, ModelChanges
from kfp_osft.shared.model.folder import model_folder, split_hub_id
from kfp_osft.shared.model.loss import loaded_model, mean, sample_losses, text_sample
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.rows.chat_tokens import ChatTokenizer, Sample
from kfp_osft.shared.rows.files import read_rows
from kfp_osft.shared.rows.messages import Problems, Warnings
from kfp_osft.shared.rows.row_formats import conversations
from kfp_osft.shared.training.run_file import RUN_FILE, read_run

#: A leak beyond rounding above this share is one. OSFT leaves under 0.002, plain fine-tuning 0.8.
MOST_LEAK = 0.05
GENERAL = "general text"
# What transformers reads of a model on the Hub.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
# The same weights in the formats of other libraries.
_OTHER_FILES = ("*/*", "consolidated*")
# Rows of a dataset that the loss is taken of, the first ones, and their length in tokens.
_ROWS = 64
_TOKENS = 2048
# Of the time, what each model may take for its losses.
_SHARE_OF_LOSSES = 0.25


class TextLoss(NamedTuple):
    """The mean loss of both models on the same tokens, in nats a token."""

    text: str
    tokens: int
    before: float
    after: float


class KnowledgeCheck(NamedTuple):
    """What was found.

    Attributes:
        changes: the limited matrices that were looked at.
        matrices: how many OSFT limits.
        free: the kinds of weights that changed and that OSFT does not limit.
        losses: on the general text and on the dataset.
    """

    changes: list[MatrixChange]
    matrices: int
    free: list[FreeChange]
    losses: list[TextLoss]

    @property
    def told(self) -> list[MatrixChange]:
        """Those of which can be told where they changed."""
        return [change for change in self.changes if change.can_be_told]

    @property
    def leak(self) -> float | None:
        """The largest leak beyond rounding, 0 to 1; None where none can be told."""
        return max((change.leak for change in self.told), default=None)

    @property
    def verdict(self) -> str:
        """One sentence: kept, leaked, nothing to keep, cannot be told, or unchanged; and what changed without limit."""
        free = self._free_in_words()
        return f"{self._limited_in_words()}{f'; {free}' if free else ''}"

    def _limited_in_words(self) -> str:
        looked_at = f"looked at {len(self.changes)} of {self.matrices} limited matrices"
        if not any(change.changed for change in self.changes):
            what = "the matrices that OSFT limits did not change" if self.free else "no weight changed"
            return f"unchanged: {what}; {looked_at}"
        if not any(change.unlimited for change in self.changes):
            return f"nothing to keep: an unfreeze rank ratio of 1 frees every direction; {looked_at}"
        dtype = self.changes[0].dtype
        if self.leak is None:
            return (
                f"cannot be told: the change is hardly larger than the rounding to {dtype} in which the model is "
                f"saved; {looked_at}"
            )
        hidden = self._hidden()
        if hidden:
            looked_at += f", {hidden} of which changed too little to tell beside the rounding to {dtype}"
        unlimited = f"without OSFT about {statistics.median(change.unlimited for change in self.told):.0%}"
        leaking = sum(change.leak > MOST_LEAK for change in self.told)
        if leaking:
            return (
                f"leaked: up to {self.leak:.0%} of the change lies in the directions to keep ({unlimited}), in "
                f"{leaking} of those that can be told; {looked_at}"
            )
        worst = max(self.told, key=lambda change: change.share)
        by_rounding = min(worst.share, worst.rounding * worst.unlimited)
        # Where it is a part worth telling.
        rounding = (
            f", where rounding to {dtype} alone puts {percent(by_rounding)}" if by_rounding > 0.2 * worst.share else ""
        )
        return (
            f"kept: {percent(worst.share)} of the change at most lies in the directions to keep{rounding} "
            f"({unlimited}); {looked_at}"
        )

    def _free_in_words(self) -> str:
        """The matrices outside OSFT's limits that changed; norms, biases and embeddings always may."""
        layers = [change for change in self.free if "*" in change.kind and change.kind.endswith(".weight")]
        layers = [change for change in layers if "norm" not in change.kind]
        if not layers:
            return ""
        kinds = ", ".join(change.kind.removesuffix(".weight") for change in layers[:3])
        more = f" and {len(layers) - 3} more kinds" if len(layers) > 3 else ""
        return f"changed without limit, by up to {percent(layers[0].size)}: {kinds}{more}"

    def _hidden(self) -> int:
        return sum(change.changed and not change.can_be_told for change in self.changes)

    def metrics(self) -> dict[str, float]:
        """The figures, flat as KFP's Metrics want them; shares are 0 to 1, losses in nats a token.

        kept_subspace_share_max (of the change, inside the directions to keep), kept_subspace_leak_max (beyond
        rounding), kept_subspace_matrices (looked at), kept_subspace_matrices_untold (hidden by rounding),
        unlimited_kinds_changed (kinds of weights outside OSFT's limits), and general_text_loss_before,
        general_text_loss_after, held_out_loss_before, held_out_loss_after, each where there is one.
        """
        figures: dict[str, float] = {
            "kept_subspace_matrices": len(self.changes),
            "kept_subspace_matrices_untold": self._hidden(),
            "unlimited_kinds_changed": len(self.free),
        }
        if self.leak is not None:
            figures["kept_subspace_share_max"] = max(change.share for change in self.told)
            figures["kept_subspace_leak_max"] = self.leak
        for loss in self.losses:
            name = "general_text" if loss.text == GENERAL else "held_out"
            figures |= {f"{name}_loss_before": loss.before, f"{name}_loss_after": loss.after}
        return figures


def model_on_disk(argument: str, model: str, fetch: bool = True) -> Path:
    """The folder of a model; one of the Hugging Face Hub is fetched, or taken from its cache.

    Args:
        argument: what an error calls it.
        model: a folder or an id.
        fetch: False takes what is in the cache, as a training left it.

    Raises:
        InputError: it is neither.
    """
    folder = model_folder(model)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise InputError(f"{argument}={model}: not a model folder, it has no config.json")
        return folder
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = split_hub_id(model)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_MODEL_FILES),
                ignore_patterns=list(_OTHER_FILES),
                local_files_only=not fetch,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"{argument}={model}: is neither a folder nor a model that the Hugging Face Hub gives "
            f"(is the id right, is HF_TOKEN needed?): {str(error).splitlines()[0]}"
        ) from None


def check_run(checkpoint_dir: Path, tuned_dir: Path, **options: Any) -> KnowledgeCheck:
    """check_knowledge of a run, whose osft_run.json tells the base model, the ratio and the matrices.

    Args:
        checkpoint_dir: of the run, with its osft_run.json.
        tuned_dir: the model that came out.
        options: matrices, seconds, dataset, with_losses and tell of check_knowledge.

    Raises:
        InputError: as check_knowledge; no osft_run.json.
    """
    run = read_run(checkpoint_dir)
    if run is None:
        raise InputError(f"{checkpoint_dir} has no {RUN_FILE}: it is not known what was trained there")
    osft = run["osft"]
    base_dir = model_on_disk("training_base_model", osft["model_path"], fetch=False)
    return check_knowledge(
        base_dir,
        tuned_dir,
        osft["unfreeze_rank_ratio"],
        kinds=limited_kinds(run),
        trust_remote_code=bool(osft.get("trust_remote_code")),
        **options,
    )


def limited_kinds(run: Mapping[str, Any]) -> Sequence[str]:
    """Kinds of the matrices that a run limited, by its osft_run.json; empty where that does not say it."""
    coverage = Coverage.from_figures(run.get("about", {}).get("osft_coverage"))
    return coverage.kinds if coverage else ()


def check_knowledge(
    base_dir: Path,
    tuned_dir: Path,
    unfreeze_rank_ratio: float,
    *,
    matrices: int,
    seconds: float,
    dataset: Path | None = None,
    kinds: Sequence[str] = (),
    target_patterns: Sequence[str] = (),
    with_losses: bool = True,
    trust_remote_code: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> KnowledgeCheck:
    """Compares a model with what was trained of it.

    Args:
        base_dir, tuned_dir: folders of the models in the format of transformers (safetensors).
        unfreeze_rank_ratio: the training's, 0.0 to 1.0.
        matrices: how many limited matrices to look at, at most; always the same ones.
        seconds: the whole takes about that long at most: no further row and no further matrix is begun
            when the time it takes is not there. The first of each always is.
        dataset: rows that were not trained on; the loss is that of the assistants' tokens of the first 64.
        trust_remote_code: whether code in the models' folders may run.
        with_losses: False does not load the models, whose matrices are read one at a time.
        kinds: of the matrices that OSFT limited, where a run says them.
        target_patterns: the training's, where it does not; those of the model's family when empty.
        tell: takes a line for each figure as it comes.

    Raises:
        InputError: models that do not belong together, or rows that are none.
    """
    # Before torch is loaded: its waiting threads then leave the cores to others (see train_script).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    until = time.monotonic() + seconds
    kinds = kinds or coverage_of(str(base_dir), target_patterns, trust_remote_code).kinds
    changes = ModelChanges(base_dir, tuned_dir, unfreeze_rank_ratio, kinds)
    losses: list[TextLoss] = []
    if with_losses:
        losses = _losses(base_dir, tuned_dir, dataset, seconds * _SHARE_OF_LOSSES, trust_remote_code)
        tell(f"{'loss in nats a token':<52}{'before':>9}{'after':>9}")
    for loss in losses:
        tell(f"  {f'{loss.text}, {loss.tokens:,} tokens':<50}{loss.before:>9.3f}{loss.after:>9.3f}")
    tell(f"{'change of a limited matrix':<52}{'size':>9}{'to keep':>9}{'rounding':>10}")
    found: list[MatrixChange] = []
    longest = 0.0
    begun = time.monotonic()
    for change in islice(changes, matrices):
        found.append(change)
        tell(
            f"  {change.name.removesuffix('.weight'):<50}{change.size:>9.2%}{percent(change.share):>9}"
            f"{percent(min(1.0, change.rounding * change.unlimited)):>10}"
        )
        begun, longest = time.monotonic(), max(longest, time.monotonic() - begun)
        if begun + longest > until:
            break
    return KnowledgeCheck(found, len(changes.names), changes.free_changes(), losses)


def _losses(
    base_dir: Path, tuned_dir: Path, dataset: Path | None, seconds: float, trust_remote_code: bool
) -> list[TextLoss]:
    """On the general text and on the dataset; each model is loaded once, and sees the same rows."""
    samples: dict[str, list[Sample]] = {}
    before = {}
    with loaded_model(base_dir, trust_remote_code) as (model, tokenizer):
        samples[GENERAL] = [text_sample(tokenizer, GENERAL_TEXT)]
        if dataset is not None:
            samples[dataset.name] = _samples(dataset, tokenizer)
        for text, of_text in samples.items():
            before[text] = sample_losses(model, of_text, seconds)
    losses = []
    with loaded_model(tuned_dir, trust_remote_code) as (model, _):
        for text, of_text in samples.items():
            after = sample_losses(model, of_text[: len(before[text])], seconds)
            first = before[text][: len(after)]
            losses.append(TextLoss(text, sum(loss.tokens for loss in first), mean(first), mean(after)))
    return losses


def _samples(dataset: Path, tokenizer: Any) -> list[Sample]:
    problems = Problems()
    rows = list(conversations(islice(read_rows(dataset), _ROWS), False, problems, Warnings()))
    problems.raise_if_any()
    found = [sample for _, sample in ChatTokenizer(tokenizer).samples(rows)]
    cut = [
        Sample(
            sample.input_ids[:_TOKENS], [(begin, min(end, _TOKENS)) for begin, end in sample.learnt if begin < _TOKENS]
        )
        for sample in found
    ]
    counted = [sample for sample in cut if sample.num_loss_counted_tokens]
    if not counted:
        raise InputError(f"dataset {dataset}: its first {_ROWS} rows have no assistant turn to take the loss of")
    return counted
