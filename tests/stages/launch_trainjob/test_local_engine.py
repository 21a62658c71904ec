import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest

from helpers.tiny_model import make_tiny_model, write_chat_rows
from helpers.waiting import wait_until
from kfp_osft.shared.knowledge.coverage import coverage_of
from kfp_osft.shared.knowledge.kept_subspace import ModelChanges
from kfp_osft.shared.model.torchvision import hide_broken_torchvision
from kfp_osft.shared.reporting.errors import TrainingError
from kfp_osft.shared.training.steps import TrainingStep
from kfp_osft.stages.launch_trainjob import local_engine
from kfp_osft.stages.launch_trainjob.local_engine import train_locally
from kfp_osft.stages.launch_trainjob.train_text import train_text

RATIO = 0.5
ARGS = {"osft": {"num_epochs": 2}, "device": "cpu"}


@pytest.fixture(autouse=True)
def _temporary_files_go_with_the_test(monkeypatch, tmp_path):
    """A process that a test kills leaves its temporary folder behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def lines(monkeypatch):
    """What train_locally logs."""
    logged = []
    monkeypatch.setattr(local_engine, "log", logged.append)
    return logged


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Puts a short script in the place of the training script."""

    def put(source: str) -> Path:
        path = tmp_path / "stand_in.py"
        path.write_text(source)
        monkeypatch.setattr(local_engine, "train_text", lambda: path.read_text())
        return path

    return put


def test_a_training_that_succeeds_returns_and_adds_its_whole_output_to_the_log(script, lines, tmp_path):
    script("print('kfp-osft: hello'); print('chatter')")
    log_path = tmp_path / "logs" / "run.log"
    for _ in range(2):
        train_locally(ARGS, {}, log_path)
    assert lines == ["hello"] * 2
    assert log_path.read_text() == "kfp-osft: hello\nchatter\n" * 2


def test_the_script_gets_its_arguments_and_the_environment(script, lines, tmp_path):
    script(
        "import base64, os\n"
        "print('kfp-osft: ' + base64.b64decode(os.environ['OSFT_TRAIN_ARGS']).decode())\n"
        "print('kfp-osft: ' + os.environ['EXTRA'])"
    )
    train_locally(ARGS, {"EXTRA": "given"}, tmp_path / "run.log")
    assert [json.loads(lines[0]), lines[1]] == [ARGS, "given"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys; sys.exit('kfp-osft: no checkpoint')", ["exit code 1", "  no checkpoint"]),
        ("raise TypeError('no such parameter')", ["exit code 1", "  TypeError: no such parameter"]),
        ("import os; print('last', flush=True); os.kill(os.getpid(), 9)", ["SIGKILL", "memory", "  last"]),
    ],
)
def test_a_failed_training_raises_with_its_exit_code_and_last_lines(script, lines, tmp_path, source, told):
    script(source)
    with pytest.raises(TrainingError) as error:
        train_locally(ARGS, {}, tmp_path / "run.log")
    assert all(part in str(error.value) for part in [*told, str(tmp_path / "run.log")])


def test_secrets_are_redacted_everywhere(script, lines, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "key-of-this-process")
    script("import os; print('kfp-osft:', dict(os.environ)); raise ValueError(os.environ['HF_TOKEN'])")
    with pytest.raises(TrainingError) as error:
        train_locally(ARGS, {"HF_TOKEN": "hf_very_secret", "HF_HOME": "/somewhere"}, tmp_path / "run.log")
    everything = "\n".join([*lines, str(error.value), (tmp_path / "run.log").read_text()])
    assert "/somewhere" in everything and "ValueError: ***" in everything
    assert "hf_very_secret" not in everything and "key-of-this-process" not in everything


