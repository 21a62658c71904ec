"""How much of the base model OSFT will limit, before anything is trained; too little is an error."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

from kfp_osft.shared.files.manifests import fingerprint
from kfp_osft.shared.knowledge.coverage import Coverage, coverage_of, percent
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.shared.training.versions import installed_versions
from kfp_osft.stages.preprocess.base_model import BaseModel

# Their versions decide what a model's matrices are called and which of them OSFT splits.
_LIBRARIES = ("rhai-innovation-mini-trainer", "transformers")
_CHILD = "from kfp_osft.stages.preprocess.osft_coverage import print_coverage; print_coverage()"


class CoverageSearch:
    """Finds what OSFT limits in a model, in another process where this one does without torch (leave_torch_out).

    That takes seconds, in which this process goes on. Leaving the context ends the other process.
    """

    def __init__(
        self, model: BaseModel, identity: Mapping[str, Any], osft: Mapping[str, Any], earlier: Mapping[str, Any]
    ) -> None:
        """Starts to look, unless it is known.

        Args:
            identity: as check_base_model gives it.
            osft: arguments of training_hub.osft.
            earlier: what result() gave before, which is used again where it was made from the same.

        Raises:
            InputError: as result(), where this process looks itself.
        """
        patterns, trusted = osft.get("target_patterns") or [], bool(osft.get("trust_remote_code"))
        self._model = model
        self._made_from = fingerprint([Coverage._fields, identity, patterns, installed_versions(_LIBRARIES)])
        self._found: dict[str, Any] | None = None
        self._child: subprocess.Popen[str] | None = None
        self._files = ExitStack()
        arguments = [str(model.folder), patterns, trusted]
        if earlier.get("made_from") == self._made_from:
            self._found = dict(earlier)
        elif "torch" in sys.modules and sys.modules["torch"] is None:
            # Files, as nobody reads a pipe meanwhile.
            self._said = self._files.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
            self._errors = self._files.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
            self._child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, json.dumps(arguments)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._errors,
                text=True,
            )
        else:
            self._take(_coverage_or_error(arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._files.close()

    def is_done(self) -> bool:
        """Whether result() has it already."""
        return self._child is None or self._child.poll() is not None

    def result(self) -> dict[str, Any]:
        """Waits for it: Coverage.figures, with made_from, a fingerprint of what decides them.

        Raises:
            InputError: mini-trainer cannot train such a model, or training_target_patterns does not fit it.
        """
        if self._found is None and self._child is not None:
            self._child.wait()
            self._said.seek(0)
            try:
                answer = json.loads(self._said.read().splitlines()[-1])
            except (ValueError, IndexError):
                self._errors.seek(0)
                errors = self._errors.read()[-2000:]
                raise RuntimeError(f"the model's structure could not be read: {errors}") from None
            self._take(answer)
        assert self._found is not None
        return self._found

    def _take(self, answer: Mapping[str, Any]) -> None:
        if "error" in answer:
            raise InputError(answer["error"].replace(str(self._model.folder), self._model.name))
        self._found = {"made_from": self._made_from, **answer["coverage"]}


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
