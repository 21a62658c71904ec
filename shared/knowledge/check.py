"""What a training kept of what the base model knew, by the weights: in which directions they changed."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from kfp_osft.shared.knowledge.coverage import Coverage, coverage_of, percent
from kfp_osft.shared.knowledge.kept_subspace import FreeChange, MatrixChange, ModelChanges
from kfp_osft.shared.model.folder import model_folder, split_hub_id
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.run_file import required_run

#: A leak beyond rounding above this share is one. OSFT leaves under 0.002, plain fine-tuning 0.8.
MOST_LEAK = 0.05
# What transformers reads of a model on the Hub.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
# The same weights in the formats of other libraries.
_OTHER_FILES = ("*/*", "consolidated*")


class KnowledgeCheck(NamedTuple):
    """What was found.

    Attributes:
        changes: the limited matrices that were looked at.
        matrices: how many OSFT limits.
        free: the kinds of weights that changed and that OSFT does not limit.
    """

    changes: list[MatrixChange]
    matrices: int
    free: list[FreeChange]

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
        """The figures, flat as KFP's Metrics want them; shares are 0 to 1.

        kept_subspace_share_max (of the change, inside the directions to keep), kept_subspace_leak_max (beyond
        rounding), kept_subspace_matrices (looked at), kept_subspace_matrices_untold (hidden by rounding),
        unlimited_kinds_changed (kinds of weights outside OSFT's limits).
        """
        figures: dict[str, float] = {
            "kept_subspace_matrices": len(self.changes),
            "kept_subspace_matrices_untold": self._hidden(),
            "unlimited_kinds_changed": len(self.free),
        }
        if self.leak is not None:
            figures["kept_subspace_share_max"] = max(change.share for change in self.told)
            figures["kept_subspace_leak_max"] = self.leak
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
        options: matrices, seconds and tell of check_knowledge.

    Raises:
        InputError: as check_knowledge; no osft_run.json.
    """
    run = required_run(checkpoint_dir)
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
    kinds: Sequence[str] = (),
    target_patterns: Sequence[str] = (),
    trust_remote_code: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> KnowledgeCheck:
    """Compares a model with what was trained of it; the matrices are read one at a time.

    Args:
        base_dir, tuned_dir: folders of the models in the format of transformers (safetensors).
        unfreeze_rank_ratio: the training's, 0.0 to 1.0.
        matrices: how many limited matrices to look at, at most; always the same ones.
        seconds: the whole takes about that long at most: no further matrix is begun when the time it takes is not
            there. The first one always is.
        trust_remote_code: whether code in the models' folders may run.
        kinds: of the matrices that OSFT limited, where a run says them.
        target_patterns: the training's, where it does not; those of the model's family when empty.
        tell: takes a line for each figure as it comes.

    Raises:
        InputError: models that do not belong together.
    """
    # Before torch is loaded: its waiting threads then leave the cores to others (see train_script).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    until = time.monotonic() + seconds
    kinds = kinds or coverage_of(str(base_dir), target_patterns, trust_remote_code).kinds
    changes = ModelChanges(base_dir, tuned_dir, unfreeze_rank_ratio, kinds)
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
    return KnowledgeCheck(found, len(changes.names), changes.free_changes())
