from pathlib import Path

import pytest
import yaml

from helpers.tiny_model import write_chat_rows
from kfp_osft.pipelines.cli import main
from kfp_osft.pipelines.local import before
from kfp_osft.shared.reporting.errors import InputError


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_chat_rows(tmp_path / "rows.jsonl", 200)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_dry_run_shows_everything_and_trains_nothing(rows, tiny_model, capsys):
    assert main(["run", "rows.jsonl", "--base-model", str(tiny_model), "--dry-run", "--output-dir", "out"]) == 0

    shown = capsys.readouterr().out
    for text in (
        "batch size 8, so that 200 rows make about 25 steps",
        "Rows: 200 read, 200 to train on",
        "Training: 25 steps of 8 samples in 1 epoch",
        "[[Yes, Nairobi is the capital of Kenya",
        "OSFT limits 100% of the weights",
        "Memory: about 1.8 GiB (",
        "Disk: about 404.8 KiB for 1 checkpoint, and ",
        "Time: about ",
        "Nothing was trained.",
    ):
        assert text in shown
    assert not list(Path("out").rglob("*.safetensors"))


def test_the_written_config_is_the_run(rows, tiny_model, capsys):
    main(["run", "rows.jsonl", "--base-model", str(tiny_model), "--epochs", "2", "--write-config", "c.yaml"])

    assert "train with: kfp-osft run c.yaml" in capsys.readouterr().out
    assert yaml.safe_load(Path("c.yaml").read_text()) == {
        "dataset": "rows.jsonl",
        "output_dir": "kfp-osft-output/run",
        "base_model": str(tiny_model),
        "num_epochs": 2,
        "effective_batch_size": 16,
        "learning_rate": 3e-5,
        "max_seq_len": 256,
        "max_tokens_per_gpu": 2048,
    }


def test_the_written_config_has_the_evaluation_and_is_read_with_it(rows, tiny_model, monkeypatch):
    command = ["run", "rows.jsonl", "--base-model", str(tiny_model), "--validation-split", "0.1", "--evaluate"]
    command += ["--gate", "--max-forgetting", "0.2", "--write-config", "c.yaml"]
    assert main(command) == 0
    written = yaml.safe_load(Path("c.yaml").read_text())
    assert {name: written[name] for name in ("evaluate", "gate", "max_forgetting")} == {
        "evaluate": True,
        "gate": True,
        "max_forgetting": 0.2,
    }

    evaluations = []

    def run_locally(*arguments):
        evaluations.append(arguments[-1])
        raise InputError("stopped")

    monkeypatch.setattr("kfp_osft.pipelines.local.run.run_locally", run_locally)
    main(["run", "c.yaml"])
    main(["run", "c.yaml", "--max-forgetting", "0.3", "--gate", "false"])
    main(["run", "c.yaml", "--evaluate", "false"])
    given = {"gate": True, "max_forgetting": 0.2}
    assert evaluations == [given, {"gate": False, "max_forgetting": 0.3}, None]


def test_parameters_of_an_evaluation_in_a_config_file_need_one(rows, capsys):
    Path("c.yaml").write_text("dataset: rows.jsonl\ngate: true\n")
    assert main(["run", "c.yaml"]) == 2
    assert capsys.readouterr().err == "kfp-osft run: c.yaml: gate needs --evaluate\n"


def test_without_a_base_model_it_is_the_demos_and_said(rows, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("kfp_osft.pipelines.command.run.example_model", lambda folder: tiny_model)
    main(["run", "rows.jsonl", "--write-config", "c.yaml"])

    assert "base model SmolLM2-135M-Instruct, the demo's small model, to try things out" in capsys.readouterr().out
    assert yaml.safe_load(Path("c.yaml").read_text())["base_model"] == str(tiny_model)


def test_a_repeated_run_gets_nothing_chosen(rows, tiny_model, tmp_path):
    sources = {"dataset_uri": str(rows), "dataset_split": "train", "validation_uri": "", "validation_uri_split": ""}
    given = {"training_base_model": str(tiny_model), "training_num_epochs": 2}
    assert before.plan_run(tmp_path / "out", sources, given, choose=False).training == given


@pytest.mark.parametrize("quiet", [False, True])
def test_what_fetching_says_is_shown_and_of_a_quiet_run_its_warnings(rows, tiny_model, tmp_path, capsys, quiet):
    sources = {"dataset_uri": str(rows), "dataset_split": "other", "validation_uri": "", "validation_uri_split": ""}
    before.plan_run(tmp_path / "out", sources, {"training_base_model": str(tiny_model)}, quiet=quiet)

    shown = capsys.readouterr().out
    assert "Warning: dataset_split=other is not used" in shown
    assert ("Dataset: 200 rows in" in shown) is not quiet


def test_what_preprocess_refuses_a_dry_run_refuses(rows, tiny_model, tmp_path):
    (tmp_path / "model").mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="has no weights"):
        before.dry_run(
            tmp_path / "out",
            before.PlannedRun({"training_base_model": str(tmp_path / "model")}, str(rows), ""),
        )
