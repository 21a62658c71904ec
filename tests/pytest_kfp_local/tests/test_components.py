"""Runs of single components."""

import kfp
import pytest

pytest_plugins = ["pytester"]

KFP_VERSION = tuple(map(int, kfp.__version__.split(".")[:2]))

COUNT = """
@component
def count(rows: dsl.Input[dsl.Dataset], counted: dsl.Output[dsl.Dataset]) -> int:
    with open(rows.path) as source, open(counted.path, "w") as target:
        lines = list(source)
        target.writelines(lines)
    counted.metadata = {**rows.metadata, "rows": len(lines)}
    return len(lines)


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.txt"
    file.write_text("one\\ntwo\\n")
    return file
"""


def test_outputs_are_values_and_artifact_objects(run_tests):
    run_tests(
        COUNT
        + """
def test_it(kfp_local, rows):
    result = kfp_local.run(count, rows=rows)
    assert result.state == "SUCCESS" and result.error is None
    assert set(result.outputs) == {"Output", "counted"}
    assert result.outputs["Output"] == 2
    assert Path(result.outputs["counted"].path).read_text() == "one\\ntwo\\n"
    assert isinstance(result.outputs["counted"], dsl.Dataset)
    with pytest.raises(AttributeError, match="one output; this one has .*'Output', 'counted'"):
        result.output
"""
    )


@pytest.mark.parametrize(
    ("artifact", "metadata"),
    [
        ("rows", {}),
        ("str(rows)", {}),
        ("os.path.relpath(rows)", {}),
        ("dsl.Dataset(uri=str(rows), metadata={'n': 3, 'by': {'name': 'x'}})", {"n": 3, "by": {"name": "x"}}),
        ("dsl.Dataset(uri=os.path.relpath(rows))", {}),
        ("dsl.Artifact(uri=rows.as_uri(), metadata={'n': 3})", {"n": 3}),
    ],
)
def test_an_input_artifact_is_a_path_or_an_artifact_object(run_tests, artifact, metadata):
    run_tests(
        COUNT
        + f"""
def test_it(kfp_local, rows):
    artifact = {artifact}
    given = dict(vars(artifact)) if isinstance(artifact, dsl.Artifact) else None
    assert kfp_local.run(count, rows=artifact).outputs["counted"].metadata == {{**{metadata}, "rows": 2}}
    assert given is None or vars(artifact) == given
"""
    )


def test_an_output_of_one_run_is_the_input_of_the_next(run_tests):
    run_tests(
        COUNT
        + """
def test_it(kfp_local, rows):
    first = kfp_local.run(count, rows=dsl.Dataset(uri=str(rows), metadata={"language": "en"}))
    second = kfp_local.run(count, rows=first.outputs["counted"])
    assert second.outputs["counted"].metadata == {"language": "en", "rows": 2}
    assert second.outputs["counted"].path != first.outputs["counted"].path
"""
    )


@pytest.mark.skipif(KFP_VERSION < (2, 17), reason="kfp.local takes lists of artifacts since 2.17")
def test_a_list_of_artifacts_is_an_input(run_tests):
    run_tests(
        COUNT
        + """
from typing import List


@component
def count_all(parts: dsl.Input[List[dsl.Dataset]]) -> int:
    return sum(len(open(part.path).readlines()) * int(part.metadata.get("times", 1)) for part in parts)


def test_it(kfp_local, rows):
    parts = [rows, dsl.Dataset(uri=str(rows), metadata={"times": 10})]
    assert kfp_local.run(count_all, parts=parts).output == 22
"""
    )


@pytest.mark.parametrize("arguments", ["", "n=None, f=None, s=None, b=None, d=None, l=None, a=None"])
def test_optional_inputs_of_all_types_can_be_left_out(run_tests, arguments):
    run_tests(f"""
@component
def which(n: Optional[int] = None, f: Optional[float] = None, s: Optional[str] = None, b: Optional[bool] = None,
          d: Optional[dict] = None, l: Optional[list] = None, a: Optional[dsl.Input[dsl.Model]] = None,
          five: Optional[int] = 5) -> list:
    return [x is None for x in (n, f, s, b, d, l, a)] + [five]


def test_it(kfp_local):
    assert kfp_local.run(which, {arguments}).output == [True] * 7 + [5]
    assert kfp_local.run(which, n=0, f=0.0, s="", b=False, d={{}}, l=[], five=0).output == [False] * 6 + [True, 0]
""")


