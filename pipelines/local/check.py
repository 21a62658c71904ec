"""kfp-osft check: in which directions a fine-tuned model changed its base model's weights."""

from collections.abc import Sequence

from kfp_osft.pipelines.run_folders import find_model
from kfp_osft.shared.knowledge.check import KnowledgeCheck, check_knowledge, limited_kinds
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.reporting.log import log
from kfp_osft.shared.training.run_file import read_run


def run_check(
    base: str,
    tuned: str,
    unfreeze_rank_ratio: float | None,
    *,
    matrices: int,
    max_minutes: float,
    target_patterns: Sequence[str],
) -> KnowledgeCheck:
    """Compares two models and prints each figure as it comes, and the verdict.

    Args:
        base, tuned: model folders, output folders of kfp-osft run, or ids on the Hugging Face Hub.
        unfreeze_rank_ratio: that of the training, 0.0 to 1.0; None: read from osft_run.json in the folder of `tuned`.
        matrices, target_patterns: as in check_knowledge.
        max_minutes: approximate time limit.

    Raises:
        InputError: a value that is not allowed, a model that does not exist, models of different shapes.
    """
    if matrices < 1:
        raise InputError(f"--matrices={matrices} is not allowed; allowed: an integer of at least 1")
    if not max_minutes > 0:
        raise InputError(f"--max-minutes={max_minutes:g} is not allowed; allowed: a number above 0")
    if unfreeze_rank_ratio is not None and not 0 <= unfreeze_rank_ratio <= 1:
        raise InputError(f"--unfreeze-rank-ratio={unfreeze_rank_ratio:g} is not allowed; allowed: a number from 0 to 1")
    base_dir, tuned_dir = find_model("BASE", base), find_model("TUNED", tuned)
    run = read_run(tuned_dir) or {}
    osft = run.get("osft", {})
    ratio = osft.get("unfreeze_rank_ratio") if unfreeze_rank_ratio is None else unfreeze_rank_ratio
    if ratio is None:
        raise InputError(f"--unfreeze-rank-ratio: no osft_run.json in {tuned} has it; give the ratio of the training")
    check = check_knowledge(
        base_dir,
        tuned_dir,
        ratio,
        matrices=matrices,
        seconds=60 * max_minutes,
        kinds=() if target_patterns else limited_kinds(run),
        target_patterns=target_patterns,
        tell=log,
    )
    log(f"\n{check.verdict[0].upper()}{check.verdict[1:]}.")
    return check
