"""How a run is shown: on a real pseudo-terminal, and without one."""

import io
import re
import sys

import pytest

from helpers.terminal import Terminal
from kfp_osft.pipelines.local.progress import course
from kfp_osft.pipelines.local.run_log import RunLog


def stage(name: str, *lines: str, status: str = "SUCCESS") -> str:
    """What kfp.local prints of one."""
    said = "".join(f"    {line}\n" for line in lines)
    return (
        f"12:00:00.000 - INFO - Executing task \x1b[96m'{name}'\x1b[0m\n12:00:00.000 - INFO - Streamed logs:\n\n"
        f'    [KFP Executor INFO]: Got executor_input:\n    {{\n        "inputs": 1\n    }}\n{said}'
        f"12:00:01.000 - INFO - Task \x1b[96m'{name}'\x1b[0m finished with status \x1b[92m{status}\x1b[0m\n"
    )


def steps(last: int) -> list[str]:
    return [
        f"step {step}/24 | epoch {1 + (step - 1) // 8} | loss {4 - step / 10:.4f} | lr {1e-4 / step:.3g} | "
        f"{1200 + step} tokens/s | 1 min {24 - step} s left"
        for step in range(1, last + 1)
    ]


LONG_PATH = "/home/somebody/" + "folder/" * 12 + "rows.jsonl"
BEFORE = stage("resolve-dataset", f"Dataset: 32 rows in {LONG_PATH}, of which none was left out") + stage(
    "preprocess",
    "Warning: a row is odd",
    "Tokenized: 16 of 32 rows, 4 rows/s, 4 s left",
    "Rows: 32 read, 30 to train on",
    "Dropped: 2 longer than training_max_seq_len",
    "The first sample, between [[ and ]] what is learnt:",
    "[[Lima.]]",
    "Stage complete after 3.0 s",
)
DECOMPOSING = stage(
    "launch-trainjob", "Loading base model", "Decomposed 70 of 210 matrices, 1 min 20 s left before the first step"
).rpartition("12:00:01")[0]
# Its end is left out.
TRAINING = stage("launch-trainjob", "Loading base model", *steps(14)).rpartition("12:00:01")[0]
AFTER = stage("launch-trainjob", *steps(24)).rpartition("    step 24")[2].join(["    step 24", ""])
REST = (
    AFTER
    + stage("collect-metrics", "final_loss = 1")
    + stage("render-loss-chart")
    + stage("export-model", "x: used again")
)

STEP_14 = "1 min 10 s left"

PROGRAM = """
import sys, time
from pathlib import Path
from kfp_osft.pipelines.local.run_log import RunLog

folder, first, rest = Path(sys.argv[1]), *(Path(name).read_text() for name in sys.argv[2:4])
log = RunLog(folder / "run.log", sys.stdout, quiet="--quiet" in sys.argv)
try:
    log.write(first)
    print("to stderr", file=sys.stderr)
    while not (folder / "go").exists():
        time.sleep(0.05)
    log.write(rest)
except KeyboardInterrupt:
    log.close()
    sys.exit(130)
log.close()
print("The summary")
"""


@pytest.fixture
def shown(tmp_path):
    """Starts a run on a terminal that stops in the middle of the training; `go` lets it end."""

    def start(*options: str, first: str = BEFORE + TRAINING, rest: str = REST, **terminal) -> Terminal:
        (tmp_path / "first").write_text(first)
        (tmp_path / "rest").write_text(rest)
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            str(tmp_path),
            str(tmp_path / "first"),
            str(tmp_path / "rest"),
            *options,
        ]
        return Terminal(command, **terminal)

    return start


@pytest.fixture
def go(tmp_path):
    return (tmp_path / "go").touch


def test_the_terminal_shows_what_the_stages_print_their_states_and_the_course_of_the_training(shown, go):
    terminal = shown(rows=40)
    terminal.wait(lambda: STEP_14 in terminal.text)
    assert not terminal.cursor_is_shown
    seen = re.sub(r"\d+ s$", "N s", terminal.text, flags=re.MULTILINE).replace("to stderr\n", "")
    assert seen == "\n".join(
        [
            "Dataset: 32 rows in",
            LONG_PATH[:80],
            f"{LONG_PATH[80:]},",
            "of which none was left out",
            "Warning: a row is odd",
            "Rows: 32 read, 30 to train on",
            "Dropped: 2 longer than training_max_seq_len",
            "The first sample, between [[ and ]] what is learnt:",
            "[[Lima.]]",
            "Loading base model",
            "",
            "Resolve dataset    done                N s",
            "Preprocess         done                N s",
            "Train with OSFT    running             N s",
            "Collect metrics",
            "Render loss chart",
            "Export model",
            "",
            "━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━  step 14 of 24, epoch 2",
            "█▇▇▆▆▅▄▄▃▂▂▁   loss 2.600   rate 7.14e-06   1,214 tokens/s   1 min 10 s left",
        ]
    )
    go()
    terminal.wait()
    assert terminal.exit_code == 0 and terminal.cursor_is_shown
    assert [" ".join(line.split()[:-2]) for line in terminal.lines if line.endswith(" s")] == [
        "Resolve dataset done",
        "Preprocess done",
        "Train with OSFT done",
        "Collect metrics done",
        "Render loss chart done",
        "Export model used again",
    ]
    assert "step 24 of 24, epoch 3" in terminal.text and " s left" not in terminal.text
    assert terminal.lines[-1] == "The summary"
    assert "to stderr" in terminal.lines


