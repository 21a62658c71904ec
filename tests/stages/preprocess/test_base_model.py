import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.hub import HubServer
from kfp_osft.shared.model.folder import model_folder, safetensors_header
from kfp_osft.shared.parameters.declarations import LR_SCHEDULERS
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess.base_model import (
    check_base_model,
    check_lr_scheduler,
    check_target_patterns,
    load_tokenizer,
)


def error_of(function: Callable, *arguments: object) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


# Folders and ids


@pytest.mark.parametrize(
    ("base_model", "folder"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", None),
        ("gpt2", None),
        ("/models/none", "/models/none"),
        ("./none", "none"),
        ("../none", "../none"),
        ("~/none", "{home}/none"),
        ("~nobody-of-this-name/none", "~nobody-of-this-name/none"),
        ("here", "here"),
    ],
)
def test_a_path_is_told_from_a_model_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base_model: str, folder: str | None
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()

    expected = folder and Path(folder.format(home=tmp_path))
    assert model_folder(base_model) == expected


def test_a_model_is_known_by_its_small_files_and_the_size_and_time_of_its_weights(model: Path):
    identity = check_base_model(str(model))

    assert json.loads(json.dumps(identity)) == identity
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= identity["files"].keys()
    assert identity["weights"] == {
        "model.safetensors": [
            (model / "model.safetensors").stat().st_size,
            (model / "model.safetensors").stat().st_mtime_ns,
        ]
    }
    assert check_base_model(str(model)) == identity


@pytest.mark.parametrize(
    "changed", ["config.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"]
)
def test_a_changed_model_is_another_one(model: Path, changed: str):
    before = check_base_model(str(model))
    file = model / changed
    if changed == "model.safetensors":
        os.utime(file, (1, 1))
    else:
        file.write_text(file.read_text() + "\n")

    assert check_base_model(str(model)) != before


def test_a_copy_elsewhere_has_the_same_small_files(model: Path, tmp_path: Path):
    copy = shutil.copytree(model, tmp_path / "elsewhere")

    assert check_base_model(str(copy)) == check_base_model(str(model))


CONFIG = {"model_type": "qwen2"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "training_base_model={model}: no such folder"),
        ({}, "training_base_model={model}: is no model folder, it has no config.json"),
        (
            {"model.safetensors": safetensors({})},
            "training_base_model={model}: is no model folder, it has no config.json",
        ),
        (
            {"config.json": json.dumps(CONFIG).encode()},
            "training_base_model={model}: has no weights (*.safetensors or pytorch_model*.bin)",
        ),
        (
            {"config.json": b"{", "model.safetensors": safetensors({})},
            "training_base_model={model}: AutoConfig cannot be loaded from its folder: ",
        ),
        (
            {"config.json": b"{}", "model.safetensors": safetensors({})},
            "training_base_model={model}: AutoConfig cannot be loaded from its folder: ",
        ),
        (
            {"config.json": b'{"model_type": "no such type"}', "model.safetensors": safetensors({})},
            "training_base_model={model}: AutoConfig cannot be loaded from its folder: ",
        ),
    ],
    ids=["missing", "empty", "no config", "no weights", "config cut", "config of nothing", "unknown type"],
)
def test_a_folder_that_is_no_model_is_told(tmp_path: Path, files: dict[str, bytes] | None, message: str):
    model = tmp_path / "model"
    if files is not None:
        model.mkdir()
        for name, content in files.items():
            (model / name).write_bytes(content)

    assert error_of(check_base_model, str(model)).startswith(message.format(model=model))


def test_a_file_is_no_model(model: Path):
    assert error_of(check_base_model, str(model / "config.json")) == (
        f"training_base_model={model}/config.json: no such folder"
    )


def test_a_folder_without_a_tokenizer_is_told(model: Path):
    for file in model.glob("tokenizer*"):
        file.unlink()

    check_base_model(str(model))
    assert error_of(load_tokenizer, str(model)) == (
        f"training_base_model={model}: has no tokenizer, its vocabulary is empty (is tokenizer.json missing?)"
    )


def test_a_tokenizer_that_cannot_be_read_is_told(model: Path):
    (model / "tokenizer.json").write_text("{")

    assert error_of(load_tokenizer, str(model)).startswith(
        f"training_base_model={model}: AutoTokenizer cannot be loaded from its folder: "
    )


def test_a_tokenizer_is_loaded_with_its_chat_template(model: Path):
    tokenizer = load_tokenizer(str(model))

    assert tokenizer.eos_token == "<|im_end|>" and "im_start" in tokenizer.chat_template


# Weights


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_told(model: Path, part: float):
    weights = model / "model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, int(size * part))

    message = error_of(check_base_model, str(model))

    if part < 0.01:
        assert message == f"{weights} is not a safetensors file"
    else:
        left = int(size * part)
        assert message == f"{weights} has {left} bytes, but its header says {size}: it is truncated"


def test_weights_with_something_behind_them_are_told(model: Path):
    weights = model / "model.safetensors"
    with weights.open("ab") as file:
        file.write(b"\0")

    assert "bytes, but its header says" in error_of(check_base_model, str(model))


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_a_header_gives_the_tensors_without_the_metadata(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors({"__metadata__": {"format": "pt"}, "a": TENSOR}, bytes(8)))

    assert safetensors_header(file) == {"a": TENSOR}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        bytes(8),
        # A pointer in the place of a file that git-lfs did not fetch, and a page instead of a file.
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n",
        b"<!DOCTYPE html><html>Not found</html>",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
        safetensors([]),
        safetensors("x"),
        safetensors({"a": {}}),
        safetensors({"a": {"data_offsets": []}}),
        safetensors({"a": {"data_offsets": [0, "8"]}}),
        safetensors({"a": 1}),
    ],
)
def test_a_file_that_is_no_safetensors_is_told(tmp_path: Path, content: bytes):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)

    assert error_of(safetensors_header, file) == f"{file} is not a safetensors file"


