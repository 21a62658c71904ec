import json
import shutil
from pathlib import Path

import pytest

from kfp_osft.stages.export_model.checkpoint_checks import problem_of, sampled_part
from kfp_osft.stages.export_model.weights import tensors_in


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "samples_8.0")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _change(folder: Path, name: str, change) -> None:
    """Saves the weights again with one tensor changed."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors")


def _in_two_shards(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    (folder / "model.safetensors").unlink()
    weight_map = {name: file for file, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_whole_model_has_no_problem(checkpoint: Path, tiny_model: Path):
    assert problem_of(checkpoint, {name: tensor.shape for name, tensor in tensors_in(tiny_model).items()}) is None


def test_a_whole_model_in_shards_has_no_problem(checkpoint: Path, tiny_model: Path):
    _in_two_shards(checkpoint)

    assert problem_of(checkpoint, {name: tensor.shape for name, tensor in tensors_in(tiny_model).items()}) is None


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda folder: _cut(folder / "model.safetensors"), "it is truncated"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: _cut(folder / "config.json"), "config.json is missing or cut off"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing or cut off"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing or cut off"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer"),
        (lambda folder: _cut(folder / "tokenizer.json"), "tokenizer.json is missing or cut off"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-0'),
            "model.safetensors.index.json is missing or cut off",
        ),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "is not an index of weight files"),
    ],
)
def test_what_an_interrupted_save_leaves_is_told(checkpoint: Path, break_it, problem: str):
    break_it(checkpoint)

    assert problem in problem_of(checkpoint, {})


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (
            lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
            "model-00002-of-00002.safetensors is missing",
        ),
        (lambda folder: _cut(folder / "model-00001-of-00002.safetensors"), "it is truncated"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "model.safetensors is missing"),
        (
            lambda folder: shutil.copyfile(
                folder / "model-00002-of-00002.safetensors", folder / "model-00001-of-00002.safetensors"
            ),
            "model-00001-of-00002.safetensors does not hold",
        ),
    ],
)
def test_a_shard_that_is_not_there_or_another_is_told(checkpoint: Path, break_it, problem: str):
    _in_two_shards(checkpoint)
    break_it(checkpoint)

    assert problem in problem_of(checkpoint, {})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_are_not_finite_are_told(checkpoint: Path, number: float, dtype: str):
    import torch

    def spoil(tensor):
        tensor = tensor.to(getattr(torch, dtype))
        tensor[0] = number
        return tensor

    _change(checkpoint, "model.norm.weight", spoil)

    assert problem_of(checkpoint, {}) == "model.norm.weight holds NaN or infinite numbers: the training is lost"


def test_a_matrix_of_another_shape_than_the_base_models_is_told(checkpoint: Path, tiny_model: Path):
    name = "model.layers.0.mlp.up_proj.weight"
    _change(checkpoint, name, lambda tensor: tensor[:64].contiguous())

    assert problem_of(checkpoint, {name: tensor.shape for name, tensor in tensors_in(tiny_model).items()}) == (
        f"{name} has the shape [64, 64], in the base model [128, 64]"
    )


def test_a_vocabulary_that_the_training_enlarged_is_no_problem(checkpoint: Path, tiny_model: Path):
    import torch

    config = json.loads((checkpoint / "config.json").read_text())
    vocabulary = config["vocab_size"]
    (checkpoint / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary + 8}))
    _change(checkpoint, "model.embed_tokens.weight", lambda tensor: torch.cat([tensor, tensor[:8]]))

    assert (
        problem_of(checkpoint, {name: tensor.shape for name, tensor in tensors_in(tiny_model).items()}, vocabulary)
        is None
    )
    assert "has the shape" in problem_of(
        checkpoint, {name: tensor.shape for name, tensor in tensors_in(tiny_model).items()}, vocabulary - 1
    )


@pytest.mark.parametrize(
    ("shape", "size", "part"),
    [
        ([], 4, ()),
        ([10, 10], 400, ()),
        ([1000, 10], 40_000, (slice(0, 25),)),
        ([4, 100_000], 1_600_000, (slice(0, 1), slice(0, 250))),
        ([1, 1, 1_000_000], 4_000_000, (slice(0, 1), slice(0, 1), slice(0, 250))),
    ],
)
def test_of_a_large_tensor_a_part_of_bounded_size_is_read(shape: list[int], size: int, part: tuple):
    assert sampled_part(shape, size, limit=1000) == part
