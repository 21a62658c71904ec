"""Training configs as preprocess makes them, for the tests of the code that uses them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kfp_osft.shared.files.manifests import fingerprint, write_manifest
from kfp_osft.shared.parameters.checking import check_parameters
from kfp_osft.shared.training.config import TrainingConfig


def training_config(pvc_path: str | Path = "/kfp-workspace", **parameters: Any) -> TrainingConfig:
    """What preprocess returns for these parameters, with the data in the workspace."""
    checked = check_parameters({"training_base_model": "org/model", **parameters})
    checkpoints = f"{pvc_path}/checkpoints/0123456789ab"
    osft = {
        **checked.osft,
        "data_path": f"{checkpoints}/_internal_data_processing/data.jsonl",
        "data_output_dir": f"{checkpoints}/_internal_data_processing",
        "ckpt_output_dir": checkpoints,
        "use_processed_dataset": True,
    }
    return TrainingConfig(
        "f" * 64,
        osft,
        checked.trainjob,
        checked.data,
        checked.env,
        {"base_model": "org/model", "dataset": "rows.jsonl", "samples": 32},
    )


def with_data(pvc_path: str | Path, **parameters: Any) -> TrainingConfig:
    """training_config with its data, one row, in the workspace."""
    config = training_config(pvc_path, **parameters)
    folder, made_from = Path(config.osft["data_output_dir"]), {"dataset": ["d" * 64]}
    folder.mkdir(parents=True)
    (folder / "data.jsonl").write_text('{"input_ids": [1], "labels": [1], "len": 1}\n')
    write_manifest(folder / "manifest.json", made_from, [folder / "data.jsonl"])
    return dataclasses.replace(config, data={**config.data, "made_from": fingerprint(made_from)})


def with_osft(config: TrainingConfig, **arguments: Any) -> TrainingConfig:
    """The config with other arguments of training_hub.osft."""
    return dataclasses.replace(config, osft={**config.osft, **arguments})


def task_config(**fields: Any) -> SimpleNamespace:
    """A TaskConfig as KFP's executor passes it: fields that are not given are None."""
    names = ("affinity", "tolerations", "node_selector", "env", "volumes", "volume_mounts", "resources")
    assert set(fields) <= set(names)
    return SimpleNamespace(**dict.fromkeys(names) | fields)


def workspace_task_config(folder: str | Path = "/kfp-workspace", **fields: Any) -> SimpleNamespace:
    """A TaskConfig with the workspace's PVC mounted at the folder."""
    volumes = [
        {"name": "kfp-workspace", "persistentVolumeClaim": {"claimName": "run-workspace"}},
        *fields.pop("volumes", []),
    ]
    mounts = [{"name": "kfp-workspace", "mountPath": str(folder)}, *fields.pop("volume_mounts", [])]
    return task_config(volumes=volumes, volume_mounts=mounts, **fields)
