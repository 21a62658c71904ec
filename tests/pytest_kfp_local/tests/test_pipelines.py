"""Runs of pipelines."""

import kfp
import pytest

pytest_plugins = ["pytester"]

KFP_VERSION = tuple(map(int, kfp.__version__.split(".")[:2]))

ADD = """
@component
def add(a: int, b: Optional[int] = None) -> int:
    return a + (b or 0)


"""


def test_a_nested_pipeline_runs_and_its_tasks_have_its_name(run_tests):
    run_tests(
        ADD
        + """
@dsl.pipeline
def inner(a: int, b: int = 10) -> int:
    return add(a=add(a=a, b=b).output, b=1).output


@dsl.pipeline
def outer(a: int) -> int:
    return inner(a=inner(a=a).output, b=100).output


def test_it(kfp_local):
    result = kfp_local.run(outer, a=1)
    assert result.output == 1 + 10 + 1 + 100 + 1
    assert [task.name for task in result.tasks] == ["inner/add", "inner/add-2", "inner-2/add", "inner-2/add-2"]
"""
    )


def test_an_input_that_is_left_out_stays_out_in_nested_pipelines_too(run_tests):
    """kfp.local takes the value of the outer pipeline's input of the same name, or fails."""
    run_tests(
        ADD
        + """
@component
def has(model: Optional[dsl.Input[dsl.Model]] = None, b: Optional[int] = None) -> bool:
    return bool(model or b)


@dsl.pipeline
def inner(a: int, b: Optional[int] = None, c: int = 1, model: Optional[dsl.Input[dsl.Model]] = None) -> NamedTuple(
        "Out", [("sum", int), ("has", bool)]):
    there = has(model=model, b=b)
    total = add(a=add(a=a, b=b).output, b=c)
    return NamedTuple("Out", [("sum", int), ("has", bool)])(total.output, there.output)


@dsl.pipeline
def outer(a: int, b: Optional[int] = None, c: int = 7, model: Optional[dsl.Input[dsl.Model]] = None) -> NamedTuple(
        "Out", [("sum", int), ("has", bool)]):
    task = inner(a=add(a=a, b=b).output)
    return NamedTuple("Out", [("sum", int), ("has", bool)])(task.outputs["sum"], task.outputs["has"])


def test_it(kfp_local):
    assert kfp_local.run(outer, a=1).outputs == {"sum": 2, "has": False}
    assert kfp_local.run(outer, a=1, b=100, model="x").outputs == {"sum": 102, "has": False}
    assert kfp_local.run(inner, a=1, b=100, model="x").outputs == {"sum": 102, "has": True}
"""
    )


def test_artifacts_go_through_a_pipeline(run_tests):
    run_tests("""
@component
def copy(source: dsl.Input[dsl.Dataset], target: dsl.Output[dsl.Dataset]):
    with open(target.path, "w") as file:
        file.write(open(source.path).read() + "!")
    target.metadata = {**source.metadata, "copied": True}


@dsl.pipeline
def copies(uri: str, source: dsl.Input[dsl.Dataset]) -> NamedTuple("Out", [("one", dsl.Dataset), ("two", dsl.Dataset)]):
    imported = dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset, metadata={"from": "importer"})
    one, two = copy(source=source), copy(source=imported.output)
    return NamedTuple("Out", [("one", dsl.Dataset), ("two", dsl.Dataset)])(one.outputs["target"], two.outputs["target"])


def test_it(kfp_local, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    source = dsl.Dataset(uri=str(tmp_path / "one"), metadata={"from": "test"})
    outputs = kfp_local.run(copies, uri=str(tmp_path / "two"), source=source).outputs
    assert {name: Path(artifact.path).read_text() for name, artifact in outputs.items()} == {
        "one": "one!", "two": "two!"}
    assert outputs["one"].metadata == {"from": "test", "copied": True}
    assert outputs["two"].metadata == {"from": "importer", "copied": True}
""")


