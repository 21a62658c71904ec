"""The figures of a training that people compare runs by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.model.folder import config_value, read_config
from kfp_osft.shared.training.checkpoints import HF_FORMAT
from kfp_osft.shared.training.metrics import summarize
from kfp_osft.shared.training.validation_losses import loss_after_the_last_step, validation_losses

#: The parameters people compare runs by, and the counts of rows, under the names they get as metrics.
PARAMETERS = {
    "unfreeze_rank_ratio": "unfreeze_rank_ratio",
    "effective_batch_size": "effective_batch_size",
    "max_seq_len": "max_seq_len",
    "learning_rate": "peak_learning_rate",
    "seed": "seed",
}
_ROWS = {"samples": "rows_kept", "too_long": "rows_too_long", "too_short": "rows_too_short"}
# mini-trainer's (TrainingArgs.seed), where none is passed.
_SEED = 42


def figures(folder: Path, steps: list[dict], run: Mapping[str, Any] | None) -> dict[str, float | int]:
    """The figures people compare runs by, all of them finite.

    Those of summarize, without final_perplexity where the loss has the routers' auxiliary loss in it, and, where there
    are such:

    - validation_loss, lowest_validation_loss: last and smallest, of the trainer's validations
    - unfreeze_rank_ratio, effective_batch_size, max_seq_len, peak_learning_rate, seed: as the training got them
    - osft_share: of the weights in the layers' matrices, the share that OSFT limits, 0 to 1; osft_limited_parameters:
      how many that are; unlimited_parameters: all others, embeddings, norms and biases included
    - rows_kept, rows_dropped: of the dataset; rows_too_long and rows_too_short are the latter by reason
    - wall_clock_seconds: of the whole training, with loading the model and saving checkpoints

    Args:
        folder: of the checkpoints, with the trainer's log.
        steps: as read_steps gives them.
        run: what read_run gives.
    """
    found: dict[str, float | int] = summarize(steps)
    if loss_includes_routers(folder):
        # e to the power of a sum with something else in it is no perplexity.
        found.pop("final_perplexity", None)
    losses = list(validation_losses(steps, loss_after_the_last_step(folder)).values())
    if losses:
        found |= {"validation_loss": losses[-1], "lowest_validation_loss": min(losses)}
    if run:
        osft, about = {"seed": _SEED, **run["osft"]}, run["about"]
        found |= {name: osft[key] for key, name in PARAMETERS.items() if key in osft}
        found |= {name: about[key] for key, name in _ROWS.items() if key in about}
        if {"rows", "samples"} <= about.keys():
            found["rows_dropped"] = about["rows"] - about["samples"]
        if coverage := Coverage.from_figures(about.get("osft_coverage")):
            found |= {"osft_share": coverage.share, "osft_limited_parameters": coverage.limited}
            found["unlimited_parameters"] = coverage.layers - coverage.limited + coverage.others
        if "seconds" in run:
            found["wall_clock_seconds"] = run["seconds"]
    return found


def loss_includes_routers(folder: Path) -> bool:
    """Whether mini-trainer's loss is more than the cross-entropy: it adds the auxiliary loss that balances the experts
    where the model gives one, which its config says (output_router_logits)."""
    return bool(config_value(trained_config(folder), "output_router_logits"))


def trained_config(folder: Path) -> dict[str, Any]:
    """config.json of the first readable checkpoint in a folder of checkpoints; {} where there is none."""
    configs = (read_config(checkpoint) for checkpoint in sorted(folder.glob(f"{HF_FORMAT}/*")))
    return next(filter(None, configs), {})