# As torchrun does: a child in a session of its own, which outlives its parent.
STARTS_CHILD = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
pathlib.Path({pids!r} + ".part").write_text(f"{{os.getpid()}} {{child.pid}}")
os.rename({pids!r} + ".part", {pids!r})
print("kfp-osft: started", flush=True)
time.sleep(120)
"""
PARENT = """
import sys
from pathlib import Path
from kfp_osft.stages.launch_trainjob import local_engine
local_engine.train_text = lambda: Path(sys.argv[1]).read_text()
local_engine.train_locally({"osft": {}, "device": "cpu"}, {}, Path(sys.argv[1] + ".log"))
"""


def alive(pids) -> set[int]:
    table = psutil.process_iter(["status"])
    return {process.pid for process in table if process.info["status"] != psutil.STATUS_ZOMBIE} & set(pids)


def with_descendants(parent: subprocess.Popen) -> set[int]:
    return {parent.pid, *(process.pid for process in psutil.Process(parent.pid).children(recursive=True))}


@pytest.fixture
def pids_file(tmp_path):
    """Where the script writes its processes; ends them if the test fails."""
    path = tmp_path / "pids"
    yield path
    for pid in alive({int(pid) for pid in path.read_text().split()} if path.exists() else ()):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_when_this_process_is_ended_no_process_of_the_training_is_left(script, tmp_path, pids_file, kind):
    path = script(STARTS_CHILD.format(pids=str(pids_file)))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(path)], stderr=subprocess.DEVNULL)
    wait_until(pids_file.exists)
    pids = with_descendants(parent)
    assert pids > {int(pid) for pid in pids_file.read_text().split()}
    assert len(pids) == 4 and alive(pids) == pids  # this process, the watchdog, the script, its child
    parent.send_signal(kind)
    parent.wait()
    wait_until(lambda: not alive(pids))


def test_when_following_it_fails_no_process_of_the_training_is_left(script, tmp_path, pids_file, monkeypatch):
    script(STARTS_CHILD.format(pids=str(pids_file)))
    monkeypatch.setattr(local_engine, "log", mock.Mock(side_effect=BrokenPipeError))
    started = time.monotonic()
    with pytest.raises(BrokenPipeError):
        train_locally(ARGS, {}, tmp_path / "run.log")
    assert time.monotonic() - started < 60  # the children sleep longer
    assert not alive({int(pid) for pid in pids_file.read_text().split()})


def test_when_the_script_alone_is_killed_its_children_are_ended_and_it_counts_as_failed(
    script, tmp_path, pids_file, monkeypatch
):
    def kill_script(line):
        time.sleep(2)
        os.kill(int(pids_file.read_text().split()[0]), signal.SIGKILL)

    script(STARTS_CHILD.format(pids=str(pids_file)))
    monkeypatch.setattr(local_engine, "log", kill_script)
    started = time.monotonic()
    with pytest.raises(TrainingError, match="SIGKILL"):
        train_locally(ARGS, {}, tmp_path / "run.log")
    assert time.monotonic() - started < 60  # the children sleep longer
    assert not alive({int(pid) for pid in pids_file.read_text().split()})


# From here on mini-trainer trains, on the CPU.


class Trained:
    """A training that has ended: the model before and after, what was logged, the metrics of its steps."""

    def __init__(self, base: Path, folder: Path, **osft) -> None:
        self.base, self.data, self.lines = base, folder / "data" / "data.jsonl", []
        self.kinds = coverage_of(str(base)).kinds
        self.args = {
            "model_path": str(base),
            "data_output_dir": str(folder / "data"),
            "ckpt_output_dir": str(folder / "checkpoints"),
            "unfreeze_rank_ratio": RATIO,
            "effective_batch_size": 8,
            "max_tokens_per_gpu": 300,
            "max_seq_len": 128,
            "learning_rate": 5e-3,
            "lr_scheduler": "cosine",
            "num_epochs": 4,
            "seed": 1,
            **osft,
        }
        with mock.patch.object(local_engine, "log", self.lines.append):
            train_locally({"osft": self.args, "device": "cpu"}, {}, folder / "run.log")
        (self.checkpoint,) = (folder / "checkpoints" / "hf_format").iterdir()
        metrics = (folder / "checkpoints" / "training_metrics_0.jsonl").read_text().splitlines()
        self.steps = [json.loads(line) for line in metrics]

    def leaks(self) -> dict[str, float]:
        return {change.name: change.share for change in ModelChanges(self.base, self.checkpoint, RATIO, self.kinds)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Tied embeddings, rows of messages, one process."""
    folder = tmp_path_factory.mktemp("trained")
    base = make_tiny_model(folder / "base")
    return Trained(base, folder, data_path=str(write_chat_rows(folder / "rows.jsonl")), use_liger=True)


@pytest.fixture(scope="module")
def trained_by_two(trained, tmp_path_factory):
    """Untied embeddings, tokenized rows, two processes; every step takes all rows."""
    folder = tmp_path_factory.mktemp("two")
    base = make_tiny_model(folder / "base", tied=False)
    model = load_model(base)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            # A fresh model's attention is flat: rows that saw each other would not show in its loss.
            parameter.data.mul_(5)
    model.save_pretrained(base)
    processed = {"data_path": str(trained.data), "use_processed_dataset": True, "effective_batch_size": 32}
    return Trained(base, folder, nproc_per_node=2, **processed)


def load_model(folder: Path):
    hide_broken_torchvision()
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def generate(folder: Path) -> str:
    """The model's answer to the first question of the data."""
    from transformers import AutoTokenizer

    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of Japan?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
    return tokenizer.decode(tokens[inputs["input_ids"].shape[1] :])


