"""Bad input of every kind: a sentence that says what is wrong with it, no other exception, nothing half left behind."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.artifacts import artifact
from helpers.question_rows import jsonl
from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.oci import registry
from kfp_osft.shared.reporting.errors import InputError, TrainingError
from kfp_osft.stages.collect_metrics.collection import collect
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.launch_trainjob.launch import launch
from kfp_osft.stages.preprocess.training_data import preprocess_dataset
from kfp_osft.stages.render_loss_chart.rendering import render
from kfp_osft.stages.resolve_dataset import http
from kfp_osft.stages.resolve_dataset.source import resolve

QUESTION = {"role": "user", "content": "a question without an answer"}
ANSWER = {"role": "assistant", "content": "That is why. " * 10}


# Each input beside words that its message must have.

# Files, and what is said of each as a dataset; None for what only stands beside one.
FILES: dict[str, tuple[bytes, str | None]] = {
    "empty.jsonl": (b"", "empty.jsonl is empty"),
    "blank.jsonl": (b"\n\n", "blank.jsonl has no rows"),
    "cut.jsonl": (b'{"messages": [', "cut.jsonl, line 1: is not JSON"),
    "list.jsonl": (b"[1, 2]\n", "list.jsonl, row 1: is a list, expected an object"),
    "number.jsonl": (b"1\n", "number.jsonl, row 1: is a number, expected an object"),
    "text.jsonl": (b"no json\n", "text.jsonl, line 1: is not JSON"),
    "binary.jsonl": (bytes(range(256)) * 8, "binary.jsonl, line 1: is not UTF-8"),
    "utf16.jsonl": ('{"a": 1}\n'.encode("utf-16"), "utf16.jsonl, line 1: is not UTF-8"),
    "cut.json": (b'[{"a": 1}, ', "cut.json, after row 1: is not JSON"),
    "empty.json": (b"[]", "empty.json has no rows"),
    "scalar.json": (b"3", "scalar.json, row 1: is a number, expected an object"),
    "not.parquet": (b"PAR1 and no more", "not.parquet: is not Parquet"),
    "not.arrow": (b"ARROW1 and no more", "not.arrow: is not Arrow"),
    "not.gz.jsonl.gz": (b"not compressed by gzip", "not.gz.jsonl.gz: is truncated or damaged"),
    "cut.jsonl.gz": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01", "cut.jsonl.gz: is truncated or damaged"),
    "cut.jsonl.zst": (b"\x28\xb5\x2f\xfd\x00", "cut.jsonl.zst: is truncated or damaged"),
    "header.csv": (b"a,b\n", "header.csv has no rows"),
    "ragged.csv": (b'a,b\n1,2,3\n"open', "ragged.csv, row 1: has 3 cells, the header has 2"),
    "rows.txt": (b"text\n", "rows.txt is not one of .jsonl"),
    "rows.pickle": (b"\x80\x04N.", "rows.pickle is not one of .jsonl"),
    "nothing/README.md": (b"no data\n", None),
    "saved/dataset_info.json": (b"{}", None),
    "saved/state.json": (b'{"_data_files": [{"filename": "gone.arrow"}]}', None),
    "saved/data.arrow": (b"ARROW1", None),
    "outside/state.json": (b'{"_data_files": [{"filename": "../../rows.jsonl"}]}', None),
    "outside/data.arrow": (b"ARROW1", None),
    "splits/dataset_dict.json": (b'{"splits": ["train", "../.."]}', None),
    "broken/dataset_dict.json": (b"{", None),
    "two/train.jsonl": (jsonl("a"), None),
    "two/test.jsonl": (jsonl("b"), None),
}
# The address, with {tmp} for a folder with these files.
SOURCES = {f"{{tmp}}/{name}": words for name, (_, words) in FILES.items() if words} | {
    "{tmp}/nothing": "nothing holds no data file",
    "{tmp}/saved": "gone.arrow is missing",
    "{tmp}/outside": "state.json names '../../rows.jsonl'",
    "{tmp}/splits": "dataset_dict.json names '../..'",
    "{tmp}/broken": "dataset_dict.json cannot be read",
    "": "no dataset: give dataset_uri",
    " ": "no dataset: give dataset_uri",
    "{tmp}/no.jsonl": "no.jsonl: there is nothing at ",
    "{tmp}/no folder": "no folder: there is nothing at ",
    "pvc://../../etc": "dataset_uri=pvc://../../etc: leads outside pvc_path=",
    "pvc://no.jsonl": "dataset_uri=pvc://no.jsonl: there is nothing at ",
    "file://{tmp}/no.jsonl": "no.jsonl: there is nothing at ",
    "ftp://host/rows.jsonl": "unknown scheme 'ftp://'",
    "gs://bucket/rows.jsonl": "unknown scheme 'gs://'",
    "hf://": "dataset_uri=hf://: is not a Hugging Face dataset id",
    "hf://a/b/c/d/e": "dataset_uri=hf://a/b/c/d/e: is not a Hugging Face dataset id",
    "org/na me": "dataset_uri=org/na me: is not a Hugging Face dataset id",
    "a/b/c/d": "dataset_uri=a/b/c/d: is not a Hugging Face dataset id",
    "https://": "dataset_uri=https://: is not a URL",
    "http://127.0.0.1:1/rows.jsonl": "cannot be reached: Connection refused",
    "http://[::1/rows.jsonl": "dataset_uri=http://[::1/rows.jsonl: is not a URL",
    "s3://": "dataset_uri=s3://: names no bucket",
    "s3://user:password@bucket/rows.jsonl": "dataset_uri=s3://***@bucket/rows.jsonl: credentials do not belong there",
    "~nobody-has-this-name/rows.jsonl": "there is nothing at ~nobody-has-this-name/rows.jsonl",
}

PARAMETERS: dict[str, list[tuple[object, str]]] = {
    "base_model": [
        ("{tmp}/no", "no such folder"),
        ("{tmp}/nothing", "not a model folder, it has no config.json"),
        ("{tmp}/rows.txt", "a file, not the folder of a model"),
        ("", "'' is not allowed; allowed: a Hugging Face model id"),
        ("oci://", "allowed: oci://registry/repository:tag"),
        ("oci://127.0.0.1:1/model:latest", "the registry cannot be reached"),
    ],
    "unfreeze_rank_ratio": [(2.0, "allowed: a number from 0"), (float("nan"), "allowed: a number from 0")],
    "effective_batch_size": [(0, "allowed: an integer of at least 1"), (-1, "allowed: an integer of at least 1")],
    "max_tokens_per_gpu": [(0, "allowed: an integer of at least 1")],
    "max_seq_len": [(1, "allowed: an integer of at least 21")],
    "learning_rate": [(0.0, "allowed: a number above 0"), (float("inf"), "allowed: a number above 0")],
    "num_epochs": [(0, "allowed: an integer of at least 1")],
    "seed": [(-2, "allowed: an integer from 0 to 4294967295")],
    "lr_scheduler": [("zigzag", "'zigzag' is not allowed; allowed: one of linear, cosine")],
    "lr_scheduler_kwargs": [("a", "an item has no '='")],
    "target_patterns": [("no_such_matrix", "no_such_matrix matches no weight matrix")],
    "envs": [("no value", "an item has no '='"), ("HF_TOKEN=x", "'HF_TOKEN' looks like a secret")],
    "metadata_labels": [("=x", "an item has no key before '='")],
    "no_such_parameter": [(1, "is not a training parameter")],
    "validation_split": [(1.0, "allowed: a number from 0"), (-0.5, "allowed: a number from 0")],
    "max_dropped_share": [(2.0, "allowed: a number from 0")],
    "resource_num_workers": [(0, "allowed: an integer of at least 1")],
    "data_output_dir": [("{tmp}/rows.txt", "cannot be written: File exists"), ("{model}", "is a model folder")],
    "min_osft_share": [(7.0, "allowed: a number from 0")],
}

ROWS: list[tuple[dict, str]] = [
    ({}, "has no known format; it has no field"),
    ({"a": 1}, "has no known format; it has 'a'"),
    ({"messages": []}, "messages is an empty list"),
    ({"messages": "text"}, "'messages' is a string that is not JSON"),
    ({"messages": [1]}, "messages[0] is a number, expected an object"),
    ({"messages": [{}]}, "messages[0]: 'role' is null"),
    ({"messages": [{"role": "user"}]}, "messages[0]: 'content' is null"),
    ({"messages": [QUESTION]}, "has no assistant turn to learn from; its roles are user"),
    ({"messages": [{"role": 1, "content": "x"}, ANSWER]}, "messages[0]: 'role' is a number"),
    ({"messages": [{"role": "user", "content": {"a": 1}}, ANSWER]}, "messages[0]: 'content' is an object"),
    ({"messages": None}, "messages is null, expected a list"),
    ({"input_ids": [1, 2]}, "has no known format; it has 'input_ids'"),
    ({"prompt": "x"}, "has no known format; it has 'prompt'"),
    ({"prompt": "x", "completion": None}, "'prompt' is a string and 'completion' null"),
    ({"instruction": "x"}, "has no known format; it has 'instruction'"),
    ({"conversations": [{"from": "who", "value": "x"}]}, "conversations[0]: 'from' is 'who'"),
]

#: What is done to a model folder, by what is then wrong with it.
Damage = Callable[[Path], object]

MODELS: dict[str, tuple[Damage, str]] = {
    "no config": (lambda model: (model / "config.json").unlink(), "it has no config.json"),
    "a config that is cut": (lambda model: os.truncate(model / "config.json", 30), "is not a valid JSON file"),
    "a config of no model": (lambda model: (model / "config.json").write_text("{}"), "Unrecognized model"),
    "a config that is a list": (lambda model: (model / "config.json").write_text("[]"), "Unrecognized model"),
    "an unknown kind": (
        lambda model: (model / "config.json").write_text('{"model_type": "nothing-of-this-kind"}'),
        "nothing-of-this-kind",
    ),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), "has no weights"),
    "weights that are cut": (lambda model: os.truncate(model / "model.safetensors", 1000), "is not a safetensors file"),
    "empty weights": (lambda model: os.truncate(model / "model.safetensors", 0), "is not a safetensors file"),
    "a broken index": (
        lambda model: (model / "model.safetensors.index.json").write_text("{"),
        "model.safetensors.index.json is not an index of weight files",
    ),
    "a shard missing": (
        lambda model: (model / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
        ),
        "model-00001-of-00002.safetensors is missing",
    ),
    "no tokenizer": (lambda model: [file.unlink() for file in model.glob("tokenizer*")], "has no tokenizer"),
    "a tokenizer that is cut": (
        lambda model: os.truncate(model / "tokenizer.json", 100),
        "AutoTokenizer cannot be loaded",
    ),
    "a template that is cut": (
        lambda model: (model / "chat_template.jinja").write_text("{% for message in"),
        "its chat template cannot be read: line 1",
    ),
    "no template": (lambda model: (model / "chat_template.jinja").unlink(), "has no chat template"),
}

_NO_CHECKPOINT = "there is no complete checkpoint in "
CHECKPOINTS: dict[str, tuple[Damage, str]] = {
    "no checkpoints": (lambda folder: shutil.rmtree(folder / "hf_format"), _NO_CHECKPOINT),
    "weights that are cut": (
        lambda folder: os.truncate(_checkpoint(folder) / "model.safetensors", 500),
        "model.safetensors is not a safetensors file",
    ),
    "no weights": (
        lambda folder: (_checkpoint(folder) / "model.safetensors").unlink(),
        "model.safetensors is missing",
    ),
    "a config that is cut": (
        lambda folder: os.truncate(_checkpoint(folder) / "config.json", 10),
        "config.json is missing or cut off",
    ),
    "no tokenizer": (lambda folder: (_checkpoint(folder) / "tokenizer.json").unlink(), "it has no tokenizer"),
    "a run file that is cut": (
        lambda folder: os.truncate(folder / "osft_run.json", 40),
        "osft_run.json is not what launch_trainjob writes",
    ),
    "a run file that is a list": (
        lambda folder: (folder / "osft_run.json").write_text("[]"),
        "osft_run.json is not what launch_trainjob writes",
    ),
}

METRICS: dict[str, tuple[bytes | None, str]] = {
    "no step": (b"", "The training logged no step"),
    "no file": (None, "The training logged no step"),
    "no JSON": (b"step 1\n", "line 1: not JSON: 'step 1'"),
    "a list": (b"[1]\n", "line 1: '[1]' is no"),
    "no loss": (b'{"step": 1}\n', "line 1: loss is None in step 1"),
    "losses that are never a number": (
        b'{"step": 1, "loss": NaN, "total_samples_accumulated": 8}\n' * 2,
        "The loss was NaN or infinite",
    ),
}


def _checkpoint(folder: Path) -> Path:
    return folder / "hf_format" / "samples_64.0"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with FILES."""
    for name, (content, _) in FILES.items():
        file = tmp_path / "given" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "given"


