"""Bad input of every kind: one sentence that names it, no other exception, nothing half left behind."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.question_rows import jsonl
from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.collect_metrics.collection import collect
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.launch_trainjob.launch import launch
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
from kfp_osft.stages.render_loss_chart.rendering import render
from kfp_osft.stages.resolve_dataset import http
from kfp_osft.stages.resolve_dataset.source import resolve

ROW = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "That is why. " * 10}]}


def artifact(path: Path, **metadata: object) -> Any:
    return SimpleNamespace(path=str(path), uri=str(path), metadata=metadata, log_metric=lambda name, value: None)


# Sources: the address, with {tmp} for a folder that has in it what FILES says.
FILES: dict[str, bytes] = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n",
    "cut.jsonl": b'{"messages": [',
    "list.jsonl": b"[1, 2]\n",
    "number.jsonl": b"1\n",
    "text.jsonl": b"no json\n",
    "binary.jsonl": bytes(range(256)) * 8,
    "utf16.jsonl": '{"a": 1}\n'.encode("utf-16"),
    "cut.json": b'[{"a": 1}, ',
    "empty.json": b"[]",
    "scalar.json": b"3",
    "not.parquet": b"PAR1 and no more",
    "not.arrow": b"ARROW1 and no more",
    "not.gz.jsonl.gz": b"not compressed by gzip",
    "cut.jsonl.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01",
    "cut.jsonl.zst": b"\x28\xb5\x2f\xfd\x00",
    "header.csv": b"a,b\n",
    "ragged.csv": b'a,b\n1,2,3\n"open',
    "rows.txt": b"text\n",
    "rows.pickle": b"\x80\x04N.",
    "nothing/README.md": b"no data\n",
    "saved/dataset_info.json": b"{}",
    "saved/state.json": b'{"_data_files": [{"filename": "gone.arrow"}]}',
    "saved/data.arrow": b"ARROW1",
    "outside/state.json": b'{"_data_files": [{"filename": "../../rows.jsonl"}]}',
    "outside/data.arrow": b"ARROW1",
    "splits/dataset_dict.json": b'{"splits": ["train", "../.."]}',
    "broken/dataset_dict.json": b"{",
    "two/train.jsonl": jsonl("a"),
    "two/test.jsonl": jsonl("b"),
}
SOURCES = [
    *(f"{{tmp}}/{name}" for name in FILES if "/" not in name),
    *(f"{{tmp}}/{name}" for name in ("nothing", "saved", "outside", "splits", "broken")),
    "",
    " ",
    "{tmp}/no.jsonl",
    "{tmp}/no folder",
    "pvc://../../etc",
    "pvc://no.jsonl",
    "file://{tmp}/no.jsonl",
    "ftp://host/rows.jsonl",
    "gs://bucket/rows.jsonl",
    "hf://",
    "hf://a/b/c/d/e",
    "org/na me",
    "a/b/c/d",
    "https://",
    "http://127.0.0.1:1/rows.jsonl",
    "http://[::1/rows.jsonl",
    "s3://",
    "s3://user:password@bucket/rows.jsonl",
    "~nobody-has-this-name/rows.jsonl",
]

PARAMETERS: list[dict[str, object]] = [
    {"base_model": "{tmp}/no"},
    {"base_model": "{tmp}/nothing"},
    {"base_model": "{tmp}/rows.txt"},
    {"base_model": ""},
    {"base_model": "oci://"},
    {"base_model": "oci://127.0.0.1:1/model:latest"},
    {"unfreeze_rank_ratio": 2.0},
    {"unfreeze_rank_ratio": float("nan")},
    {"effective_batch_size": 0},
    {"effective_batch_size": -1},
    {"max_tokens_per_gpu": 0},
    {"max_seq_len": 1},
    {"learning_rate": 0.0},
    {"learning_rate": float("inf")},
    {"num_epochs": 0},
    {"seed": -2},
    {"lr_scheduler": "zigzag"},
    {"lr_scheduler_kwargs": "a"},
    {"target_patterns": "no_such_matrix"},
    {"envs": "no value"},
    {"envs": "HF_TOKEN=x"},
    {"metadata_labels": "=x"},
    {"no_such_parameter": 1},
    {"validation_split": 1.0},
    {"validation_split": -0.5},
    {"max_dropped_share": 2.0},
    {"resource_num_workers": 0},
    {"data_output_dir": "{tmp}/rows.txt"},
    {"data_output_dir": "{model}"},
    {"min_osft_share": 7.0},
]

ROWS: list[object] = [
    {},
    {"a": 1},
    {"messages": []},
    {"messages": "text"},
    {"messages": [1]},
    {"messages": [{}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": "a question without an answer"}]},
    {"messages": [{"role": 1, "content": "x"}, ROW["messages"][1]]},
    {"messages": [{"role": "user", "content": {"a": 1}}, ROW["messages"][1]]},
    {"messages": None},
    {"input_ids": [1, 2]},
    {"prompt": "x"},
    {"prompt": "x", "completion": None},
    {"instruction": "x"},
    {"conversations": [{"from": "who", "value": "x"}]},
]

MODELS: dict[str, Callable[[Path], object]] = {
    "no config": lambda model: (model / "config.json").unlink(),
    "a config that is cut": lambda model: os.truncate(model / "config.json", 30),
    "a config of no model": lambda model: (model / "config.json").write_text("{}"),
    "a config that is a list": lambda model: (model / "config.json").write_text("[]"),
    "an unknown kind": lambda model: (model / "config.json").write_text('{"model_type": "nothing-of-this-kind"}'),
    "no weights": lambda model: (model / "model.safetensors").unlink(),
    "weights that are cut": lambda model: os.truncate(model / "model.safetensors", 1000),
    "empty weights": lambda model: os.truncate(model / "model.safetensors", 0),
    "a broken index": lambda model: (model / "model.safetensors.index.json").write_text("{"),
    "a shard missing": lambda model: (model / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    ),
    "no tokenizer": lambda model: [file.unlink() for file in model.glob("tokenizer*")],
    "a tokenizer that is cut": lambda model: os.truncate(model / "tokenizer.json", 100),
    "a template that is cut": lambda model: (model / "chat_template.jinja").write_text("{% for message in"),
    "no template": lambda model: (model / "chat_template.jinja").unlink(),
}

CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "no checkpoints": lambda folder: shutil.rmtree(folder / "hf_format"),
    "weights that are cut": lambda folder: os.truncate(_checkpoint(folder) / "model.safetensors", 500),
    "no weights": lambda folder: (_checkpoint(folder) / "model.safetensors").unlink(),
    "a config that is cut": lambda folder: os.truncate(_checkpoint(folder) / "config.json", 10),
    "no tokenizer": lambda folder: (_checkpoint(folder) / "tokenizer.json").unlink(),
    "a run file that is cut": lambda folder: os.truncate(folder / "osft_run.json", 40),
    "a run file that is a list": lambda folder: (folder / "osft_run.json").write_text("[]"),
}

METRICS: dict[str, bytes | None] = {
    "no step": b"",
    "no file": None,
    "no JSON": b"step 1\n",
    "a list": b"[1]\n",
    "no loss": b'{"step": 1}\n',
    "losses that are never a number": b'{"step": 1, "loss": NaN, "total_samples_accumulated": 8}\n' * 2,
}

CONFIGS = ["", "{", "[]", "null", "{}", '{"fingerprint": "x"}', "1"]


def _checkpoint(folder: Path) -> Path:
    return folder / "hf_format" / "samples_64.0"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with FILES."""
    for name, content in FILES.items():
        file = tmp_path / "given" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "given"