def split_weights(model: Path) -> None:
    """Puts the weights into two files with an index, as large models have them."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, model / file)
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}})
    )


def test_weights_in_several_files_are_taken_when_all_are_there(model: Path):
    split_weights(model)

    assert list(check_base_model(str(model))["weights"]) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    (model / "model-00002-of-00002.safetensors").unlink()
    assert error_of(check_base_model, str(model)) == (
        f"training_base_model={model}: model-00002-of-00002.safetensors is missing, which "
        "model.safetensors.index.json names"
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index_of_weights_is_told(model: Path, content: str):
    (model / "model.safetensors.index.json").write_text(content)

    assert error_of(check_base_model, str(model)) == (
        f"{model / 'model.safetensors.index.json'} is not an index of weight files"
    )


# Parameters that must fit the model


@pytest.mark.parametrize("patterns", [[], ["q_proj"], ["self_attn.q_proj", "mlp.up_proj"], ["layers.1."]])
@pytest.mark.parametrize("split", [False, True])
def test_target_patterns_that_match_are_taken(model: Path, patterns: list[str], split: bool):
    if split:
        split_weights(model)

    check_target_patterns(str(model), patterns)


@pytest.mark.parametrize(
    ("patterns", "unmatched"),
    [
        (["q_porj"], "q_porj"),
        (["q_proj", "mlp.q_proj", "down"], "mlp.q_proj"),
        # A pattern is no regular expression, and a norm is no matrix.
        ([".*q_proj"], ".*q_proj"),
        (["input_layernorm"], "input_layernorm"),
        (["a", "xyz", "Q_PROJ"], "xyz, Q_PROJ"),
    ],
)
def test_target_patterns_that_match_nothing_are_told(model: Path, patterns: list[str], unmatched: str):
    message = error_of(check_target_patterns, str(model), patterns)

    assert message.startswith(
        f"training_target_patterns: {unmatched} matches no weight matrix of {model}; its matrices are named as model."
    )


SCHEDULER_NEEDS = {
    "cosine_with_min_lr": {"min_lr": 1e-7},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 4},
}


@pytest.mark.parametrize("warmup", [0, 5, 500])
@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_each_scheduler_is_taken_with_what_it_needs(name: str, warmup: int):
    osft = {"learning_rate": 1e-5, "lr_scheduler": name, "warmup_steps": warmup}
    if name in SCHEDULER_NEEDS:
        osft["lr_scheduler_kwargs"] = SCHEDULER_NEEDS[name]

    check_lr_scheduler(osft)


def test_without_a_scheduler_there_is_nothing_to_check():
    check_lr_scheduler({"learning_rate": 1e-5})


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("linear", {"num_cycles": 2}, "'num_cycles'"),
        ("cosine", {"num_cylces": 2}, "'num_cylces'"),
        (None, {"num_cylces": 2}, "'num_cylces'"),
        ("cosine", {"num_cycles": "two"}, "'two'"),
        ("cosine", {"num_warmup_steps": 3}, "'num_warmup_steps'"),
        ("polynomial", {"lr_end": 1.0}, "lr_end"),
        ("inverse_sqrt", {"timescale": "x"}, ""),
        ("cosine_with_min_lr", None, "min_lr"),
        ("warmup_stable_decay", None, "num_decay_steps"),
        ("constant", {"num_cycles": 2}, "takes no arguments"),
        ("constant_with_warmup", {"num_cycles": 2}, "takes no arguments"),
    ],
)
def test_arguments_that_a_scheduler_does_not_take_or_misses_are_told(
    name: str | None, kwargs: dict | None, message: str, warmup: int
):
    osft = {"learning_rate": 1e-5, "warmup_steps": warmup, "lr_scheduler": name, "lr_scheduler_kwargs": kwargs}

    error = error_of(check_lr_scheduler, {key: value for key, value in osft.items() if value is not None})

    assert error.startswith(f"training_lr_scheduler_kwargs={kwargs or ''}: the scheduler {name or 'cosine'} ")
    assert message in error


# The Hugging Face Hub, through the real transformers: HF_ENDPOINT is read when it is imported


CHILD = """
import json, sys
from kfp_osft.stages.preprocess.base_model import check_base_model, load_tokenizer
for model in sys.argv[1:]:
    try:
        identity = check_base_model(model)
        print(json.dumps([identity, len(load_tokenizer(model))]))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


@pytest.mark.slow
def test_a_hub_model_is_known_by_its_revision_and_a_missing_one_is_told(tiny_model: Path, tmp_path: Path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with HubServer() as hub:
        files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
        commit = hub.commit("org/model", files, kind="models")
        hub.commit("org/gated", files, kind="models", gated=True)
        process = subprocess.run(
            [sys.executable, "-c", CHILD, "org/model", "org/missing", "org/gated"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
        )
        # No weights were fetched for it.
        assert not [request for request in hub.requests if "safetensors" in request]

    found, missing, gated = [json.loads(line) for line in process.stdout.splitlines()]
    assert found == [{"id": "org/model", "revision": commit}, len(load_tokenizer(str(tiny_model)))]
    for name, error in {"org/missing": missing, "org/gated": gated}.items():
        assert error.startswith(
            f"InputError: training_base_model={name}: AutoConfig cannot be loaded from the Hugging Face Hub "
            "(is the id right, is HF_TOKEN needed?): "
        )


def test_a_hub_model_without_a_hub_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    assert error_of(check_base_model, "org/no-such-model").startswith(
        "training_base_model=org/no-such-model: AutoConfig cannot be loaded from the Hugging Face Hub "
    )
