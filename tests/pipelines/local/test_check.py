"""kfp-osft check: what it takes, what it says."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from fakes.hub import HubServer
from helpers.tiny_model import change_weights
from kfp_osft.pipelines import cli


@pytest.fixture
def tuned(tiny_model, tmp_path):
    """A model of which all weights changed, without limits."""
    folder = tmp_path / "tuned"
    shutil.copytree(tiny_model, folder)
    change_weights(folder)
    return folder


def test_it_prints_matrices_and_a_verdict_and_ends_well_whatever_that_is(tiny_model, tuned, capsys):
    code = cli.main(["check", str(tiny_model), str(tuned), "--unfreeze-rank-ratio", "0.25", "--matrices", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert len(lines) == 6 and lines[-1].startswith("Leaked: up to ")
    assert lines[-1].endswith("looked at 3 of 14 limited matrices.")


def test_the_ratio_is_the_one_of_the_tuned_models_run_where_it_is_not_given(tiny_model, tuned, capsys):
    (tuned / "osft_run.json").write_text(json.dumps({"osft": {"unfreeze_rank_ratio": 0.5}, "about": {}}))
    assert cli.main(["check", str(tiny_model), str(tuned), "--matrices", "1"]) == 0
    assert "(without OSFT about 71%)" in capsys.readouterr().out


def test_the_matrices_may_be_named(tiny_model, tuned, capsys):
    assert (
        cli.main(
            [
                "check",
                str(tiny_model),
                str(tuned),
                "--unfreeze-rank-ratio",
                "0.25",
                "--target-patterns",
                "q_proj, up_proj",
            ]
        )
        == 0
    )
    assert "looked at 4 of 4 limited matrices; changed without limit, by up to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "--unfreeze-rank-ratio: no osft_run.json in {tuned} has it; give the ratio of the training"),
        (["--unfreeze-rank-ratio", "25"], "--unfreeze-rank-ratio=25 is not allowed; allowed: a number from 0 to 1"),
        (["--matrices", "0"], "--matrices=0 is not allowed; allowed: an integer of at least 1"),
        (["--max-minutes", "nan"], "--max-minutes=nan is not allowed; allowed: a number above 0"),
        (
            ["--unfreeze-rank-ratio", "0.25", "--target-patterns", "c_attn"],
            "training_target_patterns: c_attn matches no weight matrix of",
        ),
    ],
)
def test_bad_options_are_reported_in_one_line(tiny_model, tuned, capsys, options, problem):
    assert cli.main(["check", str(tiny_model), str(tuned), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kfp-osft check: ") and problem.format(tuned=tuned) in line


@pytest.mark.parametrize("model", ["/no/model", "./model", "not a model id"])
def test_a_model_that_is_not_there_is_named(tuned, capsys, model):
    assert cli.main(["check", model, str(tuned), "--unfreeze-rank-ratio", "0.25"]) == 2
    assert f"kfp-osft check: BASE={model}: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_of_the_hub_is_fetched_without_what_other_libraries_read(tiny_model, tuned, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    more = {"original/model.safetensors": b"other", "consolidated.safetensors": b"other", "pytorch_model.bin": b"other"}
    with HubServer() as hub:
        hub.commit("org/model", {**files, **more}, kind="models")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "kfp_osft.pipelines.cli",
                "check",
                "org/model",
                str(tuned),
                "--unfreeze-rank-ratio",
                "0.25",
                "--matrices",
                "1",
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
        )
        fetched = [request for request in hub.requests if "/resolve/" in request]
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Leaked: ")
    assert any("model.safetensors" in request for request in fetched)
    assert not [request for request in fetched if any(name in request for name in more)]
