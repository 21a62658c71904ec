from pathlib import Path

import pytest
import yaml

from kfp_osft.pipelines.cli import main
from kfp_osft.pipelines.command.config_file import read_config, write_config
from kfp_osft.pipelines.local.before import PlannedRun
from kfp_osft.shared.reporting.errors import InputError, TrainingError

CONFIG = """\
dataset: org/rows
base_model: org/model
epochs: 2
learning-rate: 1e-4
training_seed: 7
use_liger: true
lr_scheduler_kwargs: {num_cycles: 2}
target_patterns: [q_proj, v_proj]
validation_split: 0
resource_cpu_per_worker: 4
output_dir: out
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def started(monkeypatch):
    """Takes the place of the local run; returns the positional arguments of the calls."""
    calls = []

    def run_locally(*arguments):
        calls.append(arguments)
        raise TrainingError("stopped")

    monkeypatch.setattr("kfp_osft.pipelines.local.run.run_locally", run_locally)
    monkeypatch.setattr("kfp_osft.pipelines.command.run.check_reachable", lambda rows, training: None)
    monkeypatch.setattr(
        "kfp_osft.pipelines.local.before.plan_run",
        lambda output_dir, rows, given, example_model, choose, quiet: PlannedRun(dict(given), rows["dataset_uri"], ""),
    )
    return calls


def test_keys_are_options_or_parameters_and_values_get_their_types(config):
    settings, _ = read_config(config)

    assert settings == {
        "dataset_uri": "org/rows",
        "training_base_model": "org/model",
        "training_num_epochs": 2,
        "training_learning_rate": 1e-4,
        "training_seed": 7,
        "training_use_liger": True,
        "training_lr_scheduler_kwargs": "num_cycles=2",
        "training_target_patterns": "q_proj,v_proj",
        "training_validation_split": 0.0,
        "training_resource_cpu_per_worker": "4",
        "output_dir": "out",
    }


def test_the_command_trains_by_it_and_options_win(config, started):
    main(["run", str(config), "--lr", "3e-5", "--output-dir", "other"])

    output_dir, dataset, split, training, *_ = started[0]
    assert (str(output_dir), dataset, split) == ("other", "org/rows", "train")
    assert (training["training_learning_rate"], training["training_num_epochs"]) == (3e-5, 2)


def test_a_dataset_beside_it_wins(config, started):
    main(["run", str(config), "org/others"])
    assert started[0][1] == "org/others"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("epoch: 2", r"config\.yaml: epoch is not a setting; did you mean num_epochs\?"),
        ("learning_rat: 2", r"config\.yaml: learning_rat is not a setting; did you mean learning_rate\?"),
        ("nonsense: 2", r"config\.yaml: nonsense is not a setting$"),
        ("epochs: 2\nnum_epochs: 3", r"config\.yaml: epochs and num_epochs are the same setting"),
        ("epochs: two", r"config\.yaml: epochs='two': not an integer"),
        ("epochs: true", r"config\.yaml: epochs=True: not an integer"),
        ("use_liger: 1", r"config\.yaml: use_liger=1: not true or false"),
        ("lr: [1]", r"config\.yaml: lr=\[1\]: not a number"),
        ("- epochs", r"must map names to values"),
        ("a: b: c", r"is not valid YAML in line 1"),
        ("epochs: 2\nepochs: 3", r"config\.yaml: epochs stands twice, in lines 1 and 2"),
        ("epochs: .inf", r"config\.yaml: epochs=inf: not an integer"),
        ("evaluate: perhaps", r"config\.yaml: evaluate='perhaps': not true or false"),
    ],
)
def test_what_it_may_not_hold_is_named(config, text, problem):
    config.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_config(config)


def test_all_problems_are_reported_at_once(config):
    config.write_text("epochz: 2\nuse_liger: maybe\n")
    with pytest.raises(InputError) as error:
        read_config(config)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "problem"), [("epochs: 0", "epochs=0 is not allowed"), (f"lr: 1{400 * '0'}", "lr=inf is not allowed")]
)
def test_a_value_that_is_not_allowed_is_named_as_in_the_file(config, capsys, text, problem):
    config.write_text(f"dataset: org/rows\n{text}\n")
    assert main(["run", str(config)]) == 2
    assert capsys.readouterr().err.startswith(f"kfp-osft run: config.yaml: {problem}")


def test_what_is_written_is_read_again(config, tmp_path):
    settings, _ = read_config(config)
    write_config(tmp_path / "new" / "again.yaml", settings)

    assert read_config(tmp_path / "new" / "again.yaml")[0] == settings
    written = yaml.safe_load((tmp_path / "new" / "again.yaml").read_text())
    assert list(written)[:3] == ["dataset", "base_model", "num_epochs"]


def test_nothing_secret_is_written(tmp_path):
    address = "https://example.com/rows.jsonl?X-Amz-Signature=0123456789abcdef"
    with pytest.raises(InputError, match="--dataset has a password or signature in it"):
        write_config(tmp_path / "config.yaml", {"dataset_uri": address})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--write-config=.*file/config\.yaml cannot be written"):
        write_config(tmp_path / "file" / "config.yaml", {"dataset_uri": "org/rows"})