def test_tasks_that_share_a_component_in_a_file_have_inputs_and_outputs_of_their_own(run_tests):
    run_tests(
        ADD
        + """
from kfp import compiler, components


@component
def write(text: dsl.Output[dsl.Artifact], name: Optional[str] = None):
    open(text.path, "w").write(str(name))


@dsl.pipeline
def writes() -> NamedTuple("Out", [("one", dsl.Artifact), ("two", dsl.Artifact)]):
    one, two = write(name="x"), write()
    return NamedTuple("Out", [("one", dsl.Artifact), ("two", dsl.Artifact)])(one.outputs["text"], two.outputs["text"])


def test_it(kfp_local, tmp_path):
    compiler.Compiler().compile(writes, str(tmp_path / "writes.yaml"))
    shared = (tmp_path / "writes.yaml").read_text().replace("name: comp-write-2\\n", "name: comp-write\\n")
    assert shared.count("name: comp-write\\n") == 2
    outputs = kfp_local.run(components.load_component_from_text(shared)).outputs
    assert [Path(outputs[name].path).read_text() for name in ("one", "two")] == ["x", "None"]
"""
    )


@pytest.mark.skipif(KFP_VERSION < (2, 16), reason="kfp.local runs loops since 2.16")
def test_a_loop_runs_and_leaves_this_process_as_it_was(run_tests):
    run_tests("""
@component
def wait(seconds: float):
    import time
    time.sleep(seconds)


@dsl.pipeline
def loop(b: Optional[int] = None):
    with dsl.ParallelFor([0.0, 0.5, 0.0]) as item:
        wait(seconds=item)


def test_it(kfp_local):
    import builtins, logging
    state = lambda: (builtins.print, logging.getLogger().handlers[:], logging.getLogger().level)
    before = state()
    result = kfp_local.run(loop)
    assert [task.name for task in result.tasks] == ["for-loop-2/wait"] * 3
    assert state() == before
""")


@pytest.mark.skipif(KFP_VERSION < (2, 17), reason="kfp.local takes conditional branches since 2.17")
def test_the_tasks_show_which_branch_was_taken(run_tests):
    run_tests(
        ADD
        + """
@dsl.pipeline
def branches(n: int):
    with dsl.If(n == 1):
        add(a=n)
    with dsl.Else():
        add(a=n)


def test_it(kfp_local):
    (task,) = kfp_local.run(branches, n=2).tasks
    assert task.name.endswith("/condition-3/add-2")
"""
    )


def test_the_workspace_stays_and_is_shared_by_the_runs_of_a_test(run_tests):
    run_tests("""
@component
def write(folder: str, name: str):
    from pathlib import Path
    Path(folder, name).write_text(name)


WORKSPACE = dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="1Gi"))


@dsl.pipeline(pipeline_config=WORKSPACE)
def by_placeholder():
    write(folder=dsl.WORKSPACE_PATH_PLACEHOLDER, name="one")


@dsl.pipeline(pipeline_config=WORKSPACE)
def by_path(folder: str = "/kfp-workspace"):
    write(folder=folder, name="two")


def test_it(kfp_local):
    kfp_local.run(by_placeholder)
    kfp_local.run(by_path)
    kfp_local.run(write, folder=kfp_local.workspace, name="three")
    assert {file.name for file in kfp_local.workspace.iterdir()} == {"one", "two", "three"}
""")


def test_what_is_for_clusters_only_causes_no_warnings(run_tests):
    run_tests("""
@dsl.component(base_image="quay.io/some/image")
def work() -> int:
    return 1


@dsl.pipeline
def works() -> int:
    return work().set_display_name("Work").set_cpu_limit("1").set_memory_request("1G").set_caching_options(False).output


def test_it(kfp_local, recwarn):
    assert kfp_local.run(works).output == 1
    assert not [str(warning.message) for warning in recwarn]
""")