@pytest.fixture
def refused(tmp_path: Path, count: Callable) -> Callable:
    """Runs a stage that must refuse its input, with one sentence, and leave nothing that is half done."""

    def run(stage: Callable, *arguments: object, left: tuple[str, ...] = ()) -> str:
        try:
            stage(*arguments)
        except (InputError, TrainingError) as error:
            message = str(error)
        except BaseException:
            count("bad inputs", refused=0, tracebacks=1)
            raise
        else:
            count("bad inputs", accepted=1)
            pytest.fail("it was accepted")
        count("bad inputs", refused=1, tracebacks=0)
        assert message.strip() and "Traceback" not in message and "\x1b" not in message
        assert "password" not in message
        unfinished = [
            str(file.relative_to(tmp_path))
            for file in tmp_path.rglob("*")
            if file.name.endswith((".unfinished", ".previous")) or file.name in ("data.jsonl", "validation.jsonl")
        ]
        assert unfinished == [*left]
        return message

    return run


@pytest.mark.slow
@pytest.mark.parametrize("uri", SOURCES)
def test_a_dataset_that_cannot_be_used(uri: str, given: Path, refused: Callable, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.01)
    monkeypatch.delenv("AWS_S3_BUCKET", raising=False)

    refused(resolve, uri.format(tmp=given), "train", str(tmp_path / "pvc"), None)

    assert not [file for file in (tmp_path / "pvc").rglob("*") if file.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["no", "../..", "train[:10%]"])