def loss_of_each_row_alone(model_folder: Path, data: Path) -> float:
    import torch

    model, total, count = load_model(model_folder), 0.0, 0
    for row in map(json.loads, data.read_text().splitlines()):
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    return total / count


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained", "trained_by_two"])
def test_the_loss_falls(name, request):
    losses = [step["loss"] for step in request.getfixturevalue(name).steps]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
def test_a_person_reads_a_line_a_step_but_not_two_in_a_second_and_few_others(trained):
    steps = [step for line in trained.lines if (step := TrainingStep.parse(line))]
    numbers = [step.step for step in steps]
    assert numbers[0] == 1 and numbers[-1] == 16 and numbers == sorted(set(numbers))
    assert {step.total for step in steps} == {16}
    losses = {step["step"]: step["loss"] for step in trained.steps}
    assert all(step.loss == pytest.approx(losses[step.step], abs=1e-4) for step in steps)
    assert any(line.startswith("training on the CPU, processes: 1") for line in trained.lines)
    assert any(line.startswith("Liger kernels need a GPU") for line in trained.lines)
    assert len(trained.lines) - len(steps) < 15


@pytest.mark.slow
def test_packed_rows_and_two_processes_give_the_loss_that_each_row_has_alone(trained_by_two, trained):
    # Rows are packed into sequences and split among the processes. bfloat16 moves the loss by less than 0.01;
    # rows that see their neighbours move it by 0.1.
    expected = loss_of_each_row_alone(trained_by_two.base, trained.data)
    assert trained_by_two.steps[0]["loss"] == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained", "trained_by_two"])
def test_all_projections_change_and_none_inside_the_kept_subspace(name, request):
    leaks = request.getfixturevalue(name).leaks()
    assert len(leaks) == 14
    assert all(0 < leak < 0.01 for leak in leaks.values()), leaks


@pytest.mark.slow
def test_plain_fine_tuning_changes_the_kept_subspace(trained, tmp_path, monkeypatch):
    """What the test above would see if OSFT did not work: the same training with osft=False."""
    source = train_text()
    call = "    check_keywords(training_hub.osft, osft_args)\n"
    assert call in source
    monkeypatch.setattr(local_engine, "train_text", lambda: source.replace(call, ""))
    processed = {"data_path": str(trained.data), "use_processed_dataset": True}
    plain = Trained(trained.base, tmp_path, osft=False, **processed)
    assert min(plain.leaks().values()) > 0.3


@pytest.mark.slow
def test_tied_embeddings_are_tied_in_the_saved_model(trained):
    model = load_model(trained.checkpoint)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.lm_head.weight.equal(load_model(trained.base).lm_head.weight)


@pytest.mark.slow
def test_untied_embeddings_are_two_in_the_saved_model(trained_by_two):
    model, base = load_model(trained_by_two.checkpoint), load_model(trained_by_two.base)
    assert not model.config.tie_word_embeddings
    for after, before in ((model.lm_head, base.lm_head), (model.model.embed_tokens, base.model.embed_tokens)):
        assert not after.weight.equal(before.weight)
    assert not model.lm_head.weight.equal(model.model.embed_tokens.weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained", "trained_by_two"])
def test_the_saved_model_answers_otherwise_than_before(name, request):
    training = request.getfixturevalue(name)
    assert generate(training.checkpoint) != generate(training.base)


@pytest.mark.slow
def test_a_training_that_fails_in_a_worker_tells_the_workers_exception(trained, tmp_path):
    with pytest.raises(TrainingError) as error:
        Trained(trained.base, tmp_path, data_path=str(tmp_path / "nowhere.jsonl"), use_processed_dataset=True)
    *_, last_words, log_place = str(error.value).splitlines()
    assert last_words.strip().startswith("FileNotFoundError") and "nowhere.jsonl" in last_words
    assert log_place == f"Full output: {tmp_path / 'run.log'}"


@pytest.mark.slow
def test_when_this_process_is_killed_torchrun_and_its_workers_end(trained, tmp_path):
    args = {**trained.args, "ckpt_output_dir": str(tmp_path / "checkpoints"), "num_epochs": 1000}
    args.update(data_path=str(trained.data), use_processed_dataset=True)
    code = (
        "import json, pathlib, sys\n"
        "from kfp_osft.stages.launch_trainjob.local_engine import train_locally\n"
        "train_locally({'osft': json.loads(sys.argv[1]), 'device': 'cpu'}, {}, pathlib.Path(sys.argv[2]))\n"
    )
    log_path = tmp_path / "run.log"
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(args), str(log_path)], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: log_path.exists() and '"step"' in log_path.read_text(), seconds=120)
        pids = with_descendants(parent)
        assert len(pids) >= 5  # this process, the watchdog, the script, torchrun, the worker
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(pids))