@pytest.fixture
def refused(tmp_path: Path, count: Callable) -> Callable:
    """Runs a stage that must refuse its input with a sentence that has these words, and leave nothing half done."""

    def run(words: str, stage: Callable, *arguments: object) -> str:
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
        assert words in message and "Traceback" not in message and "\x1b" not in message
        assert "password" not in message
        unfinished = [
            str(file.relative_to(tmp_path))
            for file in tmp_path.rglob("*")
            if file.name.endswith((".unfinished", ".previous")) or file.name in ("data.jsonl", "validation.jsonl")
        ]
        assert unfinished == []
        return message

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("uri", "words"), SOURCES.items(), ids=SOURCES)
def test_a_dataset_that_cannot_be_used(
    uri: str, words: str, given: Path, refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.01)
    monkeypatch.delenv("AWS_S3_BUCKET", raising=False)

    refused(words, resolve, uri.format(tmp=given), "train", str(tmp_path / "pvc"), None)

    assert not [file for file in (tmp_path / "pvc").rglob("*") if file.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["no", "../..", "train[:10%]"])
def test_a_split_that_there_is_not(split: str, given: Path, refused: Callable, tmp_path: Path):
    refused(f"dataset_split={split} is not in ", resolve, str(given / "two"), split, str(tmp_path / "pvc"), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        *((metadata, "the dataset artifact has no data at ") for metadata in ({}, {"pvc_path": ""}, {"pvc_dir": [1]})),
        ({"artifact_path": "/no/rows.jsonl"}, "there is nothing at /no/rows.jsonl"),
    ],
)
def test_an_artifact_without_data(metadata: dict, words: str, refused: Callable, tmp_path: Path):
    refused(words, resolve, "", "train", str(tmp_path / "pvc"), artifact(tmp_path / "no", **metadata))


