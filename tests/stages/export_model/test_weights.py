import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from fakes.hub import HubServer
from kfp_osft.stages.export_model.tensor_names import Named
from kfp_osft.stages.export_model.weights import (
    INDEX,
    are_equal,
    base_weights,
    share_weights,
    tensors_in,
    write_weights,
)


def _save(file: Path, tensors: dict[str, list[float]], dtype: str = "float32") -> None:
    import torch
    from safetensors.torch import save_file

    save_file({name: torch.tensor(values, dtype=getattr(torch, dtype)) for name, values in tensors.items()}, file)


def _all(tensors) -> Named:
    return Named(dict(tensors), [], [], [], False, True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    _save(folder / "model.safetensors", {"a": [1.0, 2.0], "b": [3.0], "inv_freq": [4.0]})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def _read(folder: Path) -> dict[str, list[float]]:
    """As the safetensors library reads them."""
    from safetensors.torch import load_file

    return {name: tensor.tolist() for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_a_file_that_stays_as_it_is_is_a_hard_link(checkpoint: Path, target: Path, capsys):
    write_weights(_all(tensors_in(checkpoint)), {}, target)

    assert (target / "model.safetensors").samefile(checkpoint / "model.safetensors")
    assert capsys.readouterr().out == ""


def test_without_hard_links_it_is_copied(checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_weights(_all(tensors_in(checkpoint)), {}, target)

    assert _read(target) == _read(checkpoint)
    assert "of weights are written to" in capsys.readouterr().out


def test_the_files_are_the_base_models_and_hold_what_is_published_alone(checkpoint: Path, target: Path):
    tensors = tensors_in(checkpoint)
    files = {"a": "model-00002-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}

    write_weights(_all({name: tensors[name] for name in files}), files, target)

    assert _read(target) == {"a": [1.0, 2.0], "b": [3.0]}
    index = json.loads((target / INDEX).read_text())
    assert index == {"metadata": {"total_size": 12}, "weight_map": files}


def test_what_is_written_is_what_the_safetensors_library_would_write(tmp_path: Path, target: Path):
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "byte": torch.ones(5, dtype=torch.uint8),
        "long": torch.ones(1, dtype=torch.int64),
        "empty": torch.ones(0, 4),
        "number": torch.tensor(2.0),
    }
    folder = tmp_path / "source"
    folder.mkdir()
    save_file({**tensors, "buffer": torch.ones(1)}, folder / "model.safetensors")
    save_file(tensors, tmp_path / "expected.safetensors", metadata={"format": "pt"})
    found = tensors_in(folder)

    write_weights(_all({name: found[name] for name in tensors}), {}, target)

    written, expected = target / "model.safetensors", tmp_path / "expected.safetensors"
    assert load_file(written).keys() == tensors.keys()
    assert sorted(written.read_bytes()) == sorted(expected.read_bytes())
    assert all(torch.equal(load_file(written)[name], tensor) for name, tensor in tensors.items())


def test_memory_stays_flat_however_large_a_tensor_is(tmp_path: Path, target: Path):
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "source"
    folder.mkdir()
    save_file({"large": torch.zeros(25_000_000), "buffer": torch.ones(1)}, folder / "model.safetensors")
    large = {"large": tensors_in(folder)["large"]}

    tracemalloc.start()
    write_weights(_all(large), {}, target)
    assert are_equal(large["large"], tensors_in(target)["large"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 50_000_000 < large["large"].size


@pytest.mark.parametrize("difference", [0.0, 1.0])
def test_tensors_are_equal_where_their_bytes_are(tmp_path: Path, difference: float):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    _save(tmp_path / "one/model.safetensors", {"x": [1.0, 2.0]})
    _save(tmp_path / "other/model.safetensors", {"y": [9.0], "x": [1.0, 2.0 + difference]})

    assert are_equal(tensors_in(tmp_path / "one")["x"], tensors_in(tmp_path / "other")["x"]) == (difference == 0)


def test_the_checkpoint_gets_the_published_weights_in_place_of_its_own(checkpoint: Path, target: Path):
    tensors = tensors_in(checkpoint)
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_weights(_all({name: tensors[name] for name in files}), files, target)

    share_weights(target, checkpoint)

    assert not (checkpoint / "model.safetensors").exists()
    assert all((checkpoint / file).samefile(target / file) for file in files.values())
    assert sorted(file.name for file in checkpoint.iterdir()) == sorted([*files.values(), INDEX, "config.json"])
    assert tensors_in(checkpoint).keys() == files.keys()


def test_a_checkpoint_that_cannot_be_changed_stays_and_it_is_said(
    checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    tensors = tensors_in(checkpoint)
    write_weights(_all({"a": tensors["a"]}), {}, target)
    before = (checkpoint / "model.safetensors").read_bytes()

    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    share_weights(target, checkpoint)

    assert (checkpoint / "model.safetensors").read_bytes() == before
    assert "stay beside" in capsys.readouterr().out


def test_of_a_base_model_in_shards_the_index_tells_the_files_and_other_files_do_not_count(tmp_path: Path):
    _save(tmp_path / "model-00001-of-00002.safetensors", {"a": [1.0]})
    # Mistral's folders hold the same weights in another format too.
    _save(tmp_path / "consolidated.safetensors", {"other": [1.0]})
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": files}))

    base = base_weights(str(tmp_path), None, tmp_path)

    assert base is not None and base.files == files
    # The other file is not here: of a Hub model the index alone is fetched.
    assert list(base.tensors) == ["a"]


def test_a_base_model_in_another_format_tells_no_names(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").touch()

    assert base_weights(str(tmp_path), None, tmp_path) is None
    assert base_weights("/gone", None, None) is None


def test_a_base_model_that_cannot_be_read_is_said_and_tells_no_names(tmp_path: Path, capsys):
    (tmp_path / INDEX).write_text("[]")

    assert base_weights(str(tmp_path), None, tmp_path) is None
    assert "the base model's weights cannot be read" in capsys.readouterr().out


def test_of_a_hub_model_in_one_file_the_header_alone_is_read(tmp_path: Path, tiny_model: Path):
    program = (
        "import sys; from pathlib import Path\n"
        "from kfp_osft.stages.export_model.weights import base_weights\n"
        "base = base_weights('org/model', sys.argv[1], Path(sys.argv[2]))\n"
        "print(*sorted(base.files), set(base.files.values()), base.tensors)"
    )
    with HubServer() as hub:
        weights = (tiny_model / "model.safetensors").read_bytes()
        commit = hub.commit("org/model", {"config.json": b"{}", "model.safetensors": weights}, kind="models")
        (tmp_path / "small").mkdir()

        # HF_ENDPOINT is read when huggingface_hub is imported.
        done = subprocess.run(
            [sys.executable, "-c", program, commit, str(tmp_path / "small")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
        )

    names = sorted(tensors_in(tiny_model))
    assert done.stdout.split("\n")[0] == f"{' '.join(names)} {{'model.safetensors'}} {{}}"
    assert not list((tmp_path / "home").rglob("*.safetensors"))