def test_the_decomposition_before_the_first_step_has_a_bar_and_its_time_left(shown, go):
    terminal = shown(first=BEFORE + DECOMPOSING)
    terminal.wait(lambda: "Decomposed" in terminal.text)
    assert terminal.lines[-1] == "Decomposed 70 of 210 matrices, 1 min 20 s left before the first step"
    assert re.fullmatch("━+╺?━+", terminal.lines[-2].strip())
    go()
    terminal.wait()
    assert "Decomposed" not in terminal.text and "step 24 of 24" in terminal.text


def test_it_is_drawn_in_place_without_clearing_the_screen(shown, go):
    terminal = shown()
    terminal.wait(lambda: STEP_14 in terminal.text)
    go()
    terminal.wait()
    assert b"\x1b[2J" not in terminal.written and b"\x1b[?1049h" not in terminal.written
    assert terminal.text.count("Resolve dataset") == 1


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_it_fits_terminals_of_other_widths_and_cuts_no_words(shown, go, columns):
    terminal = shown(columns=columns, rows=50)
    terminal.wait(lambda: STEP_14 in terminal.text)
    shown_words = " ".join(terminal.lines[-5:])
    for words in ("step 14 of 24, epoch 2", "loss 2.600", "rate 7.14e-06", "1,214 tokens/s", "1 min 10 s left"):
        assert words in shown_words
    go()
    terminal.wait()
    # A line that is too long would be folded, and the next drawing leave a part of it.
    assert terminal.text.count("Resolve dataset") == terminal.text.count("rate ") == 1


def test_it_follows_a_terminal_that_is_made_wider(shown, go):
    terminal = shown(columns=60)
    terminal.wait(lambda: "1 min 10 s left" in terminal.lines[-1])
    assert "loss 2.600" not in terminal.lines[-1]
    terminal.resize(100, 24)
    terminal.wait(lambda: "loss 2.600   rate 7.14e-06   1,214 tokens/s   1 min 10 s left" in terminal.text)
    go()
    terminal.wait()
    assert terminal.text.count("Export model") == 1


def test_ctrl_c_leaves_a_clean_terminal_and_says_what_was_stopped(shown):
    terminal = shown()
    terminal.wait(lambda: STEP_14 in terminal.text)
    terminal.type(b"\x03")
    terminal.wait()
    assert terminal.exit_code == 130 and terminal.cursor_is_shown
    assert "Train with OSFT    stopped" in terminal.text and "Traceback" not in terminal.text
    assert terminal.text.count("Resolve dataset") == 1


def test_a_failed_stage_is_marked_and_its_error_stays(shown, go):
    failing = (
        "    Training failed: out of memory\n" + stage("launch-trainjob", status="FAILURE").rpartition("    }\n")[2]
    )
    terminal = shown(rest=failing)
    go()
    terminal.wait()
    assert "Train with OSFT    failed" in terminal.text
    assert "Training failed: out of memory" in terminal.lines


def test_no_color_is_respected(shown, go):
    go()
    colored, plain = shown(), shown(env={"NO_COLOR": "1"})
    for terminal in (colored, plain):
        terminal.wait()
    color = re.compile(rb"\x1b\[(?:[\d;]*;)?[34][0-8]")
    assert color.search(colored.written) and not color.search(plain.written)


@pytest.mark.parametrize(("options", "term"), [([], "dumb"), (["--quiet"], "dumb"), (["--quiet"], "xterm")])
def test_a_terminal_that_cannot_move_its_cursor_and_quiet_get_lines(shown, go, options, term):
    go()
    terminal = shown(*options, env={"TERM": term}, columns=120, rows=80)
    terminal.wait()
    assert b"\x1b[" not in terminal.written
    assert "[3/6] Train with OSFT" in terminal.lines
    assert ("      " + steps(1)[0] in terminal.lines) is not bool(options)
    assert terminal.lines[-2:] == ["      used again", "The summary"]


def test_quiet_shows_where_stages_begin_and_end_and_warnings(tmp_path):
    terminal = io.StringIO()
    log = RunLog(tmp_path / "run.log", terminal, quiet=True)
    log.write(BEFORE + TRAINING + REST)
    log.close()
    assert re.sub(r"after [\d.]+ s", "after N s", terminal.getvalue()).splitlines() == [
        "[1/6] Resolve dataset",
        "      done after N s",
        "[2/6] Preprocess",
        "      Warning: a row is odd",
        "      done after N s",
        "[3/6] Train with OSFT",
        "      done after N s",
        "[4/6] Collect metrics",
        "      done after N s",
        "[5/6] Render loss chart",
        "      done after N s",
        "[6/6] Export model",
        "      used again",
    ]


def test_what_the_stage_itself_says_of_its_end_is_not_said_twice(tmp_path):
    terminal = io.StringIO()
    log = RunLog(tmp_path / "run.log", terminal)
    log.write(BEFORE)
    log.close()
    assert (
        "Stage complete" not in terminal.getvalue() and "      Rows: 32 read, 30 to train on\n" in terminal.getvalue()
    )


@pytest.mark.parametrize(
    ("losses", "width", "text"),
    [
        ([], 8, ""),
        ([2.0], 8, "▁"),
        ([2.0, 2.0], 8, "▁▁"),
        ([8, 7, 6, 5, 4, 3, 2, 1], 8, "█▇▆▅▄▃▂▁"),
        ([8, 6, 4, 2, 1, 1], 3, "█▃▁"),
        ([2.0, float("nan"), 1.0], 8, "█ ▁"),
        ([float("nan"), float("inf")], 8, ""),
        (list(range(1000)), 20, None),
    ],
)
def test_the_course_of_the_loss_is_a_line_of_bars(losses, width, text):
    found = course(losses, width)
    assert found == text if text is not None else len(found) == width
