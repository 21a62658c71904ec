"""The estimate agrees with what was seen on real backends, and the pipelines stay far below the limits."""

import re
import runpy

import pytest
import yaml
from kfp import compiler, dsl

from helpers.compiled_pipeline import make_dataset
from helpers.places import COMPILED, ROOT
from kfp_osft.pipelines import train_model
from kfp_osft.pipelines.osft.workflow_size import ARGUMENT_LIMIT, WORKFLOW_LIMIT, estimate


def documents(file):
    return [document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]


@pytest.fixture(scope="module")
def osft_pipeline():
    return documents(COMPILED / "osft_pipeline.yaml")


def test_the_compiled_pipeline_is_at_most_80_kb():
    assert (COMPILED / "osft_pipeline.yaml").stat().st_size <= 80_000


def test_a_run_takes_at_most_35_percent_and_sixteen_iterations_60(osft_pipeline):
    once, sixteen = estimate(osft_pipeline), estimate(osft_pipeline, iterations=16)
    assert once.stored <= 0.35 * WORKFLOW_LIMIT
    assert sixteen.stored <= 0.60 * WORKFLOW_LIMIT
    assert once.argument <= 16_000


def test_the_pipelines_of_the_readme_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for code in blocks:
        if "compiler.Compiler().compile" in code:
            (tmp_path / "example.py").write_text(code)
            runpy.run_path(str(tmp_path / "example.py"))
    found = list(tmp_path.glob("*.yaml"))
    assert found
    for file in found:
        assert estimate(documents(file)).stored <= 0.35 * WORKFLOW_LIMIT


def test_code_in_a_component_counts_five_times_and_four_times_more_an_iteration(tmp_path):
    def size(code, iterations=1):
        @dsl.component(base_image="python:3.11")
        def say():
            pass

        say.component_spec.implementation.container.command[-1] += f"# {code}"
        compiler.Compiler().compile(say, str(tmp_path / "say.yaml"))
        return estimate(documents(tmp_path / "say.yaml"), iterations)

    assert size("x" * 10_000).stored - size("").stored == 5 * 10_000
    added = size("x" * 10_000, 3).stored - size("", 3).stored
    assert added == (5 + 2 * 4) * 10_000
    assert size("x" * 140_000).argument > ARGUMENT_LIMIT and size("x" * 140_000).share > 1


def test_an_embedder_is_warned_of_a_loop_that_argo_could_not_keep():
    def callers():
        with dsl.ParallelFor(list(range(60))) as number:
            train_model(pvc_path=f"/data/{number}", dataset_uri="pvc://rows.jsonl")

    with pytest.warns(
        UserWarning, match=r"the pipeline is getting too large: its Workflow would take [\d,]+ of the 1,048,576"
    ):
        dsl.pipeline(name="callers")(callers)


def test_an_embedder_of_a_small_loop_is_not_warned(recwarn):
    def callers():
        make_dataset()
        with dsl.ParallelFor([1, 2, 3, 4]) as number:
            train_model(pvc_path=f"/data/{number}", dataset_uri="pvc://rows.jsonl")

    dsl.pipeline(name="callers")(callers)
    assert not [warning for warning in recwarn if "too large" in str(warning.message)]
