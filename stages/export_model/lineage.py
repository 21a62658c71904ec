"""The trainings that made a model, one on the other: from the first base model on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_osft.shared.files.atomic import read_json_object
from kfp_osft.shared.training.run_file import RUN_FILE, RUN_FORMAT, wrong_field

_TOLD_PARAMETERS = (
    "training_num_epochs",
    "training_learning_rate",
    "training_effective_batch_size",
    "training_unfreeze_rank_ratio",
    "training_target_patterns",
    "training_seed",
)


def earlier_trainings(base_folder: Path | None) -> list[dict[str, Any]]:
    """The trainings of a base model that was itself exported here, the first one first; [] for others.

    Returns:
        As described() gives them.
    """
    if base_folder is None:
        return []
    run = read_json_object(base_folder / RUN_FILE)
    if run.get("format") != RUN_FORMAT or "base_model" not in run or wrong_field(run):
        return []
    return [*run.get("lineage", ()), described(run)]


def described(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a later training's osft_run.json says of this one: base_model, dataset, parameters, final_loss,
    fingerprint."""
    parameters = run.get("parameters") or {}
    return {
        "base_model": run["base_model"],
        "dataset": run.get("dataset") or {},
        "parameters": {key: value for key, value in parameters.items() if key in _TOLD_PARAMETERS},
        "final_loss": (run.get("metrics") or {}).get("final_loss"),
        "fingerprint": run.get("fingerprint"),
    }


def model_name(base_model: str, earlier: Sequence[Mapping[str, Any]]) -> str:
    """The first base model's name with -osft, and from the second training on their number.

    Args:
        base_model: of this training: a Hub id, an oci:// reference or a path.
        earlier: as earlier_trainings gives them.
    """
    first = str(earlier[0]["base_model"].get("name", "")) if earlier else base_model
    # The tag or digest of an image is no part of its name.
    name = Path(first).name.partition("@")[0].partition(":")[0] or "model"
    return f"{name}-osft-{len(earlier) + 1}" if earlier else f"{name}-osft"


def sentences(trainings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each training, for the model card."""
    lines = []
    for at, training in enumerate(trainings):
        base = training["base_model"]
        if at == 0:
            revision = base.get("revision") or base.get("oci")
            begin = Path(base["name"]).name if str(base["name"]).startswith("/") else base["name"]
            begin += f" at {revision}" if revision else ""
        else:
            begin = "the model of the line above"
        rows = training["dataset"].get("uri") or training["dataset"].get("name") or "rows that are not named"
        loss = training.get("final_loss")
        end = f", loss {loss:.3f} at the end" if isinstance(loss, int | float) else ""
        lines.append(f"{begin}, trained on {rows}{end}")
    return lines
