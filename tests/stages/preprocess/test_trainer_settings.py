import pytest

from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess import trainer_settings
from kfp_osft.stages.preprocess.trainer_settings import check_trackers, check_validation, validation_arguments


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"training_validation_every": "epoch"}, "training_validation_every=epoch: there are no held-out rows"),
        ({"training_save_best": True}, "training_save_best=True: .* give training_validation_every"),
    ],
)
def test_what_a_validation_lacks_is_told_at_once(parameters: dict, told: str):
    with pytest.raises(InputError, match=told):
        check_validation(check_parameters(parameters), has_held_out=False)


@pytest.mark.parametrize(
    ("every", "arguments"),
    [
        ("epoch", {"validation_frequency": 4}),
        ("6", {"validation_frequency": 6}),
        # Not at the end by itself.
        ("5", {"validation_frequency": 5, "validate_at_final": True}),
    ],
)
def test_a_validation_is_after_so_many_steps_and_once_at_the_end(every: str, arguments: dict):
    planned = {"steps": 12, "epochs": 3}

    assert validation_arguments(every, "/v.jsonl", planned) == {"validation_data_path": "/v.jsonl", **arguments}


def test_a_validation_that_would_never_be_is_refused():
    with pytest.raises(InputError, match="training_validation_every=13: the training has only 12 steps"):
        validation_arguments("13", "/v.jsonl", {"steps": 12, "epochs": 3})


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(trainer_settings, "log", said.append)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("OSFT_LAUNCHER", raising=False)
    return said


def test_a_tracker_without_the_variable_that_starts_it_is_refused(lines: list[str]):
    with pytest.raises(InputError, match="training_report_to=wandb: the environment has no WANDB_PROJECT"):
        check_trackers(check_parameters({"training_report_to": "wandb"}))


@pytest.mark.parametrize("place", ["envs", "environment"])
def test_a_tracker_that_is_not_installed_is_refused_where_the_training_runs_here(
    lines: list[str], monkeypatch: pytest.MonkeyPatch, place: str
):
    monkeypatch.setattr(trainer_settings.importlib.util, "find_spec", lambda name: None)
    given = {"training_report_to": "wandb"}
    if place == "envs":
        given["training_envs"] = "WANDB_PROJECT=mine"
    else:
        monkeypatch.setenv("WANDB_PROJECT", "mine")

    check_trackers(check_parameters(given))
    assert lines == ["training_report_to=wandb: the image of the training must have the package wandb"]

    monkeypatch.setenv("OSFT_LAUNCHER", "local")
    with pytest.raises(InputError, match="training_report_to=wandb: the package wandb is not installed"):
        check_trackers(check_parameters(given))


def test_a_trackers_variable_without_the_tracker_is_told_to_have_no_effect(lines: list[str]):
    check_trackers(check_parameters({"training_envs": "WANDB_PROJECT=mine,NCCL_DEBUG=INFO"}))

    assert lines == [
        "Warning: training_envs: WANDB_PROJECT does not reach the training; it does with training_report_to=wandb"
    ]


def test_a_tracking_uri_without_mlflow_is_told_and_no_error(lines: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    monkeypatch.setattr(trainer_settings, "is_installed", lambda: False)

    check_trackers(check_parameters({}))

    assert lines[0].startswith("Warning: MLFLOW_TRACKING_URI is set, but MLflow is not installed here")