def _preprocess(rows: Path, pvc: Path, **training: object) -> object:
    named = {f"training_{name}": value for name, value in training.items()}
    return preprocess_dataset(str(rows), str(pvc), {"training_max_seq_len": 256, **named})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [(name, *each) for name, values in PARAMETERS.items() for each in values],
)
def test_a_parameter_that_is_not_allowed(
    name: str,
    value: object,
    words: str,
    given: Path,
    chat_rows: Path,
    tiny_model: Path,
    refused: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(registry, "_FIRST_PAUSE", 0.01)
    given_value = value.format(tmp=given, model=tiny_model) if isinstance(value, str) else value
    training = {"base_model": str(tiny_model), name: given_value}

    message = refused(words, lambda: _preprocess(chat_rows, tmp_path / "pvc", **training))

    assert message.startswith(f"training_{name}") and len(message.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("row", "words"), ROWS, ids=[json.dumps(row) for row, _ in ROWS])
def test_a_row_that_teaches_nothing(row: object, words: str, tiny_model: Path, refused: Callable, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f"{json.dumps(row)}\n")

    refused(f"rows.jsonl, row 1: {words}", lambda: _preprocess(rows, tmp_path / "pvc", base_model=str(tiny_model)))


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "words"), MODELS.values(), ids=MODELS)
def test_a_base_model_that_cannot_be_trained(
    damage: Damage, words: str, chat_rows: Path, tiny_model: Path, refused: Callable, tmp_path: Path
):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    damage(model)

    refused(words, lambda: _preprocess(chat_rows, tmp_path / "pvc", base_model=str(model)))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["", "{", "[]", "null", "{}", '{"fingerprint": "x"}', "1"])
