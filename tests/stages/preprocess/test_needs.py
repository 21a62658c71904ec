import json
from pathlib import Path

import pytest

from helpers.trained_folder import make_trained_folder
from kfp_osft.shared.knowledge.coverage import Coverage
from kfp_osft.shared.reporting.errors import InputError
from kfp_osft.stages.preprocess import needs
from kfp_osft.stages.preprocess.needs import find_needs

HUGE = Coverage(400 * 10**9, 400 * 10**9, 5 * 10**9, [], [], [], 560 * 10**9)
SMALL = Coverage(10**6, 10**6, 10**5, [], [], [], 14 * 10**5)
CONFIG = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 600, "intermediate_size": 128}
OSFT = {"unfreeze_rank_ratio": 0.25, "effective_batch_size": 8, "max_tokens_per_gpu": 1024, "num_epochs": 2}
REPORT = {"tokens": 3200, "samples": 32, "tokens_of_a_sample": {"longest": 150}, "training": {"tokens": 6400}}


def trainjob(**changes) -> dict:
    return {"procs_per_worker": "auto", "num_workers": 1, "gpu_per_worker": 1, "memory_per_worker": "32Gi", **changes}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "model"


@pytest.fixture
def found(model, tmp_path):
    """What a training needs in tmp_path, with changes of its parameters."""

    def find(coverage: Coverage = SMALL, osft: dict | None = None, **resources) -> needs.Needs:
        arguments = {**OSFT, "model_path": str(model), **(osft or {})}
        return find_needs(model, coverage, arguments, trainjob(**resources), REPORT, tmp_path)

    return find


@pytest.fixture
def local(monkeypatch):
    """This computer: a memory, and GPUs."""

    def be(memory: int, gpus: list[int]) -> None:
        monkeypatch.setenv("OSFT_LAUNCHER", "local")
        monkeypatch.setattr(needs, "available_memory", lambda: memory)
        monkeypatch.setattr(needs, "gpu_memories", lambda: gpus)

    return be


def test_on_a_cluster_it_says_what_a_gpu_needs(found):
    memory, disk = found().lines
    assert memory == "Memory: about 976.4 MiB of each GPU (11.9 MiB of it for the 800 tokens taken at a time)"
    assert disk.startswith("Disk: about 4.2 MiB for 1 checkpoint, and ")


@pytest.mark.parametrize(
    ("osft", "resources", "tokens"),
    [
        ({}, {"gpu_per_worker": 4}, 200),
        ({"max_tokens_per_gpu": 500}, {}, 500),
        ({"max_tokens_per_gpu": 10}, {}, 150),
        ({}, {"gpu_per_worker": 4, "num_workers": 4}, 150),
    ],
)
def test_the_tokens_at_a_time_are_a_process_share_of_the_batch_up_to_the_limit_and_at_least_a_sample(
    found, osft, resources, tokens
):
    assert found(osft=osft, **resources).memory["tokens"] == tokens


def test_what_no_gpu_can_hold_is_refused_and_more_gpus_are_the_remedy(found):
    with pytest.raises(
        InputError, match=r"the training cannot fit: .* no GPU has more than 288\.0 GiB; raise training_"
    ):
        found(HUGE)
    with pytest.raises(InputError, match=r"the trained model needs 1\.5 TiB"):
        found(HUGE, gpu_per_worker=8, num_workers=8)


def test_on_this_computer_it_is_compared_with_what_is_available(found, local):
    local(memory=3 << 30, gpus=[])
    assert found().lines[0].endswith(" tokens taken at a time); 3.0 GiB are available")
    assert found().warnings == []

    local(memory=1 << 30, gpus=[])
    assert found().warnings == ["the training may run out of memory; lower training_max_tokens_per_gpu"]

    local(memory=500 << 20, gpus=[])
    with pytest.raises(InputError, match=r"this computer has 500\.0 MiB available"):
        found()


def test_a_gpu_of_this_computer_is_compared_too(found, local):
    local(memory=3 << 30, gpus=[8 << 30, 4 << 30])
    assert " of each of 2 GPUs (" in found().lines[0] and found().lines[0].endswith("); this one has 4.0 GiB")

    local(memory=3 << 30, gpus=[100 << 20])
    assert found().warnings == ["the training may run out of GPU memory; lower training_max_tokens_per_gpu"]

    local(memory=3 << 30, gpus=[1 << 20])
    with pytest.raises(InputError, match=r"and this one has 1\.0 MiB"):
        found()


def test_each_checkpoint_takes_disk(found):
    lines = found(osft={"checkpoint_at_epoch": True}).lines
    assert lines[1].startswith("Disk: about 12.6 MiB for 3 checkpoints, and ")


def test_the_time_comes_from_an_earlier_run_of_the_same_model(found, tiny_model, tmp_path):
    folder = make_trained_folder(tmp_path / "checkpoints" / "abc", tiny_model)
    assert len(found(osft={"model_path": "/another"}).lines) == 2

    run = json.loads((folder / "osft_run.json").read_text())
    line = found(osft={"model_path": run["osft"]["model_path"]}).lines[-1]
    assert line.startswith("Time: about ") and line.endswith(" tokens a second of the run abc")


def test_what_is_available_is_read_from_this_computer():
    assert needs.available_memory() > 0