def test_a_split_that_there_is_not(split: str, given: Path, refused: Callable, tmp_path: Path):
    assert "dataset_split=" in refused(resolve, str(given / "two"), split, str(tmp_path / "pvc"), None)


@pytest.mark.slow
@pytest.mark.parametrize("metadata", [{}, {"pvc_path": ""}, {"artifact_path": "/no/rows.jsonl"}, {"pvc_dir": [1]}])
def test_an_artifact_without_data(metadata: dict, refused: Callable, tmp_path: Path):
    refused(resolve, "", "train", str(tmp_path / "pvc"), artifact(tmp_path / "no", **metadata))


def _preprocess(rows: Path, pvc: Path, model: Path | str, **training: object) -> object:
    named = {f"training_{name}": value for name, value in {"base_model": str(model), **training}.items()}
    return preprocess_dataset(str(rows), str(pvc), {"training_max_seq_len": 256, **named})


@pytest.mark.slow
@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda each: ", ".join(f"{key}={each[key]}" for key in each))
def test_a_parameter_that_is_not_allowed(
    parameters: dict, given: Path, chat_rows: Path, tiny_model: Path, refused: Callable, tmp_path: Path
):
    parameters = {
        name: value.format(tmp=given, model=tiny_model) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
    message = refused(
        lambda: _preprocess(chat_rows, tmp_path / "pvc", parameters.pop("base_model", tiny_model), **parameters)
    )

    assert "training_" in message and len(message.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=json.dumps)
def test_a_row_that_teaches_nothing(row: object, tiny_model: Path, refused: Callable, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f"{json.dumps(row)}\n")

    refused(lambda: _preprocess(rows, tmp_path / "pvc", tiny_model))


@pytest.mark.slow
@pytest.mark.parametrize("damage", MODELS.values(), ids=MODELS)
def test_a_base_model_that_cannot_be_trained(
    damage: Callable, chat_rows: Path, tiny_model: Path, refused: Callable, tmp_path: Path
):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    damage(model)

    refused(lambda: _preprocess(chat_rows, tmp_path / "pvc", model))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_a_training_config_that_is_none(config: str, refused: Callable, tmp_path: Path):
    refused(launch, config, str(tmp_path / "pvc"), None)


@pytest.mark.slow
@pytest.mark.parametrize("damage", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_training_without_a_model(damage: Callable, tiny_model: Path, refused: Callable, tmp_path: Path):
    folder = make_trained_folder(tmp_path / "pvc" / "checkpoints" / "run", tiny_model)
    damage(folder)

    refused(export_model, str(folder), str(tmp_path / "pvc"), artifact(tmp_path / "model"))

    assert not (tmp_path / "pvc" / "models").exists() and not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("content", METRICS.values(), ids=METRICS)
def test_metrics_that_say_nothing(content: bytes | None, tiny_model: Path, refused: Callable, tmp_path: Path):
    folder = make_trained_folder(tmp_path / "run", tiny_model)
    file = folder / "training_metrics_0.jsonl"
    file.unlink() if content is None else file.write_bytes(content)

    refused(collect, str(folder), artifact(tmp_path / "a"), artifact(tmp_path / "b"), artifact(tmp_path / "c"))

    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"{", b"[]\n", b"\xff\xfe"])
def test_a_table_that_is_none(content: bytes | None, refused: Callable, tmp_path: Path):
    table = tmp_path / "metrics.jsonl"
    if content is not None:
        table.write_bytes(content)

    refused(render, str(table), str(tmp_path / "chart.html"))

    assert not (tmp_path / "chart.html").exists()
