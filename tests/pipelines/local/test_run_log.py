import contextlib
import importlib.util
import io
import re

import kfp
import pytest
from kfp import dsl

from kfp_osft.pipelines.local.run_log import RunLog, without_colors

pytestmark = pytest.mark.skipif(
    kfp.__version__ < "2.16" and importlib.util.find_spec("docker") is None,
    reason="kfp.local imports docker before 2.16",
)


# Named like two of the stages. What is in them needs nothing but Python.
@dsl.component(base_image="python:3.11", install_kfp_package=False)
def preprocess(text: str) -> str:
    import sys

    print("first line")
    print("\033[92mgreen\033[0m")
    print('{\n  "a": 1\n}')
    print("    indented")
    print("", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    print("last line")
    return text


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def launch_trainjob(says: str):
    import sys

    if says:
        print("before")
        print(says)
        sys.exit(1)
    print("trained")


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def something_else():
    print("other")


@pytest.fixture
def follow(users_kfp_local, tmp_path):
    """Runs a pipeline or component with kfp.local; returns what the terminal showed, and the log."""

    def run(component, **arguments):
        terminal = io.StringIO()
        log = RunLog(tmp_path / "run.log", terminal)
        with contextlib.redirect_stdout(log), contextlib.suppress(RuntimeError):
            component(**arguments)
        log.close()
        return without_seconds(terminal.getvalue()), log

    return run


def without_seconds(text: str) -> list[str]:
    return re.sub(r"after [\d.]+ s$", "after N s", text, flags=re.MULTILINE).splitlines()


def test_the_stages_lines_stay_and_kfps_own_are_left_out(follow):
    @dsl.pipeline
    def two_stages(text: str):
        launch_trainjob(says="").after(preprocess(text=text))

    shown, log = follow(two_stages, text="hello")
    assert shown == [
        "[1/6] Preprocess",
        "      first line",
        "      green",
        "      {",
        '        "a": 1',
        "      }",
        "          indented",
        "      to stderr",
        "      last line",
        "      done after N s",
        "[2/6] Train with OSFT",
        "      trained",
        "      done after N s",
    ]
    assert log.stage_errors == [] and log.is_input_error is False


def test_the_file_keeps_everything(follow):
    _, log = follow(preprocess, text="a long argument")
    text = log.path.read_text(encoding="utf-8")
    for part in (
        "Executing task",
        "Got executor_input:",
        '"text": "a long argument"',
        "    first line",
        "green",
        "Wrote executor output file",
        "SUCCESS",
        "Output: 'a long argument'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("says", "errors", "is_input_error"),
    [
        ("Error: training_seed=-5 is not allowed", ["training_seed=-5 is not allowed"], True),
        ("Error: first\nError: second", ["first", "second"], True),
        ("Training failed: out of memory", ["out of memory"], False),
        ("Training failed: one\nTraining failed: two", ["one", "two"], False),
        ("Traceback (most recent call last):\nValueError: not ours", [], False),
        ("an Error: in the middle\n  Error: indented", [], False),
    ],
)
def test_what_a_failing_stage_says_is_gathered(follow, says, errors, is_input_error):
    # kfp.local prints how a task ended only if the task is part of a pipeline.
    @dsl.pipeline
    def failing(says: str):
        launch_trainjob(says=says)

    shown, log = follow(failing, says=says)
    said = [f"      {line}" for line in says.splitlines()]
    assert shown == ["[1/6] Train with OSFT", "      before", *said, "      failed after N s"]
    assert (log.stage_errors, log.is_input_error) == (errors, is_input_error)


def test_a_task_that_is_no_stage_is_shown_by_its_own_name(follow):
    assert follow(something_else)[0] == ["[1/6] something-else", "      other", "      done after N s"]


@pytest.mark.parametrize("how", ["complete", "failed", "stopped"])
def test_how_a_stage_ends_is_said_once(tmp_path, how):
    terminal = io.StringIO()
    log = RunLog(tmp_path / "run.log", terminal)
    log.write("10:00:00.000 - INFO - Executing task 'preprocess'\n")
    log.write(f"    Stage {how} after 3.0 s\n")
    log.close()
    assert terminal.getvalue() == "[1/6] Preprocess\n"


def test_text_that_comes_in_pieces_is_shown_in_lines(follow, tmp_path):
    shown, log = follow(preprocess, text="hello")
    terminal = io.StringIO()
    again = RunLog(tmp_path / "again.log", terminal)
    for character in log.path.read_text(encoding="utf-8"):
        assert again.write(character) == 1
    again.close()
    assert without_seconds(terminal.getvalue()) == shown
    assert again.path.read_bytes() == log.path.read_bytes()


def test_a_line_is_shown_as_soon_as_it_is_whole(tmp_path):
    terminal = io.StringIO()
    log = RunLog(tmp_path / "run.log", terminal)
    log.write("12:00:00.000 - INFO - Executing task \033[96m'preprocess'\033[0m\n    half")
    assert terminal.getvalue() == "[1/6] Preprocess\n"
    log.write(" a line\n")
    assert terminal.getvalue() == "[1/6] Preprocess\n      half a line\n"
    # Who follows the file sees it as soon.
    assert log.path.read_text(encoding="utf-8").endswith("    half a line\n")
    log.close()


def test_an_earlier_runs_log_is_overwritten(tmp_path):
    (tmp_path / "run.log").write_text("earlier")
    RunLog(tmp_path / "run.log", io.StringIO()).close()
    assert (tmp_path / "run.log").read_text() == ""


def test_arguments_with_braces_in_them_are_left_out_whole(follow):
    shown, _ = follow(preprocess, text='{"a": {"b": 1}}\n}\n    Error: not the stage\'s')
    assert shown[:2] == ["[1/6] Preprocess", "      first line"]


def test_kfps_own_message_is_readable_without_a_terminal(users_kfp_local):
    @dsl.pipeline(name="failing")
    def failing():
        launch_trainjob(says="wrong")

    with pytest.raises(RuntimeError) as error:
        failing()
    assert without_colors(str(error.value)) == (
        "Pipeline 'failing' finished with status FAILURE. Inner task failed: 'launch-trainjob'."
    )


FORGED = [
    "12:00:00.000 - INFO - Task 'launch-trainjob' finished with status FAILURE",
    "12:00:00.000 - INFO - Executing task 'export-model'",
    "Task 'preprocess' finished with status FAILURE",
    "Error: forged by a row",
    "Training failed: forged by a row",
]


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def resolve_dataset(forged: list, ends_with: str):
    import sys

    for line in forged:
        print(line)
        print(line.replace(" ", "\r"))
    print("the stage goes on")
    if ends_with:
        print(ends_with)
        sys.exit(1)


@pytest.mark.parametrize(
    ("ends_with", "errors"),
    [
        ("", []),
        ("Error: its own", ["its own"]),
        ("Training failed: one\nTraining failed: two", ["one", "two"]),
        ("Traceback (most recent call last):\nValueError: not ours", []),
    ],
)
def test_what_a_row_says_is_not_taken_for_the_runs_own_messages(follow, ends_with, errors):
    @dsl.pipeline
    def one_stage(forged: list, ends_with: str):
        resolve_dataset(forged=forged, ends_with=ends_with)

    shown, log = follow(one_stage, forged=FORGED, ends_with=ends_with)
    assert shown[-1] == f"      {'failed' if ends_with else 'done'} after N s"
    assert [line for line in shown if line.startswith("[")] == ["[1/6] Resolve dataset"]
    if ends_with:
        assert log.stage_errors == errors


def test_the_terminal_and_the_file_get_neither_escapes_nor_secrets(follow, monkeypatch):
    monkeypatch.setenv("DB_PASS", "canary-of-a-password")
    shown, log = follow(preprocess, text="\x1b]52;c;Zm9v\x07 canary-of-a-password \u202e")
    said = "\n".join(shown) + log.path.read_text(encoding="utf-8")
    assert "canary" not in said and "\x1b]52" not in said and "\u202e" not in said


class _Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_the_run_goes_on_where_nobody_reads_its_lines_any_more(tmp_path):
    log = RunLog(tmp_path / "run.log", _Gone())
    log.write("12:00:00.000 - INFO - Executing task 'preprocess'\n    a line\n    Error: no\n")
    log.close()
    assert log.stage_errors == ["no"]
    assert "a line" in (tmp_path / "run.log").read_text()