def test_a_training_config_that_is_none(config: str, refused: Callable, tmp_path: Path):
    refused("training_config is not what preprocess returns: ", launch, config, str(tmp_path / "pvc"), None)


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "words"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_training_without_a_model(damage: Damage, words: str, tiny_model: Path, refused: Callable, tmp_path: Path):
    folder = make_trained_folder(tmp_path / "pvc" / "checkpoints" / "run", tiny_model)
    damage(folder)

    refused(words, export_model, str(folder), str(tmp_path / "pvc"), artifact(tmp_path / "model"))

    assert not (tmp_path / "pvc" / "models").exists() and not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("content", "words"), METRICS.values(), ids=METRICS)
def test_metrics_that_say_nothing(
    content: bytes | None, words: str, tiny_model: Path, refused: Callable, tmp_path: Path
):
    folder = make_trained_folder(tmp_path / "run", tiny_model)
    file = folder / "training_metrics_0.jsonl"
    file.unlink() if content is None else file.write_bytes(content)

    refused(words, collect, str(folder), artifact(tmp_path / "a"), artifact(tmp_path / "b"), artifact(tmp_path / "c"))

    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "metrics_path={table}: no such file"),
        (b"{", "{table}, line 1: not JSON: '{{'"),
        (b"[]\n", "{table}, line 1: '[]' is no"),
        (b"\xff\xfe", "{table}, line 1: not JSON: "),
    ],
)
def test_a_table_that_is_none(content: bytes | None, words: str, refused: Callable, tmp_path: Path):
    table = tmp_path / "metrics.jsonl"
    if content is not None:
        table.write_bytes(content)

    refused(words.format(table=table), render, str(table), str(tmp_path / "chart.html"))

    assert not (tmp_path / "chart.html").exists()
