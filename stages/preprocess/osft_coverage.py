"""How much of the base model OSFT will limit, before anything is trained; too little is an error."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from kfp_osft.shared.files.manifests import fingerprint
from kfp_osft.shared.knowledge.coverage import Coverage, coverage_of, percent
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.versions import installed_versions
from kfp_osft.stages.preprocess.base_model import BaseModel

# Their versions decide what a model's matrices are called and which of them OSFT splits.
_LIBRARIES = ("rhai-innovation-mini-trainer", "transformers")
_CHILD = "from kfp_osft.stages.preprocess.osft_coverage import print_coverage; print_coverage()"


def find_coverage(
    model: BaseModel, identity: Mapping[str, Any], osft: Mapping[str, Any], earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """What OSFT limits in the model: Coverage.figures, with made_from, a fingerprint of what decides them.

    Where this process does without torch (leave_torch_out), another one looks at the model.

    Args:
        identity: as check_base_model gives it.
        osft: arguments of training_hub.osft.
        earlier: what this gave before, which is used again where it was made from the same.

    Raises:
        InputError: mini-trainer cannot train such a model, or training_target_patterns does not fit it.
    """
    patterns, trusted = osft.get("target_patterns") or [], bool(osft.get("trust_remote_code"))
    made_from = fingerprint([identity, patterns, installed_versions(_LIBRARIES)])
    if earlier.get("made_from") == made_from:
        return dict(earlier)
    arguments = [str(model.folder), patterns, trusted]
    if "torch" in sys.modules and sys.modules["torch"] is None:
        found = _in_another_process(arguments)
    else:
        found = _coverage_or_error(arguments)
    if "error" in found:
        raise InputError(found["error"].replace(str(model.folder), model.name))
    return {"made_from": made_from, **found["coverage"]}


def check_coverage(model: BaseModel, coverage: Coverage, minimum: float) -> None:
    """Refuses a model of which OSFT would limit too little.

    Args:
        minimum: training_min_osft_share, 0 to 1.

    Raises:
        InputError: naming what would train without limit.
    """
    if coverage.limited and coverage.share >= minimum:
        return
    raise InputError(
        f"training_base_model={model.name}: OSFT would limit {percent(coverage.share)} of the layers' weights, less "
        f"than training_min_osft_share={minimum:g}; {coverage.free_kinds_in_words()} would train without limit, as in "
        "plain fine-tuning. Name them in training_target_patterns where they are matrices (fused experts are not), "
        "take another base model, or lower training_min_osft_share"
    )


def print_coverage() -> None:
    """What the other process runs: prints the answer to its first argument as its last line."""
    print("\n" + json.dumps(_coverage_or_error(json.loads(sys.argv[1]))))


def _coverage_or_error(arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"coverage": coverage_of(*arguments).figures()}
    except InputError as error:
        return {"error": str(error)}


def _in_another_process(arguments: list[Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"the model's structure could not be read: {done.stderr[-2000:]}") from None
