"""The versions that the images of OpenShift AI bring, each in an environment of its own beside the torch at hand.

What differs between them, and is made good by us:
- mini-trainer before 0.8.0 (3.4) projects gradients only: train_script projects the parameters after each step.
- mini-trainer before 0.9 (both) takes no file of held-out rows to validate on: train_script's workers give it theirs.
- training_hub 0.6.0 (3.4) cannot save its state on SIGTERM: train_script.can_resume looks for it.
- transformers 4.57 (3.4) knows rope_theta, 5 rope_parameters; saved tokenizers have another class: the exported files
  are the base model's own. So the base model here is one that 4.57 saved, which both read.
- huggingface_hub 0.36 (3.4), 1 (3.5) and 2 (ours) talk through requests, httpx or neither: nothing here imports them.
Python and torch are those of the tests; the images have Python 3.12 with torch 2.9.1 and 2.11.0.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.interpreters import run
from helpers.places import TESTS
from kfp_osft.shared.training.metrics import read_steps

RUNTIMES = {
    "3.4": (
        "training-hub==0.6.0",
        "rhai-innovation-mini-trainer==0.6.1",
        "transformers==4.57.6",
        "datasets==4.3.0",
    ),
    "3.5": (
        "training-hub==0.9.2",
        "rhai-innovation-mini-trainer==0.8.3",
        "transformers==5.13.0",
        "tokenizers==0.22.2",
        "datasets==5.0.0",
    ),
}
_MODEL = "import sys; from helpers.tiny_model import make_tiny_model; make_tiny_model(sys.argv[1])"


class Trained(NamedTuple):
    """What a run with these versions left."""

    printed: str
    output_dir: Path

    @property
    def checkpoint_dir(self) -> Path:
        (folder,) = (self.output_dir / "checkpoints").iterdir()
        return folder

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in read_steps(self.checkpoint_dir)]

    def read(self, path: str) -> dict:
        return json.loads((self.output_dir / path).read_text())


def environment_of(runtime: str, folder: Path) -> Path:
    """Makes an environment with a runtime's versions; all else, torch too, is that of the tests. Returns its python."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin/python"
    own = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder.parent).strip()
    seen = [path for path in sys.path if Path(path).name == "site-packages" or Path(path, "kfp_osft").exists()]
    Path(own, "of_the_tests.pth").write_text("\n".join(seen))
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", *RUNTIMES[runtime], cwd=folder.parent)
    return python


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runtimes")
    return {runtime: environment_of(runtime, folder / runtime) for runtime in RUNTIMES}


@pytest.fixture(scope="module")
def base_model(pythons: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as transformers 4.57 saves it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    run(pythons["3.4"], "-c", _MODEL, folder, cwd=folder.parent, env=environment)
    return folder


@pytest.fixture(scope="module")
def trained(
    pythons: dict[str, Path], base_model: Path, chat_rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trained]:
    """All six stages with each runtime, on the same rows and the same base model."""
    found = {}
    for runtime, python in pythons.items():
        output = tmp_path_factory.mktemp(f"run-{runtime}") / "output"
        done = subprocess.run(
            [
                *(python, "-m", "kfp_osft.pipelines.cli", "run"),
                *("--dataset", chat_rows, "--base-model", base_model, "--output-dir", output),
                *("--num-epochs", "3", "--effective-batch-size", "8", "--learning-rate", "1e-3", "--seed", "1"),
                *("--max-seq-len", "256", "--max-tokens-per-gpu", "1024", "--unfreeze-rank-ratio", "0.5"),
                *("--validation-split", "0.25", "--validation-every", "2", "--save-best", "true"),
                *("--optimizer-kwargs", "weight_decay=0.1,beta2=0.99"),
            ],
            cwd=output.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        found[runtime] = Trained(done.stdout, output)
    return found


@pytest.mark.slow
def test_the_stages_run_and_the_model_says_which_versions_made_it(trained: dict[str, Trained]):
    for runtime, versions in RUNTIMES.items():
        published = trained[runtime].read("final_model/osft_run.json")
        wanted = dict(version.split("==") for version in versions if not version.startswith(("datasets", "tokenizers")))
        assert wanted.items() <= published["library_versions"].items()
        assert published["metrics"]["osft_share"] == 1.0
        assert (trained[runtime].output_dir / "loss_chart.html").stat().st_size > 100_000
    # Another version is another training.
    assert trained["3.4"].checkpoint_dir.name != trained["3.5"].checkpoint_dir.name


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_osft_promises_is_kept_with_either(trained: dict[str, Trained], runtime: str):
    folder = trained[runtime].checkpoint_dir
    measured = json.loads((folder / "kept_knowledge.json").read_text())

    assert measured["kept_subspace_share_max"] < 1e-3
    assert "Weights  kept: " in trained[runtime].printed
    projects = "projecting the parameters after each step, too" in (folder / "training.log").read_text()
    assert projects is (runtime == "3.4")


@pytest.mark.slow
def test_the_loss_takes_the_same_course_with_both(trained: dict[str, Trained]):
    old, new = (trained[runtime].losses for runtime in RUNTIMES)

    assert len(old) == len(new) == 9
    assert all(math.isclose(one, other, abs_tol=0.005) for one, other in zip(old, new, strict=True))
    assert new[-1] < new[0] - 0.3


@pytest.mark.slow
def test_labels_are_right_in_real_chat_templates_with_transformers_4_too(pythons: dict[str, Path]):
    # The rows' reasoning and nulls reach a template as transformers 5 passes them on.
    program = "import transformers; assert transformers.__version__ == '4.57.6'"
    run(pythons["3.4"], "-c", program, cwd=TESTS)
    test = TESTS / "shared/chat/test_real_templates.py"
    run(pythons["3.4"], "-m", "pytest", "-q", "-p", "no:cacheprovider", test, cwd=TESTS.parent)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_held_out_rows_alone_are_validated_on_and_the_best_model_is_exported(
    trained: dict[str, Trained], runtime: str
):
    folder = trained[runtime].checkpoint_dir
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = {step["step"]: step["val_loss"] for step in table if step["val_loss"] is not None}
    checkpoint = trained[runtime].read("final_model/osft_run.json")["checkpoint"]

    # A quarter of the 32 rows; the others make three steps of eight an epoch.
    assert {step["val_num_samples"] for step in table if step["step"] in measured} == {8}
    assert table[-1]["total_samples_accumulated"] == 3 * 24
    assert sorted(measured) == [2, 4, 6, 8]
    best = min(measured, key=measured.__getitem__)
    assert (checkpoint["step"], checkpoint["validation_loss"]) == (best, measured[best])
    assert checkpoint["name"].endswith("_best_val_loss")
    assert len(list(folder.glob("hf_format/*_best_val_loss"))) == 1
