"""What is seen of a task that failed."""

import kfp
import pytest

pytest_plugins = ["pytester"]

KFP_VERSION = tuple(map(int, kfp.__version__.split(".")[:2]))

TRAINING = """
@component
def load(rows: int) -> int:
    print("loaded")
    return rows


@component
def train(rows: int) -> int:
    print("training")
    if rows == 0:
        raise ValueError("no rows")
    return rows


@dsl.pipeline
def inner(rows: int) -> int:
    return train(rows=load(rows=rows).output).output


@dsl.pipeline
def outer(rows: int = 0):
    load(rows=inner(rows=rows).output)


"""


def test_a_failed_task_fails_the_test_with_its_name_and_last_lines(run_tests):
    result = run_tests(
        TRAINING
        + """
def test_it(kfp_local):
    kfp_local.run(outer)
""",
        failed=1,
    )

    result.stdout.fnmatch_lines(
        [
            "> *kfp_local.run(outer)",
            "E *pytest_kfp_local.TaskFailed: task 'inner/train' failed with exit code 1: ValueError: no rows",
            "E *training",
            "E *Traceback (most recent call last):",
            "E *ValueError: no rows",
            "E *all that it printed: */test_it0/kfp-local/run-1/tasks/inner/train/*/log",
            "test_it.py:*: TaskFailed",
            "FAILED test_it.py::test_it - pytest_kfp_local.TaskFailed: task 'inn*",
        ]
    )
    result.stdout.no_fnmatch_line("*runner.py*")


def test_a_failure_can_be_what_the_test_is_about(run_tests):
    run_tests(
        TRAINING
        + """
def test_unchecked(kfp_local):
    result = kfp_local.run(outer, check=False)
    assert result.state == "FAILURE"
    assert result.error.startswith("task 'inner/train' failed with exit code 1: ValueError: no rows\\n")
    assert result.outputs == {}
    assert [(task.name, task.exit_code) for task in result.tasks] == [("inner/load", 0), ("inner/train", 1)]
    assert result.log.startswith("loaded\\ntraining\\nTraceback")


def test_raised(kfp_local):
    with pytest.raises(TaskFailed, match="no rows") as caught:
        kfp_local.run(train, rows=0)
    assert caught.value.result.state == "FAILURE"


def test_a_run_after_a_failed_one(kfp_local):
    kfp_local.run(train, rows=0, check=False)
    result = kfp_local.run(train, rows=1)
    assert (result.output, result.error, result.log) == (1, None, "training\\n")
"""
    )


@pytest.mark.parametrize(
    ("end", "message"),
    [("os.kill(os.getpid(), 9)", "exit code 137: *"), ("os._exit(3)", "exit code 3: (it printed nothing)")],
)
def test_a_task_that_dies_silently_has_its_exit_code(run_tests, end, message):
    run_tests(f"""
@component
def die():
    import os
    {end}


def test_it(kfp_local):
    from fnmatch import fnmatch
    assert fnmatch(kfp_local.run(die, check=False).error.splitlines()[0], "task 'die' failed with {message}")
""")


def test_a_long_log_is_shown_from_its_end(run_tests):
    run_tests("""
@component
def count():
    for number in range(1000):
        print("line", number)
    raise SystemExit(2)


def test_it(kfp_local):
    result = kfp_local.run(count, check=False)
    assert result.error.splitlines()[1:-1] == [f"  line {number}" for number in range(980, 1000)]
    assert len(result.log.splitlines()) == 1000
""")


@pytest.mark.skipif(KFP_VERSION < (2, 17), reason="kfp.local tries again since 2.17")
def test_a_task_that_is_tried_again_and_succeeds_is_no_failure(run_tests):
    run_tests("""
@component
def second_time(file: str) -> int:
    import os
    if not os.path.exists(file):
        open(file, "w").close()
        raise OSError("first time")
    return 2


@dsl.pipeline
def tries(file: str) -> int:
    return second_time(file=file).set_retry(1, backoff_duration="0s").output


def test_it(kfp_local, tmp_path):
    result = kfp_local.run(tries, file=tmp_path / "file")
    assert result.output == 2 and result.error is None
    assert [task.exit_code for task in result.tasks] == [1, 0]
""")
