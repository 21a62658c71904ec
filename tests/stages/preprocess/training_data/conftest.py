"""Fixtures of preprocess' tests: a dataset is written, and preprocessed for the tiny model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess import training_data
from kfp_osft.stages.preprocess.base_model import BaseModel
from kfp_osft.stages.preprocess.training_data import Preprocessed, preprocess_dataset


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def run(pvc: Path, tiny_model: Path) -> Callable[..., Preprocessed]:
    """Preprocesses a dataset for the tiny model; parameters without a prefix are those of training_."""

    def preprocess(dataset: Path, **parameters: object) -> Preprocessed:
        parameters = {"base_model": str(tiny_model), "max_seq_len": 256, **parameters}
        return preprocess_dataset(
            str(dataset),
            str(pvc),
            {name if name.startswith("dataset_") else f"training_{name}": value for name, value in parameters.items()},
        )

    return preprocess


@pytest.fixture
def error_of(run, pvc: Path) -> Callable[..., str]:
    """The error of a run that must fail and leave nothing that a rerun would trust."""

    def fail(dataset: Path, **parameters: object) -> str:
        with pytest.raises(InputError) as error:
            run(dataset, **parameters)
        left = [file for file in pvc.rglob("*") if file.is_file()] if pvc.is_dir() else []
        assert left == []
        return str(error.value)

    return fail


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows, or lists of messages, to a JSON Lines file."""

    def write(*rows: dict | list, name: str = "rows.jsonl") -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row if isinstance(row, dict) else {"messages": row}) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each run that tokenizes."""
    runs: list[str] = []
    load_tokenizer = training_data.load_tokenizer

    def load(base_model: BaseModel, trust_remote_code: bool) -> object:
        runs.append(base_model.name)
        return load_tokenizer(base_model, trust_remote_code)

    monkeypatch.setattr(training_data, "load_tokenizer", load)
    return runs