def test_a_task_config_is_a_dict_and_can_be_left_out(run_tests):
    run_tests("""
@component
def selector(config: dsl.TaskConfig) -> dict:
    return config.node_selector or {}


def test_it(kfp_local):
    assert kfp_local.run(selector).output == {}
    assert kfp_local.run(selector, config={"nodeSelector": {"disk": "ssd"}}).output == {"disk": "ssd"}
""")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("", "missing 1 required argument: rows"),
        ("rows='x', row=1", 'unexpected keyword argument "row"'),
        ("rows=dsl.Model(uri='x')", "'system.Model@0.0.1' is incompatible with the input type 'system.Dataset@0.0.1'"),
        ("rows='x', limit='many'", "'STRING' is incompatible with the input type 'NUMBER_INTEGER'"),
    ],
)
def test_a_bad_argument_is_refused_before_anything_runs(run_tests, arguments, error):
    run_tests(f"""
@component
def first(rows: dsl.Input[dsl.Dataset], limit: int = 3):
    pass


def test_it(kfp_local, tmp_path):
    with pytest.raises(Exception) as caught:
        kfp_local.run(first, {arguments})
    assert {error!r} in str(caught.value)
    assert not list(tmp_path.rglob("log"))
""")


def test_arguments_arrive_as_they_are_given(run_tests):
    """kfp.local puts the interpreter's path in place of the word python3."""
    run_tests("""
@component
def echo(text: str, pip: str, check: dict) -> list:
    return [text, pip, check]


def test_python3(kfp_local, tmp_path):
    assert "python3" in str(tmp_path)
    result = kfp_local.run(echo, {"pip": "24.0", "check": {"a": "x"}}, text=Path("/usr/bin/python3"))
    assert result.output == ["/usr/bin/python3", "24.0", {"a": "x"}]
""")


def test_the_log_is_what_the_component_printed(run_tests):
    run_tests("""
@component
def talk(secret: str):
    import logging, sys
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.info("logged")
    print("{\\n}")


def test_it(kfp_local, capsys):
    result = kfp_local.run(talk, secret="not printed")
    first, second, third, *rest = result.log.splitlines()
    assert (first, second) == ("to stdout", "to stderr")
    assert third.startswith("[KFP Executor") and third.endswith("logged")
    assert rest == ["{", "}"]
    assert "not printed" in result.tasks[0].log_file.read_text()
    assert "to stdout" in capsys.readouterr().out
""")


def test_the_callers_component_is_not_changed(run_tests):
    run_tests("""
@component
def add(a: int, b: Optional[int] = None) -> int:
    return a + (b or 0)


@dsl.pipeline
def adding(a: int, b: Optional[int] = None) -> int:
    return add(a=a, b=b).output


@pytest.mark.parametrize("what", [add, adding])
def test_it(kfp_local, what):
    before = what.pipeline_spec.SerializeToString(deterministic=True)
    assert kfp_local.run(what, a=1).output == 1
    assert what.pipeline_spec.SerializeToString(deterministic=True) == before
    assert kfp_local.run(what, a=1, b=2).output == 3
""")


def test_a_component_from_a_file_runs(run_tests):
    run_tests(
        COUNT
        + """
from kfp import compiler, components


def test_it(kfp_local, rows, tmp_path):
    compiler.Compiler().compile(count, str(tmp_path / "count.yaml"))
    loaded = components.load_component_from_file(str(tmp_path / "count.yaml"))
    assert kfp_local.run(loaded, rows=rows).outputs["Output"] == 2
"""
    )


@pytest.mark.parametrize(
    ("what", "error"),
    [("shell", "You are attempting to run a Container Component"), ("len", "run takes a component or a pipeline")],
)
def test_what_cannot_run_is_refused(run_tests, what, error):
    run_tests(f"""
@dsl.container_component
def shell():
    return dsl.ContainerSpec(image="alpine", command=["sh", "-c", "echo"])


def test_it(kfp_local):
    with pytest.raises((RuntimeError, TypeError), match={error!r}):
        kfp_local.run({what})
""")
