"""The six stages as the pods of OpenShift run them, one after the other in one workspace."""

import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from fakes.hub import HubServer
from helpers.openshift import OTHER_USER, Finished, as_user, can_be_another_user, run_stage
from kfp_osft import stages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_another_user(), reason="only root may run a program as another user"),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """As a volume is mounted: its group may write, and what is made in it has that group."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    folder.chmod(0o2775)
    return folder


def succeeded(finished: Finished) -> dict:
    assert finished.code == 0, finished.log
    assert "Traceback" not in finished.log
    return finished.outputs


def not_writable_by_the_group(folder: Path) -> list[Path]:
    """What a training pod of another user could not change, links aside."""
    entries = [entry for entry in folder.rglob("*") if not entry.is_symlink()]
    return [entry for entry in entries if entry.stat().st_uid != 0 and not entry.stat().st_mode & stat.S_IWGRP]


def test_a_hub_dataset_and_a_hub_model_are_cached_in_the_workspace(
    workspace: Path, tmp_path: Path, tiny_model: Path, chat_rows: Path
):
    with HubServer() as hub:
        hub.commit("org/rows", {"data.jsonl": chat_rows.read_bytes()})
        hub.commit("org/model", {file.name: file.read_bytes() for file in tiny_model.iterdir()}, kind="models")
        environment = {"HF_ENDPOINT": hub.endpoint}
        resolved = succeeded(
            run_stage(
                stages.resolve_dataset,
                tmp_path / "resolve",
                {"pvc_path": str(workspace), "dataset_uri": "org/rows"},
                **environment,
            )
        )
        prepared = succeeded(
            run_stage(
                stages.preprocess,
                tmp_path / "preprocess",
                {
                    "pvc_path": str(workspace),
                    "dataset_path": resolved["dataset_path"],
                    "training_base_model": "org/model",
                    "training_max_seq_len": 256,
                    # Needs torch, which asks for the user's name.
                    "training_lr_scheduler": "cosine_with_restarts",
                    "training_lr_scheduler_kwargs": "num_cycles=2",
                },
                **environment,
            )
        )
    assert prepared["num_samples"] == 32
    assert (workspace / ".cache/huggingface/hub/models--org--model").is_dir()
    assert not_writable_by_the_group(workspace) == []


def test_the_training_of_another_user_follows_and_the_stages_after_it(
    workspace: Path, tmp_path: Path, tiny_model: Path, chat_rows: Path
):
    shutil.copy(chat_rows, workspace / "rows.jsonl")
    prepared = succeeded(
        run_stage(
            stages.preprocess,
            tmp_path / "preprocess",
            {
                "pvc_path": str(workspace),
                "dataset_path": str(workspace / "rows.jsonl"),
                "training_base_model": str(tiny_model),
                "training_max_seq_len": 256,
                "training_effective_batch_size": 8,
                "training_max_tokens_per_gpu": 1024,
            },
        )
    )
    checkpoints = json.loads(prepared["training_config"])["osft"]["ckpt_output_dir"]
    trained = as_user(
        OTHER_USER,
        [sys.executable, "-c", training_script_without_a_training()],
        HOME="/",
        XDG_CACHE_HOME=str(workspace / ".cache"),
        CHECKPOINTS=checkpoints,
    )
    assert trained.returncode == 0, trained.stdout
    launched = succeeded(
        run_stage(
            stages.launch_trainjob,
            tmp_path / "launch",
            {"pvc_path": str(workspace), "training_config": prepared["training_config"]},
            OSFT_LAUNCHER="local",
        )
    )
    collected = succeeded(
        run_stage(
            stages.collect_metrics,
            tmp_path / "collect",
            {"checkpoint_dir": launched["checkpoint_dir"], "check_matrices": 1},
        )
    )
    succeeded(run_stage(stages.render_loss_chart, tmp_path / "render", {"metrics_path": collected["metrics_path"]}))
    succeeded(
        run_stage(
            stages.export_model,
            tmp_path / "export",
            {"checkpoint_dir": launched["checkpoint_dir"], "pvc_path": str(workspace)},
        )
    )
    assert (workspace / "final_model/model.safetensors").is_file()
    assert (tmp_path / "render/output_loss_chart").stat().st_size > 100_000
    # safetensors' files are their owner's alone; on a cluster the training script opens them to the group.
    closed = not_writable_by_the_group(Path(checkpoints))
    assert [path for path in closed if path.suffix != ".safetensors"] == []


def training_script_without_a_training() -> str:
    """What the training script does before it trains: it writes into the folder that preprocess has made."""
    return (
        "import os\n"
        "from kfp_osft.stages.launch_trainjob.train_script import share_with_stages, write_versions\n"
        "share_with_stages()\n"
        "write_versions(os.environ['CHECKPOINTS'])\n"
        "open(os.path.join(os.environ['HOME'], 'probe'), 'w').close()\n"
    )
