import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.hub import HubServer
from helpers.errors import error_of
from kfp_osft.shared.files.manifests import file_digest
from kfp_osft.shared.model.folder import model_folder, safetensors_header
from kfp_osft.shared.parameters.values import LR_SCHEDULERS
from kfp_osft.stages.preprocess.base_model import (
    BaseModel,
    check_base_model,
    check_lr_scheduler,
    fetch_weights,
    find_base_model,
    load_tokenizer,
)


def folder_model(folder: Path) -> BaseModel:
    return BaseModel(str(folder), folder)


def checked(folder: Path) -> dict:
    """What identifies the model in a folder."""
    return check_base_model(folder_model(folder))


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


def test_a_model_is_known_by_its_small_files_and_its_weights(model: Path):
    identity = checked(model)

    assert json.loads(json.dumps(identity)) == identity
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= identity["files"].keys()
    weights = model / "model.safetensors"
    assert identity["weights"] == {weights.name: [weights.stat().st_size, file_digest(weights)]}
    assert checked(model) == identity


@pytest.mark.parametrize(
    "changed", ["config.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"]
)
def test_a_changed_model_is_another_one(model: Path, changed: str):
    before = checked(model)
    file = model / changed
    content = file.read_bytes()
    # Weights of the same size: the last number is another one.
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if changed == "model.safetensors" else content + b"\n")

    assert checked(model) != before


def test_a_copy_elsewhere_is_the_same_model(model: Path, tmp_path: Path):
    copy = shutil.copytree(model, tmp_path / "elsewhere", copy_function=shutil.copyfile)

    assert checked(copy) == checked(model)


