import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from helpers.tiny_families import MIXTURE, save_config
from kfp_osft.shared.knowledge.coverage import Coverage, coverage_of
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess.base_model import BaseModel
from kfp_osft.stages.preprocess.osft_coverage import CoverageSearch, check_coverage

#: As the stage does it, which leaves torch out of its process.
_STAGE = """
import json, sys
from pathlib import Path
from kfp_osft.stages.preprocess.base_model import BaseModel
from kfp_osft.stages.preprocess.osft_coverage import CoverageSearch
from kfp_osft.stages.preprocess.without_torch import leave_torch_out
leave_torch_out()
folder = Path(sys.argv[1])
try:
    osft = {"target_patterns": json.loads(sys.argv[2])}
    with CoverageSearch(BaseModel("org/model", folder), {}, osft, {}) as search:
        print(json.dumps(search.result()))
except Exception as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
assert sys.modules["torch"] is None
"""


def _in_a_stage(folder: Path, patterns: list[str]) -> object:
    done = subprocess.run(
        [sys.executable, "-c", _STAGE, str(folder), json.dumps(patterns)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_stage_without_torch_looks_at_the_model_in_another_process(tiny_model: Path):
    found = _in_a_stage(tiny_model, [])

    assert found.pop("made_from") and found == coverage_of(str(tiny_model)).figures()
    assert _in_a_stage(tiny_model, ["porj"]).startswith(
        "InputError: training_target_patterns: porj matches no weight matrix of org/model; "
    )


@pytest.mark.slow
def test_leaving_the_search_early_ends_its_process(tiny_model: Path):
    program = _STAGE.replace("print(json.dumps(search.result()))", "print(json.dumps(search._child.pid))")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_model), "[]"], capture_output=True, text=True, check=True
    )
    assert not psutil.pid_exists(json.loads(done.stdout.splitlines()[-1]))


def test_what_is_known_of_the_same_model_is_used_again(tiny_model: Path):
    model = BaseModel("tiny", tiny_model)

    def find_coverage(*arguments: dict) -> dict:
        with CoverageSearch(model, *arguments) as search:
            return search.result()

    found = find_coverage({"id": 1}, {}, {})

    known = {**found, "limited": 1}
    assert find_coverage({"id": 1}, {}, known) == known
    for identity, osft in (({"id": 2}, {}), ({"id": 1}, {"target_patterns": ["q_proj"]})):
        assert find_coverage(identity, osft, known)["limited"] > 1


@pytest.mark.parametrize(("minimum", "refused"), [(0.5, True), (0.12, True), (0.1, False), (0.0, False)])
def test_a_model_of_which_little_would_be_limited_is_refused_unless_it_is_asked_for(
    tmp_path: Path, minimum: float, refused: bool
):
    model = BaseModel("org/mixture", save_config(tmp_path, "mixtral", **MIXTURE))
    coverage = coverage_of(str(model.folder))

    if not refused:
        check_coverage(model, coverage, minimum)
        return
    with pytest.raises(InputError) as error:
        check_coverage(model, coverage, minimum)
    assert str(error.value).startswith(
        f"training_base_model=org/mixture: OSFT would limit 11% of the layers' weights, less than "
        f"training_min_osft_share={minimum:g}; layers.*.mlp.experts.gate_up_proj, layers.*.mlp.experts.down_proj, "
        "layers.*.mlp.gate would train without limit"
    )
    assert "training_target_patterns" in str(error.value)


def test_a_model_of_which_nothing_would_be_limited_is_always_refused():
    with pytest.raises(InputError, match="OSFT would limit 0% of the layers' weights"):
        check_coverage(BaseModel("x", Path("x")), Coverage(0, 10, 10, [], [], ["layers.*.w"]), 0.0)