CONFIG = {"model_type": "qwen2"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "training_base_model={model}: no such folder"),
        ({}, "training_base_model={model}: not a model folder, it has no config.json"),
        (
            {"model.safetensors": safetensors({})},
            "training_base_model={model}: not a model folder, it has no config.json",
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

    assert error_of(checked, model).startswith(message.format(model=model))


def test_a_file_is_no_model(model: Path):
    assert error_of(checked, model / "config.json") == (
        f"training_base_model={model}/config.json: a file, not the folder of a model"
    )


def test_a_folder_without_a_tokenizer_is_told(model: Path):
    for file in model.glob("tokenizer*"):
        file.unlink()

    checked(model)
    assert error_of(load_tokenizer, folder_model(model)) == (
        f"training_base_model={model}: has no tokenizer, its vocabulary is empty (is tokenizer.json missing?)"
    )


def test_a_tokenizer_that_cannot_be_read_is_told(model: Path):
    (model / "tokenizer.json").write_text("{")

    assert error_of(load_tokenizer, folder_model(model)).startswith(
        f"training_base_model={model}: AutoTokenizer cannot be loaded from its folder: "
    )


def test_a_tokenizer_is_loaded_with_its_chat_template(model: Path):
    tokenizer = load_tokenizer(folder_model(model))

    assert tokenizer.eos_token == "<|im_end|>" and "im_start" in tokenizer.chat_template


# Weights


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_told(model: Path, part: float):
    weights = model / "model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, int(size * part))

    message = error_of(checked, model)

    if part < 0.01:
        assert message == f"{weights} is not a safetensors file"
    else:
        left = int(size * part)
        assert message == f"{weights} has {left} bytes, but its header says {size}: it is truncated"


def test_weights_with_something_behind_them_are_told(model: Path):
    weights = model / "model.safetensors"
    with weights.open("ab") as file:
        file.write(b"\0")

    assert "bytes, but its header says" in error_of(checked, model)


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

    assert list(checked(model)["weights"]) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    (model / "model-00002-of-00002.safetensors").unlink()
    assert error_of(checked, model) == (
        f"training_base_model={model}: model-00002-of-00002.safetensors is missing, which "
        "model.safetensors.index.json names"
    )


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index_of_weights_is_told(model: Path, content: str):
    (model / "model.safetensors.index.json").write_text(content)

    assert error_of(checked, model) == (f"{model / 'model.safetensors.index.json'} is not an index of weight files")


# Parameters that must fit the model


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


# Code beside a model


@pytest.fixture
def model_with_code(model: Path) -> Path:
    """A model whose config wants a class of its own, which leaves a file where it runs."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}})
    )
    (model / "mine.py").write_text(
        "import pathlib\n"
        "from transformers import Qwen2Config\n"
        f"pathlib.Path({str(model / 'ran')!r}).touch()\n"
        "class MyConfig(Qwen2Config):\n    model_type = 'mine'\n"
    )
    return model


def test_code_beside_a_model_does_not_run_and_the_parameter_that_allows_it_is_named(
    model_with_code: Path, monkeypatch: pytest.MonkeyPatch
):
    # As `yes | kfp-osft run` answers; transformers would ask.
    monkeypatch.setattr("builtins.input", lambda *question: "y")

    assert error_of(checked, model_with_code) == (
        f"training_base_model={model_with_code}: its config is Python code beside the model; "
        "training_trust_remote_code=True runs it, if you trust whoever wrote it"
    )
    assert not (model_with_code / "ran").exists()


@pytest.mark.parametrize("trusted", [True, False])
def test_code_runs_where_it_is_trusted_and_a_family_that_transformers_knows_needs_none(
    model_with_code: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusted: bool
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    if not trusted:
        config = json.loads((model_with_code / "config.json").read_text())
        (model_with_code / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))

    assert check_base_model(folder_model(model_with_code), trusted)["files"]
    assert (model_with_code / "ran").exists() is trusted


# The Hugging Face Hub


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with org/model, which the libraries of this process talk to; its cache is empty."""
    from huggingface_hub import constants

    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    other = {"onnx/model.safetensors": b"other", "consolidated.safetensors": b"other", "pytorch_model.bin": b"other"}
    with HubServer() as server:
        server.commit("org/model", {**files, **other, "mine.py": b"print()"}, kind="models")
        server.commit("org/gated", files, kind="models", gated=True)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def test_a_hub_model_is_resolved_to_a_commit_once_and_its_weights_come_last(
    hub: HubServer, tiny_model: Path, tmp_path: Path
):
    model = find_base_model("org/model", tmp_path)
    commit = model.folder.name

    assert check_base_model(model) == {"id": "org/model", "revision": commit}
    assert len(load_tokenizer(model)) == len(load_tokenizer(folder_model(tiny_model)))
    assert model.folder.is_relative_to(tmp_path / ".cache" / "huggingface" / "hub")
    assert not [request for request in hub.requests if "safetensors" in request]

    # The branch moves on, the model does not.
    hub.commit("org/model", {"config.json": b"{}"}, kind="models")
    fetch_weights(model)

    assert (model.folder / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    fetched = [request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request]
    assert not {"consolidated.safetensors", "pytorch_model.bin", "mine.py"} & set(fetched)
    assert not (model.folder / "onnx").exists()
    # Given with its commit it is the same again, and a branch is told from it.
    assert find_base_model(f"org/model@{commit}", tmp_path).folder == model.folder
    assert find_base_model("org/model", tmp_path).folder != model.folder


def test_on_this_computer_the_cache_is_hugging_faces_own(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OSFT_LAUNCHER", "local")

    assert find_base_model("org/model", tmp_path / "workspace").folder.is_relative_to(tmp_path / "home")


def test_code_of_a_hub_model_is_fetched_only_where_it_is_trusted(hub: HubServer, tmp_path: Path):
    assert (find_base_model("org/model", tmp_path, True).folder / "mine.py").is_file()


def test_without_the_hub_a_model_of_the_cache_is_taken_and_said(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = find_base_model("org/model", tmp_path)
    fetch_weights(model)
    hub.broken = re.compile("org/model")

    again = find_base_model("org/model", tmp_path)
    fetch_weights(again)

    assert again.folder == model.folder
    assert f"taken from the cache, commit {model.folder.name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_of_the_cache_that_was_cut_is_fetched_again(
    hub: HubServer, tiny_model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    model = find_base_model("org/model", tmp_path)
    fetch_weights(model)
    content = (tiny_model / name).read_bytes()
    (model.folder / name).write_bytes(content[: len(content) // 2])

    again = find_base_model("org/model", tmp_path)
    fetch_weights(again)

    assert again == model and (model.folder / name).read_bytes() == content
    assert f"{name} has changed or was cut since it was fetched" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["org/missing", "org/gated", "org/model@no-such-revision", "not a model id"])
def test_what_the_hub_does_not_give_is_told(hub: HubServer, tmp_path: Path, name: str):
    assert error_of(find_base_model, name, tmp_path).startswith(
        f"training_base_model={name}: cannot be fetched from the Hugging Face Hub (is the id right, is HF_TOKEN "
        "needed?): "
    )


def test_a_hub_model_without_a_hub_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert error_of(find_base_model, "org/no-such-model", tmp_path).startswith(
        "training_base_model=org/no-such-model: cannot be fetched from the Hugging Face Hub "
    )
